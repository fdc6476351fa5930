"""The route table: every function that can be called, as immutable entries in one dict.

Loaded page by page at start; from then on the outbox is followed: a hint wakes the follower, a timer repairs lost
hints. A change replaces one entry.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection
from typing import Protocol

from hearth.core.errors import HearthError, NotFound
from hearth.core.records import Event, FunctionRow, FunctionSummary, RouteRow, SealedSecret, VersionRow
from hearth.core.routing import Deployed, Route, deployed, make_route
from hearth.ports.bus import Bus
from hearth.ports.clock import Clock
from hearth.ports.store import RouteStore

EVERY = 2.0  # seconds between looks at the outbox when no hint comes
APART = 0.05  # seconds between looks that are made because somebody asked for what isn't there
PAGE = 500
_log = logging.getLogger(__name__)
Key = tuple[bytes, bytes]  # namespace, function


class Versions(Protocol):
    """Finds versions that no alias points to, the secrets that they name, and functions that have no route."""

    async def find_function(self, namespace: str, name: str) -> FunctionRow | None: ...

    async def summary(self, function_id: str) -> FunctionSummary | None: ...

    async def find_version(self, function_id: str, number: int) -> VersionRow | None: ...

    async def sealed_secrets(
        self, namespace_id: str, function_id: str | None, names: Collection[str]
    ) -> tuple[SealedSecret, ...]: ...


class Routes:
    """This shard's table.

    Args:
        store: where routes come from.
        versions: for versions asked for by number.
        bus: wakes the follower (topic ``routes``).
        clock: pauses.
    """

    def __init__(self, store: RouteStore, versions: Versions, bus: Bus, clock: Clock) -> None:
        self.entries: dict[Key, Route] = {}
        self.loaded = False
        self.on_change: Callable[[], None] = lambda: None  # after entries changed
        self.on_event: Callable[[Event], None] = lambda event: None  # each event of the outbox
        self._store = store
        self._versions = versions
        self._clock = clock
        self._keys: dict[str, Key] = {}  # by function id
        self._named: dict[tuple[str, int], Deployed] = {}
        self._asking = asyncio.Semaphore(2)
        self._following = asyncio.Lock()
        self._looked = -APART  # monotonic seconds
        self._next_look: asyncio.Task[None] | None = None
        self._seq = 0
        self._wake = asyncio.Event()
        bus.subscribe("routes", self._wake.set)

    async def load(self) -> None:
        """Read the whole table. Raises StoreUnavailable."""
        self._seq = (
            await self._store.last_event()
        )  # before the rows: what changes meanwhile is read twice, never missed
        after: str | None = None
        seen: set[str] = set()
        while True:
            page = await self._store.routes(after, PAGE)
            for row in page:
                self._put(row)
                seen.add(row.function.id)
            if len(page) < PAGE:
                break
            after = page[-1].function.id
        for function_id in set(self._keys) - seen:
            self._remove(function_id)
        self.loaded = True
        self.on_change()

    async def follow(self) -> int:
        """Take in what the outbox has new; returns the number of events. Raises StoreUnavailable."""
        async with self._following:
            return await self._follow()

    async def catch_up(self) -> None:
        """Take in all that was committed before this call, as far as the store answers.

        For who asks for a function that the table does not have: it may have been deployed a moment ago, and who deployed it
        has heard so before we did. All who ask at once share one look, and looks are `APART`: asking for what isn't
        there costs the store next to nothing.
        """
        if not self.loaded:
            return
        if self._next_look is None:
            self._next_look = asyncio.create_task(self._look())
        await asyncio.shield(self._next_look)

    async def _look(self) -> None:
        await self._clock.sleep(max(0.0, self._looked + APART - self._clock.monotonic()))
        self._next_look = None  # who asks from now on wants a later one
        self._looked = self._clock.monotonic()
        with contextlib.suppress(HearthError):  # `run` says that the store is down
            await self.follow()

    async def _follow(self) -> int:
        count = 0
        while True:
            events = await self._store.events_after(self._seq, PAGE)
            changed = {event.subject for event in events if event.kind == "route"}
            for event in events:
                if event.kind == "route" and event.details.get("did") == "removed":
                    self._named.pop((event.subject, event.details.get("version", 0)), None)
            for function_id in changed:
                row = await self._store.route(function_id)
                if row is None:
                    self._remove(function_id)
                else:
                    self._put(row)
            if changed:
                self.on_change()
            for event in events:
                self.on_event(event)
            if events:
                self._seq = events[-1].seq
            count += len(events)
            if len(events) < PAGE:
                return count

    async def run(self) -> None:
        """Load, then follow, until cancelled. A store that is down is asked again; what is loaded serves on."""
        while True:
            self._wake.clear()
            try:
                await (self.follow() if self.loaded else self.load())
            except HearthError as error:
                _log.warning("routes could not be read: %s", error.message)
            timer = asyncio.create_task(self._clock.sleep(EVERY))
            waker = asyncio.create_task(self._wake.wait())
            try:
                await asyncio.wait((timer, waker), return_when=asyncio.FIRST_COMPLETED)
            finally:
                timer.cancel()
                waker.cancel()

    async def version(self, route: Route, number: int) -> Deployed:
        """A version by its number, aliased or not.

        Raises:
            NotFound: there is none that can serve.
            StoreUnavailable: it is not known here and can't be looked up.
        """
        for version in route.versions:
            if version.number == number:
                return version
        known = self._named.get((route.function.id, number))
        if known is not None:
            return known
        row = await self._versions.find_version(route.function.id, number)
        if row is None:
            raise NotFound(f"the function has no version {number}")
        names = row.config.secrets
        secrets = (
            await self._versions.sealed_secrets(route.function.namespace_id, route.function.id, names)
            if names
            else ()
        )
        found = self._named[route.function.id, number] = deployed(route.function, row, secrets)
        self.on_change()
        return found

    async def unrouted(self, key: Key) -> FunctionSummary | None:
        """A function without a live version, which the table does not have; None when there is none of that name.

        Few at a time: whoever asks for what isn't there must not keep others from the store. Raises StoreUnavailable.
        """
        async with self._asking:
            namespace, name = (part.decode("latin-1") for part in key)
            function = await self._versions.find_function(namespace, name)
            return None if function is None else await self._versions.summary(function.id)

    @property
    def served(self) -> list[Deployed]:
        """Every version that may get traffic."""
        aliased = [version for route in self.entries.values() for version in route.versions]
        return aliased + list(self._named.values())

    def _put(self, row: RouteRow) -> None:
        key = (row.function.namespace.encode(), row.function.name.encode())
        before = self.entries.get(key)
        known = {version.id: version for version in before.versions} if before is not None else {}
        route = make_route(row, known)
        if route is None:
            return self._remove(row.function.id)
        self.entries[key] = route
        self._keys[row.function.id] = key
        for named, version in list(self._named.items()):
            if named[0] == row.function.id and version.config.secrets:
                del self._named[named]  # they may have changed: it is looked up again when it is asked for
        return None

    def _remove(self, function_id: str) -> None:
        key = self._keys.pop(function_id, None)
        if key is not None and self.entries[key].function.id == function_id:
            del self.entries[key]
        for named in [named for named in self._named if named[0] == function_id]:
            del self._named[named]
