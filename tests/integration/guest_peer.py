"""The guest's end of the protocol, byte by byte, for tests of the host side."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any

from hearth.core.errors import HearthError
from hearth.guest.connection import GuestConnection
from hearth.guest.factory import StreamGuests
from hearth.testing.clock import FakeClock

HELLO = b'{"version":1,"runtime":"test","features":[],"window":262144,"pid":1}'


def frame(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack(">IBBI", len(payload), kind, flags, stream) + payload


class Listener:
    """An exchange that writes down what it hears."""

    def __init__(self) -> None:
        self.status = 0
        self.head = b""
        self.body = b""
        self.trailers: bytes | None = None
        self.error: HearthError | None = None
        self.detail: dict[str, Any] | None = None
        self.writable = asyncio.Event()
        self.released = asyncio.Event()
        self.over = asyncio.Event()

    def on_response(self, status: int, head: bytes, body: bytes, end: bool) -> None:
        self.status, self.head = status, head
        self.on_body(body, end)

    def on_body(self, data: bytes, end: bool) -> None:
        assert not self.over.is_set()
        self.body += data
        if end:
            self.over.set()

    def on_trailers(self, head: bytes) -> None:
        self.trailers = head
        self.over.set()

    def on_failed(self, error: HearthError, detail: dict[str, Any] | None) -> None:
        assert not self.over.is_set()
        self.error, self.detail = error, detail
        self.over.set()

    def on_writable(self) -> None:
        self.writable.set()

    def on_released(self) -> None:
        self.released.set()


class Peer:
    """The guest that the test plays, and the host side on the other end."""

    def __init__(self, guest: GuestConnection, sock: socket.socket, closed: asyncio.Event) -> None:
        self.guest = guest
        self.sock = sock
        self.closed = closed
        self.logs: list[tuple[Any, ...]] = []
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(self.sock, data)
        except (BrokenPipeError, ConnectionResetError):
            assert self.guest.closed

    async def frame(self) -> tuple[int, int, int, bytes]:
        """The next frame from the host."""
        while True:
            if len(self._buffer) >= 10:
                length, kind, flags, stream = struct.unpack_from(">IBBI", self._buffer)
                if len(self._buffer) >= 10 + length:
                    payload = self._buffer[10 : 10 + length]
                    self._buffer = self._buffer[10 + length :]
                    return kind, flags, stream, payload
            data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 20)
            assert data, "the host hung up"
            self._buffer += data

    async def until(self, kind: int) -> tuple[int, int, int, bytes]:
        while True:
            found = await self.frame()
            if found[0] == kind:
                return found


async def connect(hello: bytes = HELLO, stall: float = 30.0, ready: bool = True) -> Peer:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    clock = FakeClock()
    closed = asyncio.Event()
    logs: list[tuple[Any, ...]] = []
    theirs.send(frame(1, 0, hello))
    try:
        guest = await StreamGuests(clock, stall).open(
            ours.detach(), clock.monotonic() + 5, lambda *line: logs.append(line), closed.set
        )
    except BaseException:
        theirs.close()
        raise
    peer = Peer(guest, theirs, closed)
    peer.logs = logs
    kind, _, _, greeting = await peer.frame()
    assert kind == 1 and json.loads(greeting) == {
        "version": 1,
        "features": [],
        "window": 262144,
        "log_window": 1048576,
    }
    if ready:
        loading = asyncio.ensure_future(guest.load({"code": "/x"}, clock.monotonic() + 5))
        assert (await peer.frame())[0] == 2
        await peer.send(frame(3, 0, b'{"handler":"handler.handler","shape":"lambda"}'))
        assert await loading == {"handler": "handler.handler", "shape": "lambda"}
    return peer


def head(method: str = "GET") -> bytes:
    return f"inv_1\n1000\n{method}\n/\n/fn/a/b\n\n127.0.0.1\nhttp".encode()
