"""What nobody needs any more is removed: sources, artifacts, uploads that were never finished."""

from __future__ import annotations

import asyncio
import logging

from hearth.core.errors import PlatformError, StoreUnavailable
from hearth.ports.blobs import Blobs
from hearth.ports.clock import Clock
from hearth.ports.store import FunctionStore

INTERVAL = 3600.0
YOUNG = 3600.0  # seconds in which a blob may wait for the row that names it
_log = logging.getLogger(__name__)


class Retention:
    """Collects what is unused, at the start and every hour. Made before anything is uploaded or built.

    A blob goes only when two rounds in a row found it unused: what was deleted just now may still
    serve the requests that an instance is finishing.
    """

    def __init__(self, store: FunctionStore, blobs: Blobs, clock: Clock) -> None:
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._made = clock.monotonic()
        self._unused: dict[str, set[str]] = {"source": set(), "artifact": set()}

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            try:
                await self.round()
            except (StoreUnavailable, PlatformError, OSError) as error:
                _log.warning("nothing could be cleared away: %s", error)
            await self._clock.sleep(INTERVAL)

    async def round(self) -> int:
        """Collect once; returns how much went. Raises StoreUnavailable."""
        # What is there is listed before rows are read: a blob whose row comes in between is then known to be used.
        present = {kind: await asyncio.to_thread(self._blobs.listing, kind) for kind in self._unused}
        sources, artifacts = await self._store.digests_in_use()
        # What is older than this process belongs to one that was killed: no other fills such folders.
        age = self._clock.monotonic() - self._made + 1.0
        gone = await self._blobs.collect("tmp", set(), min(age, 6 * YOUNG))
        for kind, used in (("source", sources), ("artifact", artifacts)):
            unused = present[kind] - used
            doomed = unused & self._unused[kind]
            gone += await self._blobs.collect(kind, present[kind] - doomed, YOUNG)
            self._unused[kind] = unused - doomed
        if gone:
            _log.info("cleared away %d sources, artifacts and leftovers that nobody needs", gone)
        return gone
