"""What can be wrong with HTTP itself: leaves of the error tree that only the gateway knows, and their statuses."""

from __future__ import annotations

from hearth.core import errors
from hearth.web.errors import status_of as shared_status


class Malformed(errors.InvalidInput):
    """The bytes are not one clear HTTP/1.1 request (RFC 9112). The connection is closed: its framing can't be trusted."""

    code = "malformed_request"


class UriTooLong(errors.TooLarge):
    code = "uri_too_long"


class HeadersTooLarge(errors.TooLarge):
    code = "headers_too_large"


class RequestTimeout(errors.UserError):
    """The client was too slow in sending its request."""

    code = "request_timeout"


class MethodNotAllowed(errors.UserError):
    code = "method_not_allowed"


class CallsTooDeep(errors.UserError):
    """Functions call functions on and on."""

    code = "calls_too_deep"


class NotServedYet(errors.NotYetSupported):
    """A URL whose feature isn't there yet."""

    code = "not_yet_supported"


STATUSES: dict[type[errors.HearthError], int] = {
    Malformed: 400,
    UriTooLong: 414,
    HeadersTooLarge: 431,
    RequestTimeout: 408,
    MethodNotAllowed: 405,
    NotServedYet: 501,
    CallsTooDeep: 508,
}


def status_of(error: errors.HearthError) -> int:
    """The HTTP status of an error of the tree or of this module."""
    return STATUSES.get(type(error)) or shared_status(error)


_PLAIN: tuple[tuple[type[errors.FunctionError], str], ...] = (
    (errors.FunctionFailed, "the function raised an error"),
    (errors.FunctionLoadFailed, "the function could not be loaded"),
    (errors.FunctionCrashed, "the function crashed"),
    (errors.FunctionBadResponse, "the function's answer makes no sense"),
)


def for_strangers(error: errors.HearthError) -> errors.HearthError:
    """The same error without what the function said of itself: its texts and traceback are for its members."""
    for cls, text in _PLAIN:
        if isinstance(error, cls):
            return cls(text, hint="its owner finds the reason in its logs", retry_after=error.retry_after)
    if error.details and not isinstance(error, errors.UserError):
        return type(error)(error.message, hint=error.hint, retry_after=error.retry_after)
    return error
