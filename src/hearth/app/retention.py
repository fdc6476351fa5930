"""What nobody needs any more is removed: old versions, their sources and artifacts, old records. (Logs: `app.logs`.)

Rows say what is needed, and are asked again in the transaction that removes. One control of a platform prunes rows at a
time; files are every control's own, since they lie on its disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from hearth.app.trouble import Trouble
from hearth.core import limits
from hearth.core.errors import HearthError, StoreUnavailable
from hearth.core.records import VersionRow
from hearth.ports.blobs import Blobs
from hearth.ports.bus import Bus
from hearth.ports.clock import Clock
from hearth.ports.retention import RetentionStore

EVERY = 60.0  # seconds between two looks at records, and at versions when no hint comes
FILES_EVERY = 600.0  # seconds between two looks at files
PAUSE = 1.0  # seconds between two looks that hints ask for: a burst of deploys is one look or two
LEASE = 120.0  # seconds that one round may take before another control may begin
ABANDONED = 6 * 3600.0  # seconds after which an upload or a build is not finished any more
_log = logging.getLogger(__name__)


class Retention:
    """The collector of one control process.

    Args:
        bus: topic ``routes`` wakes it: a version that went live may have pushed another one out.
        owner: ``own_…`` of this process.
    """

    def __init__(self, store: RetentionStore, blobs: Blobs, clock: Clock, bus: Bus, owner: str) -> None:
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._owner = owner
        self._wake = asyncio.Event()
        self._low = False
        self._trouble = Trouble(_log, "nothing can be cleared away")
        bus.subscribe("routes", self._wake.set)

    async def run(self) -> None:
        """Go on until cancelled."""
        records = files = self._clock.monotonic()
        while True:
            self._wake.clear()
            now = self._clock.monotonic()
            try:
                await self.rows(records=now >= records)
                if now >= records:
                    records = now + EVERY
                if now >= files:
                    files = now + FILES_EVERY
                    await self.files()
            except (HearthError, OSError) as error:
                self._trouble.met(str(error))
                records = files = now + EVERY
            else:
                self._trouble.over()
            self._say_when_low()
            await self._clock.sleep(PAUSE)
            await self._rest(min(records, files) - self._clock.monotonic())

    async def rows(self, *, records: bool = True) -> int:
        """Remove versions, and with `records` old records, that nobody needs; returns how many rows went.

        Nothing is done while another control does it. Raises StoreUnavailable.
        """
        doomed = await self._doomed()
        if not (doomed or records) or not await self._store.hold("retention", self._owner, LEASE):
            return 0
        try:
            gone = 0
            for function_id, versions in doomed.items():
                gone += await self._remove(function_id, versions)
            if records:
                gone += await self._records()
        finally:
            try:
                async with asyncio.timeout(5.0):
                    await self._store.let_go("retention", self._owner)
            except (StoreUnavailable, TimeoutError):
                pass  # the lease lapses
        return gone

    async def files(self) -> int:
        """Remove files that no row names; returns how many sources, artifacts and leftovers went."""
        left = await self._blobs.collect("tmp", set(), ABANDONED)
        sources, artifacts = await self._store.digests_in_use()
        # A blob that gets its row from now on was touched a moment ago, and is young.
        gone = await self._blobs.collect("source", sources, limits.BLOB_GRACE)
        unused = await self._blobs.collect("artifact", artifacts, limits.BLOB_GRACE)
        await self._store.forget_builds(unused)
        if gone or unused or left:
            _log.info(
                "cleared away %d sources and %d artifacts that nobody needs, %d leftovers",
                len(gone),
                len(unused),
                len(left),
            )
        return len(gone) + len(unused) + len(left)

    async def _doomed(self) -> dict[str, list[VersionRow]]:
        kept, found = limits.VERSIONS_KEPT, {}
        for function_id in await self._store.crowded(kept):
            versions = await self._store.expendable_versions(function_id, kept)
            if versions:
                found[function_id] = versions
        return found

    async def _remove(self, function_id: str, versions: Sequence[VersionRow]) -> int:
        for version in versions:
            # Young again: an instance that was started a moment ago has no row yet, but will have one before that ends.
            await asyncio.to_thread(self._blobs.touch, "source", version.source)
            if version.artifact is not None:
                await asyncio.to_thread(self._blobs.touch, "artifact", version.artifact)
        ids = [version.id for version in versions]
        numbers = await self._store.remove_versions(function_id, ids, limits.VERSIONS_KEPT)
        if numbers:
            _log.info("function %s: removed versions %s", function_id, ", ".join(map(str, numbers)))
        return len(numbers)

    async def _records(self) -> int:
        now = self._clock.now_ms()

        def before(seconds: float) -> int:
            return now - round(seconds * 1000)

        invocations = await self._store.prune_invocations(
            before(limits.INVOCATION_AGE), limits.INVOCATIONS_OF_FUNCTION_MAX, limits.INVOCATIONS_MAX
        )
        events = await self._store.prune_events(before(limits.EVENT_AGE), limits.EVENTS_MAX)
        processes = await self._store.prune_processes(before(limits.SANDBOX_AGE))
        if invocations or events or processes:
            _log.info(
                "removed records of %d invocations, %d events, %d sandboxes and processes",
                invocations,
                events,
                processes,
            )
        return invocations + events + processes

    def _say_when_low(self) -> None:
        low = self._blobs.free() < limits.DISK_FREE_MIN
        if low and not self._low:
            _log.warning(
                "the disk of the data directory is nearly full: below %s nothing is deployed",
                limits.format_size(limits.DISK_FREE_MIN),
            )
        elif self._low and not low:
            _log.info("there is room on the disk of the data directory again")
        self._low = low

    async def _rest(self, seconds: float) -> None:
        waits = [
            asyncio.ensure_future(self._wake.wait()),
            asyncio.ensure_future(self._clock.sleep(max(0.0, seconds))),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
