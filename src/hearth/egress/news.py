"""What the resolver is told of sandboxes that have sockets of their own for look-ups."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from hearth.ports.egress import LookUp


class News:
    """See `ports.egress.LookUps`."""

    def __init__(self, forget: Callable[[News], None]) -> None:
        self._forget = forget
        self._waiting: asyncio.Queue[tuple[str, tuple[socket.socket, ...] | None]] = asyncio.Queue()

    def add(self, sandbox: str, sockets: tuple[socket.socket, ...]) -> None:
        self._waiting.put_nowait((sandbox, sockets))

    def remove(self, sandbox: str) -> None:
        self._waiting.put_nowait((sandbox, None))

    async def next(self) -> LookUp:
        while True:
            sandbox, sockets = await self._waiting.get()
            if sockets is None:
                return LookUp(sandbox, None)
            if sockets[0].fileno() >= 0:  # else it has gone meanwhile, which comes next
                return LookUp(sandbox, tuple(os.dup(sock.fileno()) for sock in sockets))

    def close(self) -> None:
        self._forget(self)
