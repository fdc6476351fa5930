"""What an answer says went wrong, as an error of the one tree."""

from __future__ import annotations

import json
from typing import Any

from hearth.core.errors import FunctionError, HearthError, PlatformError, UserError, error_classes

_BY_SOURCE: dict[str, type[HearthError]] = {"request": UserError, "function": FunctionError}


def error_from_body(body: bytes, *, status: int, server: str, retry_after: str | None = None) -> HearthError:
    """Read ``{"error": {...}}``.

    A code that this version doesn't know becomes the branch of the tree that its `source` names, with the code in
    `details`. An answer that isn't Hearth's (a proxy's page) is a PlatformError that says so.

    Args:
        body: the answer's body, as much as was read.
        status: its HTTP status, for the message only.
        server: the server's URL, for the message only.
        retry_after: the Retry-After header; a date in it is ignored.
    """
    try:
        error = json.loads(body)["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        return PlatformError(
            f"{server} answered {status}, and not in Hearth's words",
            hint="check that --server is a Hearth platform and what stands before it",
        )
    details: dict[str, Any] = dict(error.get("details") or {})
    if error.get("request_id"):
        details.setdefault("request_id", error["request_id"])
    cls = error_classes().get(code)
    if cls is None:
        cls = _BY_SOURCE.get(str(error.get("source")), PlatformError)
        details["code"] = code
    seconds = float(retry_after) if retry_after is not None and retry_after.isdigit() else None
    return cls(message, hint=error.get("hint"), retry_after=seconds, details=details)
