"""Waking up when a folder's files change: inotify(7). One instance a process: a user may have few (128 by default)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from hearth.linux.libc import check, libc

_IN_CLOEXEC, _IN_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK
_IN_MODIFY, _IN_CREATE, _IN_MOVED_TO, _IN_IGNORED, _IN_Q_OVERFLOW = 0x2, 0x100, 0x80, 0x8000, 0x4000
_MASK = _IN_MODIFY | _IN_CREATE | _IN_MOVED_TO
_EVENT = struct.Struct("iIII")
_REPAIR = 1.0  # seconds after which a watcher looks anyway, where the machine allows no more watches


class Watch:
    """Changes in one folder, from the moment it is made by `Folders.watch`."""

    def __init__(self, folders: Folders, directory: Path) -> None:
        self._folders = folders
        self.directory = directory
        self.changed = asyncio.Event()
        self.number = -1  # of the kernel's watch; negative: there is none

    async def wait(self, timeout: float | None = None) -> None:
        """Wait for a change since the last wait, at most `timeout` seconds."""
        if self.number < 0:  # the folder was removed and made anew, or there are too many watches
            self._folders.add(self)
            if self.number < 0:
                timeout = min(_REPAIR, timeout or _REPAIR)
        try:
            async with asyncio.timeout(timeout):
                await self.changed.wait()
        except TimeoutError:
            pass
        self.changed.clear()


class Folders:
    """Watches folders on the event loop; holds nothing while nobody watches."""

    def __init__(self) -> None:
        self._fd = -1
        self._watches: dict[int, set[Watch]] = {}
        self._count = 0

    @contextlib.contextmanager
    def watch(self, directory: Path) -> Iterator[Watch]:
        """Watch a folder for the length of a block."""
        watch = Watch(self, directory)
        self._count += 1
        self.add(watch)
        try:
            yield watch
        finally:
            self._remove(watch)
            self._count -= 1
            if not self._count and self._fd >= 0:
                asyncio.get_running_loop().remove_reader(self._fd)
                os.close(self._fd)
                self._fd = -1

    def add(self, watch: Watch) -> None:
        """Have the kernel watch; leaves `watch.number` negative where it does not."""
        try:
            if self._fd < 0:
                self._fd = check(libc().inotify_init1(_IN_CLOEXEC | _IN_NONBLOCK), "inotify_init1")
                asyncio.get_running_loop().add_reader(self._fd, self._readable)
            path = os.fsencode(watch.directory)
            watch.number = check(libc().inotify_add_watch(self._fd, path, _MASK), "inotify_add_watch")
        except OSError:  # too many on this machine, or the folder is gone
            return
        self._watches.setdefault(watch.number, set()).add(watch)
        watch.changed.set()  # what happened before is looked for once

    def _remove(self, watch: Watch) -> None:
        others = self._watches.get(watch.number)
        if others is not None:
            others.discard(watch)
            if not others:
                del self._watches[watch.number]
                libc().inotify_rm_watch(self._fd, watch.number)

    def _readable(self) -> None:
        try:
            while data := os.read(self._fd, 64 << 10):
                self._told(data)
        except BlockingIOError:
            pass

    def _told(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            if mask & _IN_Q_OVERFLOW:
                for watches in self._watches.values():
                    for watch in watches:
                        watch.changed.set()
                continue
            ended = bool(mask & _IN_IGNORED)
            for watch in self._watches.pop(number, set()) if ended else self._watches.get(number, ()):
                watch.changed.set()
                if ended:
                    watch.number = -1
