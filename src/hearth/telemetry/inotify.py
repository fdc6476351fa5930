"""Waking up when a folder's files change: inotify(7)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from hearth.linux.libc import check, libc

_IN_CLOEXEC, _IN_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK
_IN_MODIFY, _IN_CREATE, _IN_MOVED_TO = 0x2, 0x100, 0x80
_REPAIR = 1.0  # seconds after which a watcher looks anyway, where inotify is not to be had
_LOST = 30.0  # and where it is: events of a removed and newly made folder are not seen


class Watch:
    """Changes in one folder, from the moment it is made. Use as a context manager, on the event loop."""

    def __init__(self, directory: Path) -> None:
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._fd = -1
        try:
            self._fd = check(libc().inotify_init1(_IN_CLOEXEC | _IN_NONBLOCK), "inotify_init1")
            mask = _IN_MODIFY | _IN_CREATE | _IN_MOVED_TO
            check(libc().inotify_add_watch(self._fd, os.fsencode(directory), mask), "inotify_add_watch")
        except OSError:  # too many watchers on this machine: looked at once a second instead
            self.close()
        else:
            self._loop.add_reader(self._fd, self._changed)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def wait(self) -> None:
        """Wait for a change since the last wait."""
        try:
            async with asyncio.timeout(_LOST if self._fd >= 0 else _REPAIR):
                await self._event.wait()
        except TimeoutError:
            pass
        self._event.clear()

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _changed(self) -> None:
        try:
            while os.read(self._fd, 64 << 10):
                pass
        except BlockingIOError:
            pass
        self._event.set()
