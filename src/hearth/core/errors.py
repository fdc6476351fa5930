"""The one tree of errors.

    HearthError                     code, message, hint, retry_after
    ├── UserError                   the request is wrong; who sent it can mend it
    │   ├── InvalidInput            a field, a flag, a name, a header
    │   │   ├── InvalidName
    │   │   ├── InvalidManifest     function.yaml, with its line
    │   │   ├── InvalidSource       the uploaded archive, with the entry's name
    │   │   └── NotYetSupported     a known word whose feature isn't there yet
    │   ├── Unauthenticated         no credential, or a bad one
    │   ├── Forbidden               a member whose role may not do this
    │   ├── RegistrationClosed
    │   ├── NotFound
    │   ├── Conflict                the name is taken, the state has moved on
    │   └── TooLarge                a body, an archive
    ├── FunctionError               the function's own fault
    │   ├── FunctionFailed          its handler raised
    │   ├── FunctionTimeout
    │   ├── FunctionCrashed         it exited, or was killed by a signal or for memory
    │   ├── FunctionLoadFailed      it could not be imported or started
    │   ├── FunctionBadResponse     its answer makes no sense
    │   └── BuildFailed
    ├── Overloaded                  try again later
    │   ├── QueueFull
    │   └── RateLimited
    ├── Cancelled                   the client went away
    └── PlatformError               ours
        ├── NoCapacity
        ├── Draining
        ├── StoreUnavailable
        ├── ControlUnavailable
        ├── KeeperUnavailable
        ├── SandboxFailed           a sandbox could not be made
        ├── LimitUnenforceable      this machine can't hold what is asked
        ├── StaleLease              somebody else owns the work now
        ├── StartupFailed           `hearth up` can't go on
        └── ProtocolViolation       a peer broke a protocol of ours

There is no HTTP in it: statuses live in `web/errors.py` and `gateway/errors.py`, exit codes in
`cli/errors.py`. Every class has a `code`, the stable word that a program may depend on.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

Source = Literal["function", "platform", "request"]


class HearthError(Exception):
    """Base of every error that a person may see.

    Args:
        message: what happened, one sentence, without the platform's internals.
        hint: what to do about it, or None.
        retry_after: seconds after which trying again makes sense, or None.
        details: facts for a program (JSON types only), such as ``{"line": 3}``.
    """

    code: ClassVar[str] = "error"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        retry_after: float | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after = retry_after
        self.details = details or {}


class UserError(HearthError):
    code = "bad_request"


class InvalidInput(UserError):
    code = "invalid_input"


class InvalidName(InvalidInput):
    code = "invalid_name"


class InvalidManifest(InvalidInput):
    code = "invalid_manifest"


class InvalidSource(InvalidInput):
    code = "invalid_source"


class NotYetSupported(InvalidInput):
    code = "not_yet_supported"


class Unauthenticated(UserError):
    code = "unauthenticated"


class Forbidden(UserError):
    code = "forbidden"


class RegistrationClosed(UserError):
    code = "registration_closed"


class NotFound(UserError):
    code = "not_found"


class Conflict(UserError):
    code = "conflict"


class TooLarge(UserError):
    code = "too_large"


class FunctionError(HearthError):
    code = "function_error"


class FunctionFailed(FunctionError):
    code = "function_failed"


class FunctionTimeout(FunctionError):
    code = "function_timeout"


class FunctionCrashed(FunctionError):
    code = "function_crashed"


class FunctionLoadFailed(FunctionError):
    code = "function_load_failed"


class FunctionBadResponse(FunctionError):
    code = "function_bad_response"


class BuildFailed(FunctionError):
    code = "build_failed"


class Overloaded(HearthError):
    code = "overloaded"


class QueueFull(Overloaded):
    code = "queue_full"


class RateLimited(Overloaded):
    code = "rate_limited"


class Cancelled(HearthError):
    code = "cancelled"


class PlatformError(HearthError):
    code = "platform_error"


class NoCapacity(PlatformError):
    code = "no_capacity"


class Draining(PlatformError):
    code = "draining"


class StoreUnavailable(PlatformError):
    code = "store_unavailable"


class ControlUnavailable(PlatformError):
    code = "control_unavailable"


class KeeperUnavailable(PlatformError):
    code = "keeper_unavailable"


class SandboxFailed(PlatformError):
    code = "sandbox_failed"


class LimitUnenforceable(PlatformError):
    code = "limit_unenforceable"


class StaleLease(PlatformError):
    code = "stale_lease"


class StartupFailed(PlatformError):
    code = "startup_failed"


class ProtocolViolation(PlatformError):
    code = "protocol_violation"


def error_classes() -> dict[str, type[HearthError]]:
    """Every class of the tree by its code, for peers that send errors as data.

    Closer kinds that other rooms derive for their own use share a code with their parent and are not among them.
    """
    found: dict[str, type[HearthError]] = {}
    waiting: list[type[HearthError]] = [HearthError]
    while waiting:
        cls = waiting.pop()
        found[cls.code] = cls
        waiting.extend(child for child in cls.__subclasses__() if child.__module__ == __name__)
    return found


def source_of(error: HearthError) -> Source:
    """Whose fault it is: the function's, the request's, or (all else) the platform's."""
    return _source(type(error))


def sources_by_code() -> dict[str, Source]:
    """Whose fault each code means, of every class that is loaded, the kinds that other rooms derive among them."""
    found: dict[str, Source] = {}
    waiting: list[type[HearthError]] = [HearthError]
    while waiting:
        cls = waiting.pop()
        found[cls.code] = _source(cls)
        waiting.extend(cls.__subclasses__())
    return found


def _source(cls: type[HearthError]) -> Source:
    if issubclass(cls, FunctionError):
        return "function"
    return "request" if issubclass(cls, UserError | Cancelled) else "platform"


def error_to_data(error: HearthError) -> dict[str, Any]:
    """An error as a JSON object that `error_from_data` reads back."""
    return {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "retry_after": error.retry_after,
        "details": error.details,
    }


def error_from_data(data: dict[str, Any]) -> HearthError:
    """The error that a peer sent; an unknown code becomes a PlatformError."""
    cls = error_classes().get(str(data.get("code")), PlatformError)
    return cls(
        str(data.get("message") or "unknown error"),
        hint=data.get("hint"),
        retry_after=data.get("retry_after"),
        details=data.get("details") or {},
    )
