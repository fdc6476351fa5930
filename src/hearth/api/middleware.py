"""What surrounds every endpoint: the request's id, and the limit of its body. Plain ASGI, so that bodies stream."""

from __future__ import annotations

import logging
import re
import secrets

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hearth.api.errors import answer, fault
from hearth.core.errors import TooLarge
from hearth.core.limits import JSON_BODY_MAX, format_size

_log = logging.getLogger(__name__)
REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}\Z")
_STREAMED = re.compile(r"/api/v1/functions/[^/]+/[^/]+/versions\Z")  # uploads: they have a limit of their own


class RequestIds:
    """Give every request an id: its own when it is well-formed, else a new one. It stands on the answer and in errors.

    Being the outermost, it answers what nothing else caught.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if REQUEST_ID.match(given) else f"req_{secrets.token_hex(12)}"
        scope["hearth.request_id"] = request_id

        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers.setdefault(
                    "Cache-Control", "no-store"
                )  # answers hold tokens and what only members may see
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:  # a fault of the program: logged with all we know, told with nothing of it
            _log.exception("%s %s failed, request %s", scope["method"], scope["path"], request_id)
            if started:
                raise  # the server cuts the connection: the only way left to say that the answer is not whole
            await fault(request_id)(scope, receive, send_with_id)


class BodyLimit:
    """Refuse bodies over the limit: by their Content-Length before a byte is read, else when they get there."""

    def __init__(self, app: ASGIApp, limit: int = JSON_BODY_MAX) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"] == "POST" and _STREAMED.match(scope["path"])):
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._limit:
            await answer(self._error(), scope.get("hearth.request_id"))(scope, receive, send)
            return
        read = 0

        async def receive_counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                raise self._error()  # FastAPI wraps it; api.errors unwraps it
            return message

        await self._app(scope, receive_counted, send)

    def _error(self) -> TooLarge:
        return TooLarge(
            f"the body is larger than {format_size(self._limit)}",
            hint="only sources are that large: hearth deploy",
        )
