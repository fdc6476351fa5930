"""The error tree over HTTP: one table of statuses, one body, one Retry-After. Both `api` and `gateway` answer with these."""

from __future__ import annotations

import json
import math
from typing import Any

from hearth.core import errors
from hearth.core.errors import source_of as source_of  # part of what this module offers

# Nothing but classes of the tree. A class that is not listed has its nearest listed ancestor's status; a test walks the
# tree and demands that each class is listed, so that nobody forgets to think about a new one.
STATUSES: dict[type[errors.HearthError], int] = {
    errors.HearthError: 500,
    errors.UserError: 400,
    errors.InvalidInput: 400,
    errors.InvalidName: 400,
    errors.InvalidManifest: 400,
    errors.InvalidSource: 400,
    errors.NotYetSupported: 400,  # a key or a field; for a URL that will be, the gateway says 501
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.RegistrationClosed: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.TooLarge: 413,
    errors.FunctionError: 502,
    errors.FunctionFailed: 502,
    errors.FunctionTimeout: 504,
    errors.FunctionCrashed: 502,
    errors.FunctionLoadFailed: 502,
    errors.FunctionBadResponse: 502,
    errors.BuildFailed: 422,
    errors.Overloaded: 429,
    errors.QueueFull: 429,
    errors.RateLimited: 429,
    errors.Cancelled: 499,  # nobody reads it: the client has gone (nginx's number, in records and metrics)
    errors.PlatformError: 500,
    errors.NoCapacity: 503,
    errors.Draining: 503,
    errors.StoreUnavailable: 503,
    errors.ControlUnavailable: 503,
    errors.KeeperUnavailable: 503,
    errors.SandboxFailed: 503,
    errors.LimitUnenforceable: 422,
    errors.StaleLease: 409,
    errors.StartupFailed: 500,
    errors.ProtocolViolation: 502,
}
_RETRYABLE = frozenset({429, 503})
_RETRY_DEFAULT = 1.0  # seconds; what a caller who may try again is told when the error does not say


def status_of(error: errors.HearthError) -> int:
    """The HTTP status of an error: its class's, or its nearest listed ancestor's."""
    for cls in type(error).__mro__:
        status = STATUSES.get(cls)
        if status is not None:
            return status
    return 500


def retry_after(error: errors.HearthError) -> int | None:
    """Whole seconds for ``Retry-After`` (RFC 9110, section 10.2.3), at least 1; None when trying again makes no sense."""
    if error.retry_after is None and status_of(error) not in _RETRYABLE:
        return None
    return max(1, math.ceil(_RETRY_DEFAULT if error.retry_after is None else error.retry_after))


def error_body(error: errors.HearthError, request_id: str | None) -> bytes:
    """The JSON body: ``{"error": {code, message, hint, source, request_id, details}}``, as `wire.ErrorAnswer` reads it."""
    body: dict[str, Any] = {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "source": source_of(error),
        "request_id": request_id,
    }
    if error.details:
        body["details"] = error.details
    return json.dumps({"error": body}, ensure_ascii=False, separators=(",", ":")).encode()
