"""Rows of sandboxes, written in batches off the path: a start from a warm slot never waits for the store."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging

from hearth.app.trouble import Trouble
from hearth.core.errors import HearthError
from hearth.core.records import SandboxRow
from hearth.ports.clock import Clock
from hearth.ports.store import ProcessStore

EVERY = 0.5  # seconds between two batches
HELD_MAX = 10_000  # rows kept while the store is down; beyond, the oldest are dropped
_log = logging.getLogger(__name__)


class SandboxRows:
    """Notes what became of sandboxes; only the latest state of each is written.

    Args:
        store: where rows go.
        clock: for the pause between batches.
    """

    def __init__(self, store: ProcessStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._trouble = Trouble(_log, "rows of sandboxes wait for the store")
        self._rows: dict[str, SandboxRow] = {}
        self._live: dict[str, SandboxRow] = {}

    async def insert(self, row: SandboxRow) -> None:
        """Write a row now: what is started without a slot has its row first. Raises StoreUnavailable."""
        await self._store.save_sandboxes([row])
        self._live[row.id] = row

    def note(self, row: SandboxRow) -> None:
        """Write a row with the next batch."""
        self._live[row.id] = row
        self._queue(row)

    def change(
        self, sandbox: str, state: str, *, handle: str | None = None, version: str | None = None
    ) -> None:
        """Note a sandbox's new state; a handle or version that is not given stays as it was."""
        before = self._live.get(sandbox)
        if before is None:
            return
        row = dataclasses.replace(
            before, state=state, handle=handle or before.handle, version_id=version or before.version_id
        )
        if state == "gone":
            del self._live[sandbox]
        else:
            self._live[sandbox] = row
        self._queue(row)

    def _queue(self, row: SandboxRow) -> None:
        self._rows[row.id] = row
        if len(self._rows) > HELD_MAX:
            del self._rows[next(iter(self._rows))]

    async def flush(self) -> None:
        """Write what is noted; if the store is down, keep it for the next time."""
        rows, self._rows = self._rows, {}
        if not rows:
            return
        try:
            await self._store.save_sandboxes(list(rows.values()))
        except HearthError as error:
            self._trouble.met(error.message)
            self._rows = {**rows, **self._rows}
        else:
            self._trouble.over()

    async def run(self) -> None:
        """Flush again and again until cancelled, and once more then."""
        try:
            while True:
                await self._clock.sleep(EVERY)
                await self.flush()
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2.0):
                    await self.flush()
