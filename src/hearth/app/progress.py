"""A deploy as it goes: states and log lines, until it is done or has failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from hearth.app.feed import BuildFeed
from hearth.core.errors import NotFound
from hearth.core.records import VersionRow
from hearth.core.version import VersionState
from hearth.ports.logs import BUILD, PLATFORM, LogFilter, LogSource
from hearth.ports.store import FunctionStore

TIMER = 1.0  # seconds after which the row is looked at even without a hint
BEAT = 15.0  # seconds after which the state is said again, so that nobody on the way takes the silence for an end
_LOG_LINES = 100_000
_FINAL = {VersionState.READY: "done", VersionState.FAILED: "failed"}


@dataclass(frozen=True, slots=True)
class Progress:
    """One thing that happened: a line of the log, a state, or the end (`done`, `failed`)."""

    kind: Literal["log", "state", "done", "failed"]
    text: str = ""
    row: VersionRow | None = None


async def follow(
    store: FunctionStore, feed: BuildFeed, logs: LogSource, row: VersionRow
) -> AsyncIterator[Progress]:
    """Tell a deploy from its beginning, whichever process does the work.

    Lines of a build that runs in this process come as they are printed; of an earlier one they are read from the
    log. States come from the rows: a hint makes it quick, the timer makes it sure.

    Raises NotFound when the function is deleted meanwhile; StoreUnavailable.
    """
    loop = asyncio.get_running_loop()
    said: VersionState | None = None
    index, next_beat = 0, 0.0
    with feed.watch() as watcher:
        if not feed.knows(row.id):
            wanted = LogFilter(version=row.number, sources=frozenset({BUILD, PLATFORM}))
            async for batch in logs.read(row.function_id, wanted, limit=_LOG_LINES):
                for line in batch.lines:
                    if line.source == BUILD or line.stream == "deploy":
                        yield Progress("log", line.text)
        while True:
            watcher.changed.clear()
            if watcher.rows:
                watcher.rows = False
                found = await store.find_version(row.function_id, row.number)
                if found is None:
                    raise NotFound("the function was deleted while it was deployed")
                row = found
            final = row.state in _FINAL
            if not final and (row.state is not said or loop.time() >= next_beat):
                said, next_beat = row.state, loop.time() + BEAT
                yield Progress("state", row=row)
            for text in feed.lines(row.id, index):
                index += 1
                yield Progress("log", text)
            if final:
                yield Progress("state", row=row)
                yield Progress("done" if row.state is VersionState.READY else "failed", row=row)
                return
            try:
                async with asyncio.timeout(TIMER):
                    await watcher.changed.wait()
            except TimeoutError:
                watcher.rows = True
