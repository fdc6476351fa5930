"""Whatever goes wrong in an endpoint, as the one error body of PRODUCT."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from hearth.core.errors import HearthError, InvalidInput, NotFound, PlatformError
from hearth.web.errors import error_body, retry_after, status_of

_log = logging.getLogger(__name__)
_PROBLEMS_MAX = 20


def install(app: FastAPI) -> None:
    """Have every error that endpoints raise answered in the one form. (`middleware.RequestIds` has the rest: faults.)"""
    app.add_exception_handler(HearthError, _on_ours)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)


def answer(error: HearthError, request_id: str | None, status: int | None = None) -> Response:
    """The response for an error of the tree; `status` only where HTTP knows better than the tree (405)."""
    headers = {"X-Hearth-Error": error.code}
    status = status or status_of(error)
    seconds = retry_after(error)
    if seconds is not None:
        headers["Retry-After"] = str(seconds)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(error_body(error, request_id), status, headers, "application/json")


def invalid(problems: list[Any]) -> InvalidInput:
    """What pydantic found, by field. The values are left out: one of them may be a password."""
    fields = [
        {
            "field": ".".join(str(part) for part in problem["loc"][1:]) or "body",
            "problem": str(problem["msg"]),
        }
        for problem in problems[:_PROBLEMS_MAX]
    ]
    first = fields[0]
    return InvalidInput(
        f"{first['field']}: {first['problem'][:1].lower()}{first['problem'][1:]}",
        hint="the fields of every request are listed at /api/docs",
        details={"fields": fields},
    )


def _id(request: Request) -> str | None:
    found: str | None = request.scope.get("hearth.request_id")
    return found


async def _on_ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, HearthError)
    if isinstance(error, PlatformError):
        _log.error("%s %s: %s", request.method, request.url.path, error)
    return answer(error, _id(request))


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return answer(invalid(list(error.errors())), _id(request))


async def _on_http(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: no such path, no such method, a body that is no JSON."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, HearthError):  # ours, raised while the framework read the body
        return answer(error.__cause__, _id(request))
    if error.status_code == 404:
        return answer(
            NotFound(f"there is no {request.url.path[:200]!a}", hint="every path is listed at /api/docs"),
            _id(request),
        )
    if error.status_code == 405:
        problem = InvalidInput(
            f"{request.method} is not understood here", hint="every method is listed at /api/docs"
        )
        response = answer(problem, _id(request), 405)
        if error.headers and "Allow" in error.headers:  # RFC 9110, section 15.5.6
            response.headers["Allow"] = error.headers["Allow"]
        return response
    return answer(InvalidInput("the request is not understood", hint="send JSON in UTF-8"), _id(request))


def fault(request_id: str | None) -> Response:
    """The answer to a fault of ours: its caller gets only the id to ask by; the traceback is for the log."""
    problem = PlatformError(
        "something went wrong in Hearth itself", hint="its log has more, under this request_id"
    )
    return answer(problem, request_id)
