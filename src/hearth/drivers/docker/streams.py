"""What a container prints, from the daemon's one stream into two pipes; its input, which lets the program start.

Frames: stream (1 byte), 3 zeros, length (4 bytes, big endian), bytes (Engine API, "Attach to a container"). The bytes are spliced: this process
reads the heads only. A pipe that nobody empties is waited for, and by that the program that prints; nothing is kept here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket

_HEAD = 8
_CHUNK = 256 << 10
_TURN = 16  # steps before others have their turn
_HELD_MAX = 4096


class Streams:
    """Args:
    sock: of `Engine.attach`; this object's from now on.

    `take` gives the pipes' read ends, once.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock: socket.socket | None = sock
        self._loop = asyncio.get_running_loop()
        self._head = b""
        self._left = 0
        self._target = 0
        self._writers: dict[int, int] = {}
        self._readers: dict[int, int] = {}
        for stream in (1, 2):
            self._readers[stream], self._writers[stream] = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._waiting: int | None = None  # the pipe that has no room
        self._reading = False
        self.ended = asyncio.Event()

    async def first_line(self) -> str:
        """What is printed before the program is let on: one line on stdout, or what was said on stderr until the end."""
        said = {1: b"", 2: b""}
        while b"\n" not in said[1] and len(said[1]) + len(said[2]) < _HELD_MAX:
            head = await self._exactly(_HEAD)
            part = await self._exactly(int.from_bytes(head[4:8], "big")) if head else b""
            if not head:
                return (
                    said[2].decode("utf-8", "replace").strip() or said[1].decode("utf-8", "replace").strip()
                )
            said[head[0] if head[0] in said else 2] += part
        return said[1].decode("utf-8", "replace").strip()

    async def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size and self._sock is not None:
            part = await self._loop.sock_recv(self._sock, min(size - len(data), _HELD_MAX))
            if not part:
                return b""
            data += part
        return data

    async def release(self) -> None:
        """Let the program start, with nothing on its input; from now on its output flows. Raises OSError."""
        if self._sock is not None:
            await self._loop.sock_sendall(self._sock, b"\n")
            self._sock.shutdown(socket.SHUT_WR)
            self._read_on()

    def again(self, sock: socket.socket) -> None:
        """Go on with another connection to the same container: the first one broke with its daemon."""
        if self._sock is not None or not self._writers:
            sock.close()
            return
        self._sock, self._head, self._left = sock, b"", 0
        self.ended.clear()
        self._read_on()

    def take(self) -> tuple[int, int] | None:
        """The read ends of stdout and stderr, the caller's from now on; None when they were taken before."""
        if not self._readers:
            return None
        taken = self._readers[1], self._readers[2]
        self._readers.clear()
        return taken

    def said(self, size: int = 600) -> str:
        """What is in stderr's pipe now, on one line; for a start that failed."""
        data = b""
        if 2 in self._readers:
            with contextlib.suppress(BlockingIOError):
                data = os.read(self._readers[2], 65536)
        return " ".join(data.decode("utf-8", "replace").split())[-size:]

    def _read_on(self) -> None:
        if self._sock is not None and not self._reading:
            self._reading = True
            self._loop.add_reader(self._sock.fileno(), self._turn)

    def _pause(self) -> None:
        if self._sock is not None and self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock.fileno())

    def _turn(self) -> None:
        try:
            for _ in range(_TURN):
                if not self._step():
                    return
        except BlockingIOError:
            return
        except OSError:
            self.broken()

    def _step(self) -> bool:
        """Move something. False: there is nothing to do until something is ready. Raises BlockingIOError alike."""
        assert self._sock is not None
        if not self._left:
            part = self._sock.recv(_HEAD - len(self._head))
            if not part:
                self.broken()
                return False
            self._head += part
            if len(self._head) == _HEAD:
                self._target, self._left = self._head[0], int.from_bytes(self._head[4:8], "big")
                self._head = b""
            return True
        pipe = self._writers.get(self._target)
        if pipe is None:  # nobody reads it any more
            moved = len(self._sock.recv(min(self._left, _CHUNK)))
        else:
            try:
                moved = os.splice(
                    self._sock.fileno(), pipe, min(self._left, _CHUNK), flags=os.SPLICE_F_NONBLOCK
                )
            except BrokenPipeError:
                os.close(self._writers.pop(self._target))
                return True
            except BlockingIOError:
                if not _has_room(pipe):
                    self._wait_for(pipe)
                return False
        if not moved:
            self.broken()
            return False
        self._left -= moved
        return True

    def _wait_for(self, pipe: int) -> None:
        self._pause()
        self._waiting = pipe
        self._loop.add_writer(pipe, self._room)

    def _room(self) -> None:
        if self._waiting is not None:
            self._loop.remove_writer(self._waiting)
            self._waiting = None
            self._read_on()

    def broken(self) -> None:
        """The daemon's end is closed: the container has ended, or the daemon has. What it printed stays in the pipes."""
        if self._waiting is not None:
            self._loop.remove_writer(self._waiting)
            self._waiting = None
        self._pause()
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        self.ended.set()

    def finish(self) -> None:
        """The container has ended and all is read: the pipes end. Idempotent."""
        self.broken()
        while self._writers:
            os.close(self._writers.popitem()[1])

    def close(self) -> None:
        """Idempotent."""
        self.finish()
        while self._readers:
            os.close(self._readers.popitem()[1])


def _has_room(pipe: int) -> bool:
    poll = select.poll()
    poll.register(pipe, select.POLLOUT)
    return bool(poll.poll(0))
