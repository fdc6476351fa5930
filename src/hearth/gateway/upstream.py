"""The way to control: HTTP/1.1 over its Unix socket, connections kept and used again, bodies streamed both ways."""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from typing import Protocol, cast

import httptools

from hearth.core.errors import ControlUnavailable

IDLE_MAX = 16  # connections kept
IDLE_FOR = 3.0  # seconds; less than control keeps its own side (uvicorn: 5)
CONNECT_TIMEOUT = 2.0
_WRITE_HIGH = 256 << 10


class Listener(Protocol):
    """Who waits for control's answer."""

    def on_head(self, status: int, fields: list[tuple[bytes, bytes]], sized: bool) -> None:
        """The answer's head; `sized`: it has a Content-Length, or no body at all."""
        ...

    def on_continue(self) -> None:
        """100 Continue."""
        ...

    def on_data(self, data: bytes) -> None: ...

    def on_done(self) -> None:
        """The answer is complete. The connection takes care of itself."""
        ...

    def on_lost(self) -> None:
        """Control is gone in the middle of it, or speaks nonsense."""
        ...

    def on_room(self) -> None:
        """Control has taken what was written, after `UpstreamConnection.full`."""
        ...


class UpstreamConnection(asyncio.Protocol):
    """One connection to control; serves one listener at a time."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self.transport: asyncio.Transport
        self.full = False
        self.idle_since = 0.0
        self.closed = False
        self._listener: Listener | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._fields: list[tuple[bytes, bytes]] = []
        self._interim = False
        self._sent_whole = False  # all of the request has been written
        self._head_only = False

    def begin(self, listener: Listener, head: bytes, head_only: bool) -> None:
        """Send a request's head. `head_only`: the answer to HEAD has no body whatever it says."""
        self._listener = listener
        self._head_only = head_only
        self._sent_whole = False
        self._fields = []
        self._parser = httptools.HttpResponseParser(
            self
        )  # it can't be told of HEAD: a fresh one is left in step
        self.transport.write(head)

    def write(self, data: bytes) -> None:
        """More of the request's body, framed."""
        self.transport.write(data)

    def sent(self) -> None:
        """The request is complete."""
        self._sent_whole = True

    def abort(self) -> None:
        """Nobody waits any more."""
        self._listener = None
        self.closed = True
        self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_WRITE_HIGH)

    def data_received(self, data: bytes) -> None:
        if self._listener is None:
            self.abort()  # an answer to nothing
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._lost()

    def eof_received(self) -> bool:
        try:
            self._parser.feed_data(b"")  # a body that ends with the connection
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._lost()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._upstream.forget(self)
        self._lost()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self._listener is not None:
            self._listener.on_room()

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        fields, self._fields = self._fields, []
        self._interim = status < 200
        listener = self._listener
        if listener is None:
            return
        if self._interim:
            if status == 100:
                listener.on_continue()
            return
        names = {name for name, _ in fields}
        empty = self._head_only or status in (204, 304)
        listener.on_head(status, fields, empty or b"content-length" in names)
        if self._head_only:
            self._done(False)

    def on_body(self, data: bytes) -> None:
        if self._listener is not None:
            self._listener.on_data(data)

    def on_message_complete(self) -> None:
        if not self._interim and self._listener is not None:
            self._done(self._parser.should_keep_alive())

    def _done(self, keep: bool) -> None:
        listener, self._listener = self._listener, None
        if keep and self._sent_whole and not self.closed:
            self._upstream.keep(self)
        else:
            self.closed = True
            self.transport.close()
        if listener is not None:
            listener.on_done()

    def _lost(self) -> None:
        listener, self._listener = self._listener, None
        if not self.closed:
            self.closed = True
            self.transport.abort()
        if listener is not None:
            listener.on_lost()


class Upstream:
    """Connections to control.

    Args:
        path: its Unix socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: deque[UpstreamConnection] = deque()
        self._all: set[UpstreamConnection] = set()

    def take(self) -> UpstreamConnection | None:
        """A connection that is up and idle, or None."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.closed:
                continue
            if now - connection.idle_since < IDLE_FOR:
                return connection
            connection.abort()
        return None

    async def connect(self) -> UpstreamConnection:
        """A fresh connection. Raises ControlUnavailable."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, connection = await loop.create_unix_connection(
                    lambda: UpstreamConnection(self), str(self._path)
                )
        except (OSError, TimeoutError):
            raise ControlUnavailable(
                "the management part of this server does not answer",
                hint="functions are served meanwhile; try again in a moment",
                retry_after=1,
            ) from None
        self._all.add(connection)
        return connection

    def keep(self, connection: UpstreamConnection) -> None:
        """Its answer is complete: use it again."""
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)
        if len(self._idle) > IDLE_MAX:
            self._idle.popleft().abort()

    def forget(self, connection: UpstreamConnection) -> None:
        """It is gone."""
        self._all.discard(connection)

    async def close(self) -> None:
        """Cut all of them."""
        for connection in list(self._all):
            connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # their transports close at the loop's next turn
