"""One SOCK_SEQPACKET connection on an event loop: whole messages, descriptors beside them, both ways."""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from hearth.core.errors import ProtocolViolation
from hearth.protocol.keeper import MESSAGE_MAX, pack, unpack

_FDS_MAX = 4
_BACKLOG_MAX = 1024  # messages waiting for a peer that doesn't read


class Channel:
    """Sends and receives messages; closes itself at the first error.

    Args:
        sock: connected, of type SOCK_SEQPACKET; taken over.
        on_message: called with each message and the descriptors that came with it, which it then owns.
        on_closed: called once.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[dict[str, Any], list[int]], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._sock = sock
        self._sock.setblocking(False)
        self._on_message = on_message
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[bytes, list[int]]] = deque()
        self.closed = False
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        """Send a message; the descriptors are closed here once they have gone. Silently drops on a closed channel."""
        fds = fds or []
        if self.closed:
            _close_all(fds)
            return
        try:
            data = pack(message)
        except ProtocolViolation:
            _close_all(fds)
            raise
        self._waiting.append((data, fds))
        if len(self._waiting) > _BACKLOG_MAX:
            self.close()
        elif len(self._waiting) == 1:
            self._writable()

    def _writable(self) -> None:
        while self._waiting:
            data, fds = self._waiting[0]
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                self._sock.sendmsg([data], ancillary)
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._writable)
                return
            except OSError:
                self.close()
                return
            self._waiting.popleft()
            _close_all(fds)
        self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        for _ in range(64):  # then let others have the loop
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(
                    MESSAGE_MAX,
                    socket.CMSG_SPACE(_FDS_MAX * array.array("i").itemsize),
                    socket.MSG_CMSG_CLOEXEC,
                )
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            fds = _received(ancillary)
            if not data or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                _close_all(fds)
                self.close()
                return
            try:
                message = unpack(data)
            except ProtocolViolation:
                _close_all(fds)
                self.close()
                return
            self._on_message(message, fds)
            if self.closed:
                return

    def close(self) -> None:
        """Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        while self._waiting:
            _close_all(self._waiting.popleft()[1])
        self._on_closed()


def _received(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
