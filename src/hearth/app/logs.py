"""Logs as members read them: found only by who may see the function, and an empty answer only where there is nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace

from hearth.app.functions import FunctionViews
from hearth.core.errors import InvalidInput, NotFound, PlatformError, StoreUnavailable
from hearth.core.ids import is_id
from hearth.core.permissions import Action, Principal
from hearth.ports.clock import Clock
from hearth.ports.logs import ALL, LogBatch, LogFilter, LogKeeper, LogSource
from hearth.ports.store import FunctionStore

SWEEP_EVERY = 1800.0  # seconds
_log = logging.getLogger(__name__)


class LogViews:
    """Reads; every method decides first."""

    def __init__(self, views: FunctionViews, store: FunctionStore, source: LogSource) -> None:
        self._views = views
        self._store = store
        self._source = source

    async def open(
        self,
        principal: Principal,
        namespace: str,
        name: str,
        wanted: LogFilter = ALL,
        *,
        limit: int,
        follow: bool = False,
        after: str | None = None,
    ) -> AsyncIterator[LogBatch]:
        """The lines of a function: see `ports.logs.LogSource`. What is returned is an async generator: close it.

        Raises:
            NotFound: the function, or the version that is wanted.
            Forbidden: who asks may not read it.
            InvalidInput: what is wanted makes no sense.
            PlatformError: the logs can't be read; by the iterator, where it is noticed later.
        """
        function = await self._views.find(principal, Action.READ, namespace, name)
        if wanted.invocation is not None and not is_id("invocation", wanted.invocation):
            raise InvalidInput(
                f"{wanted.invocation[:60]!r} is no invocation's id",
                hint="it begins with inv_ and stands in the header X-Hearth-Invocation of an answer",
            )
        if wanted.version is not None:
            await self._check_version(function.id, f"{namespace}/{name}", wanted.version)
        if follow:
            return self._source.follow(function.id, wanted, limit=limit, after=after)
        return self._source.read(function.id, wanted, limit=limit)

    async def _check_version(self, function_id: str, name: str, number: int) -> None:
        """Raises NotFound for a version that never was. One that was cleared away may still have lines."""
        if await self._store.find_version(function_id, number) is not None:
            return
        async for _ in self._source.read(function_id, replace(ALL, version=number), limit=1):
            return
        raise NotFound(
            f"{name} has no version {number}", hint=f"list them: hearth versions {name.partition('/')[2]}"
        )


class LogSweeper:
    """Has lines removed that are too old, too many, or of functions that were deleted.

    A function's lines go when two rounds in a row found no row of it.
    """

    def __init__(self, store: FunctionStore, keeper: LogKeeper, clock: Clock) -> None:
        self._store = store
        self._keeper = keeper
        self._clock = clock
        self._unknown: set[str] = set()

    async def run(self) -> None:
        """Sweep at once and again and again, until cancelled."""
        while True:
            try:
                await self.round()
            except (StoreUnavailable, PlatformError, OSError) as error:
                _log.warning("old logs could not be cleared away: %s", error)
            await self._clock.sleep(SWEEP_EVERY)

    async def round(self) -> int:
        """Sweep once; returns how many files went. Raises StoreUnavailable, OSError."""
        there = await asyncio.to_thread(self._keeper.functions)
        unknown = there - await self._store.function_ids()
        gone = unknown & self._unknown
        self._unknown = unknown - gone
        return await asyncio.to_thread(self._keeper.sweep, gone)
