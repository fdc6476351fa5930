"""The bus of one machine: control listens on a Unix socket, every other process connects.

A hint is a line with a topic's name. The server passes what one process says on to all others. Whoever
can't keep up is cut off: it connects again, and takes that for a hint about everything, which costs one look at
the rows. So nothing here queues without bound, and a lost hint costs no more than a late one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_TOPIC = re.compile(r"[a-z][a-z0-9-]{0,31}\Z")
_LINE_MAX = 64  # bytes; a longer line is no topic, and its sender none of ours
_BACKLOG_MAX = 64 * 1024  # bytes that may wait for a process that does not read
_RETRY = (0.05, 1.0)  # seconds between attempts to connect: the first pause, the longest
_log = logging.getLogger(__name__)


class _Local:
    """Subscribers of this process. Hints that come in one turn of the loop are told once."""

    def __init__(self) -> None:
        self._subscribers: dict[str, list[Callable[[], None]]] = {}
        self._pending: set[str] = set()

    def subscribe(self, topic: str, callback: Callable[[], None]) -> None:
        """Have `callback` called on the loop at each hint, and after every reconnection. It must not block."""
        _check(topic)
        self._subscribers.setdefault(topic, []).append(callback)

    def _tell(self, topic: str) -> None:
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._call)
        self._pending.add(topic)

    def _tell_all(self) -> None:
        for topic in self._subscribers:
            self._tell(topic)

    def _call(self) -> None:
        topics, self._pending = self._pending, set()
        for topic in topics:
            for callback in self._subscribers.get(topic, ()):
                try:
                    callback()
                except Exception:  # a subscriber's fault must not keep the others from being told
                    _log.exception("a subscriber of %s failed", topic)


class BusServer(_Local):
    """Control's end. All methods belong to one loop.

    Args:
        path: where to listen; the socket of a control before this one is replaced, in one step.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._inode = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Only the platform's own user may connect (mode 0600). Raises OSError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            staged = self._path.with_name(f"{self._path.name}.new")
            staged.unlink(missing_ok=True)
            with _short(staged) as name:
                listener.bind(name)
            staged.chmod(0o600)
            listener.setblocking(False)
            self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_LINE_MAX)
            self._inode = staged.stat().st_ino
            staged.rename(self._path)
        except BaseException:
            listener.close()
            raise

    def publish(self, topic: str) -> None:
        """Tell every subscriber in every process. Never blocks, never raises for a process that is gone."""
        _check(topic)
        self._tell(topic)
        self._pass_on(topic, None)

    async def close(self) -> None:
        """Stop listening and cut all connections."""
        if self._server is None:
            return
        self._server.close()
        for writer in tuple(self._writers):
            writer.close()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:  # not that of a successor
                self._path.unlink()

    def _pass_on(self, topic: str, sender: asyncio.StreamWriter | None) -> None:
        line = topic.encode() + b"\n"
        for writer in tuple(self._writers):
            if writer is not sender:
                _send(writer, line)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if (task := asyncio.current_task()) is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        try:
            async for topic in _topics(reader):
                self._tell(topic)
                self._pass_on(topic, writer)
        finally:
            self._writers.discard(writer)
            writer.close()


class BusClient(_Local):
    """The end of every other process: connects, and connects again, for as long as it lives.

    Args:
        path: control's socket. It need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self.connected = asyncio.Event()

    async def start(self) -> None:
        """Begin to connect; returns at once, since the platform works without hints."""
        self._task = asyncio.create_task(self._stay_connected(), name="bus")

    def publish(self, topic: str) -> None:
        """Tell every subscriber in every process. Without a connection only this one's: a timer repairs the rest."""
        _check(topic)
        self._tell(topic)
        if self._writer is not None:
            _send(self._writer, topic.encode() + b"\n")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _stay_connected(self) -> None:
        pause = _RETRY[0]
        while True:
            try:
                reader, writer = await self._connect()
            except OSError:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RETRY[1])
                continue
            pause = _RETRY[0]
            self._writer = writer
            self.connected.set()
            self._tell_all()  # whatever was said meanwhile was not heard
            try:
                async for topic in _topics(reader):
                    self._tell(topic)
            finally:
                self._writer = None
                self.connected.clear()
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            await asyncio.sleep(pause)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.setblocking(False)
            with _short(self._path) as name:
                sock.connect(name)  # to a Unix socket: done at once, or refused (EAGAIN: the backlog is full)
            return await asyncio.open_unix_connection(sock=sock, limit=_LINE_MAX)
        except BaseException:
            sock.close()
            raise


async def _topics(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    """Topics as they come, until the connection ends or its other end talks nonsense."""
    while True:
        try:
            line = await reader.readuntil()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            return
        topic = line[:-1].decode("ascii", "replace")
        if _TOPIC.match(topic) is None:
            return
        yield topic


def _send(writer: asyncio.StreamWriter, line: bytes) -> None:
    """Write without waiting; who has let too much pile up is cut off."""
    if writer.transport.get_write_buffer_size() > _BACKLOG_MAX:
        writer.transport.abort()
    elif not writer.is_closing():
        writer.write(line)


def _check(topic: str) -> None:
    if _TOPIC.match(topic) is None:
        raise ValueError(f"{topic!r} is no topic")


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name of `path` short enough for a Unix socket's address (107 bytes: unix(7))."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
