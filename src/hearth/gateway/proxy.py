"""One request that is not a function's: streamed to control and its answer streamed back."""

from __future__ import annotations

import asyncio

from hearth.core import limits
from hearth.core.errors import ControlUnavailable, HearthError
from hearth.gateway.connection import Connection
from hearth.gateway.errors import RequestTimeout
from hearth.gateway.forwarded import origin
from hearth.gateway.heads import status_line
from hearth.gateway.local import LOCAL, is_local
from hearth.gateway.request import Request
from hearth.gateway.shared import Shared
from hearth.gateway.upstream import UpstreamConnection

HEAD_TIMEOUT = 120.0  # seconds that control may take for the head of an answer, once it has the request
STREAM_TIMEOUT = 900.0  # seconds that a stream of its may be silent (a followed log)
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_OURS = frozenset((b"date", b"server", b"x-request-id"))
_PASSED = (
    b"authorization",
    b"cookie",
)  # of the special headers; X-Hearth-… are control's own affair, X-Forwarded-… ours


class ProxyCall:
    """A request on its way to control (`connection.Handler`, `upstream.Listener`)."""

    __slots__ = (
        "_answering",
        "_body",
        "_chunked",
        "_connection",
        "_ended",
        "_framed",
        "_fresh",
        "_request",
        "_request_id",
        "_shared",
        "_task",
        "_upstream",
        "_whole",
    )

    def __init__(self, shared: Shared, connection: Connection, request: Request, request_id: bytes) -> None:
        self._shared = shared
        self._connection = connection
        self._request = request
        self._request_id = request_id
        self._upstream: UpstreamConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._body: list[bytes] = []  # until there is a connection to control
        self._whole = False  # all of the request's body has been given on
        self._framed = request.length is None  # the request's body goes on in chunks
        self._fresh = True
        self._answering = False
        self._chunked = False
        self._ended = False

    def begin(self) -> None:
        """Find a connection to control and send the head."""
        self._connection.expires = self._shared.now() + HEAD_TIMEOUT
        upstream = self._shared.upstream.take()
        if upstream is not None:
            self._fresh = False
            return self._send(upstream)
        return self._dial()

    def _dial(self) -> None:
        self._fresh = True
        if not self._request.complete:
            self._connection.pause_body()
        self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            upstream = await self._shared.upstream.connect()
        except HearthError as error:
            self._task = None
            self._fail(error)
            return
        self._task = None
        if self._ended:
            upstream.abort()
            return
        self._connection.resume_body()
        self._send(upstream)

    def _send(self, upstream: UpstreamConnection) -> None:
        self._upstream = upstream
        request = self._request
        upstream.begin(self, self._head(), request.method == b"HEAD")
        body = b"".join(self._body) + request.take_body()
        self._body = []
        if body or request.complete:
            self._forward(body, request.complete)

    def _head(self) -> bytes:
        request, special = self._request, self._request.special
        client, scheme, host, _ = origin(self._connection, request)
        lines = [
            b"%b %b HTTP/1.1" % (request.method, request.target),
            b"host: " + (request.host or b"localhost"),
            b"x-request-id: " + self._request_id,
            b"x-forwarded-for: " + client,
            b"x-forwarded-proto: " + scheme,
            b"x-forwarded-host: " + host,
        ]
        lines += [name + b": " + special[name] for name in _PASSED if name in special]
        for name, value in special.items():
            if name[:9] == b"x-hearth-" and name != LOCAL:
                lines.append(name + b": " + value)
        if is_local(self._connection, request):
            lines.append(LOCAL + b": 1")
        lines += request.lines
        if request.length is None:
            lines.append(b"transfer-encoding: chunked")
        elif request.length or b"content-length" in special:
            lines.append(b"content-length: %d" % request.length)
        if request.expects:
            lines.append(b"expect: 100-continue")
        return b"\r\n".join(lines) + b"\r\n\r\n"

    # connection.Handler

    def body(self, data: bytes, end: bool) -> None:
        if self._upstream is None:
            self._body.append(data)
            self._connection.pause_body()
        elif not self._ended:
            self._forward(data, end)

    def broken(self, error: HearthError) -> None:
        self._fail(error)

    def gone(self) -> None:
        self._drop()

    def drained(self) -> None:
        if self._upstream is not None and not self._upstream.closed:
            self._upstream.transport.resume_reading()

    def expire(self, now: float) -> None:
        if not self._request.complete:
            self._fail(RequestTimeout("the body did not come in time"))
        else:
            self._fail(ControlUnavailable("the management part of this server did not answer", retry_after=1))

    # upstream.Listener

    def on_head(self, status: int, fields: list[tuple[bytes, bytes]], sized: bool) -> None:
        connection, request = self._connection, self._request
        self._answering = True
        connection.expires = self._shared.now() + STREAM_TIMEOUT
        named = b",".join(value for name, value in fields if name == b"connection").lower().split(b",")
        dropped = _HOP_BY_HOP | _OURS | {name.strip(b" \t") for name in named}
        lines = b"".join(b"%b: %b\r\n" % field for field in fields if field[0] not in dropped)
        closing = connection.closing_header(request)
        if not sized:
            if request.http10:
                request.keep_alive = False
                closing = b"connection: close\r\n"
            else:
                self._chunked = True
                closing += b"transfer-encoding: chunked\r\n"
        connection.write(
            b"%b%bdate: %b\r\nx-request-id: %b\r\n%b\r\n"
            % (status_line(status), lines, self._shared.date, self._request_id, closing)
        )

    def on_continue(self) -> None:
        if not self._answering:
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_data(self, data: bytes) -> None:
        connection = self._connection
        connection.expires = self._shared.now() + STREAM_TIMEOUT
        connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        if connection.full and self._upstream is not None:
            self._upstream.transport.pause_reading()

    def on_done(self) -> None:
        if self._ended:
            return
        self._ended = True
        if self._chunked:
            self._connection.write(b"0\r\n\r\n")
        self._connection.answered(self._request, self._shared.now())

    def on_lost(self) -> None:
        request = self._request
        if not self._fresh and not self._answering and not request.size and request.complete:
            # Control closed a kept connection just as it was used; nothing of this request has been acted upon
            # (RFC 9112, section 9.3.1), and without a body it can be sent again.
            self._upstream = None
            self._dial()
            return
        self._fail(ControlUnavailable("the management part of this server has gone away", retry_after=1))

    def on_room(self) -> None:
        self._connection.resume_body()

    # Inside.

    def _forward(self, data: bytes, end: bool) -> None:
        upstream = self._upstream
        assert upstream is not None
        if self._framed and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if end:
            self._whole = True
            if self._framed:
                data += b"0\r\n\r\n"
        if data:
            upstream.write(data)
        if end:
            upstream.sent()
        timeout = HEAD_TIMEOUT if end else limits.BODY_TIMEOUT
        self._connection.expires = self._shared.now() + timeout
        if upstream.full and not end:
            self._connection.pause_body()

    def _fail(self, error: HearthError) -> None:
        if self._ended:
            return
        self._drop()
        if self._answering:
            self._connection.cut()
        else:
            self._shared.answer_error(self._connection, self._request, error, self._request_id)

    def _drop(self) -> None:
        self._ended = True
        if self._task is not None:
            self._task.cancel()
        if self._upstream is not None:
            self._upstream.abort()
