"""The two pipes of a build's sandbox: its output into a folder, its log into a callback."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from pathlib import Path

from hearth.build.archive import unpack_stream
from hearth.core.errors import HearthError, InvalidSource, PlatformError, TooLarge


class Output:
    """A build's output on its way from a pipe to a folder; lives in a thread until the pipe's end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.read = 0
        self.error: HearthError | None = None

    def unpack(self, staged: Path) -> None:
        try:
            unpack_stream(self._read, staged)
        except (InvalidSource, TooLarge, PlatformError) as error:
            self.error = error
        finally:
            os.close(self._fd)  # whoever still writes gets SIGPIPE

    def _read(self, count: int) -> bytes:
        while True:
            try:
                data = os.read(self._fd, count)
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._fd, select.POLLIN)
                poll.poll()
                continue
            self.read += len(data)
            return data


async def follow(fd: int, feed: Callable[[bytes], None]) -> None:
    """Read a pipe on the loop until its end; closes it."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            feed(data)
        elif not ended.done():
            loop.remove_reader(fd)
            ended.set_result(None)

    os.set_blocking(fd, False)
    loop.add_reader(fd, readable)
    try:
        await ended
    finally:
        loop.remove_reader(fd)
        os.close(fd)
