"""Reads what `logs.LogFiles` of every process wrote (ports.logs.LogSource)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

from hearth.core.errors import PlatformError
from hearth.ports.logs import ALL, LogBatch, LogFilter
from hearth.telemetry.inotify import Folders
from hearth.telemetry.places import newest, parse_cursor
from hearth.telemetry.segments import folder
from hearth.telemetry.tail import Tail

SETTLE = (
    200  # milliseconds that a followed line waits for older ones of other processes; a few batches of theirs
)
T = TypeVar("T")


def _now_ms() -> int:
    return int(time.time() * 1000)


class LogReader:
    """`ports.logs.LogSource` over the files below `root` (the data directory's logs/).

    Args:
        now_ms: milliseconds since the epoch.
    """

    def __init__(self, root: Path, now_ms: Callable[[], int] = _now_ms) -> None:
        self._root = root
        self._now_ms = now_ms
        self._folders = Folders()

    async def read(
        self, function_id: str, wanted: LogFilter = ALL, *, limit: int = 1000
    ) -> AsyncIterator[LogBatch]:
        """See the port. What comes while it is read is left out."""
        directory = folder(self._root, function_id)
        starts, ends = await _in_thread(lambda: newest(directory, wanted, limit))
        tail = Tail(directory, wanted, starts, ends)
        while True:
            look = await _in_thread(lambda: tail.look(self._now_ms(), 0))
            if look.lines:
                yield LogBatch(look.lines, look.cursor)
            if not look.more:
                return

    async def follow(
        self, function_id: str, wanted: LogFilter = ALL, *, limit: int = 1000, after: str | None = None
    ) -> AsyncIterator[LogBatch]:
        """See the port."""
        directory = folder(self._root, function_id)
        given = None if after is None else parse_cursor(after)
        await _in_thread(lambda: directory.mkdir(mode=0o700, parents=True, exist_ok=True))
        with self._folders.watch(directory) as watch:  # before the first look, so that nothing falls between
            starts = given or {}
            if given is None:
                starts, _ = await _in_thread(lambda: newest(directory, wanted, limit))
            tail = Tail(directory, wanted, starts)
            first = True
            while True:
                look = await _in_thread(lambda: tail.look(self._now_ms(), SETTLE))
                if look.lines or first:
                    first = False
                    yield LogBatch(look.lines, look.cursor)
                if not look.more:
                    await watch.wait(None if look.due is None else look.due / 1000)


async def _in_thread(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise PlatformError(
            f"the logs can't be read: {error.strerror or error}", hint="the platform's own log has more"
        ) from error
