"""Proves built versions: one real launch shows that a version loads; only then does it get traffic.

The proven instance goes into the pool, so the first request after a deploy is warm.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from hearth.app.launcher import PartsGone
from hearth.app.pool import Launches, Pool
from hearth.app.story import Story
from hearth.app.trouble import Trouble
from hearth.core.errors import (
    FunctionError,
    HearthError,
    KeeperUnavailable,
    LimitUnenforceable,
    NoCapacity,
    StaleLease,
    StoreUnavailable,
)
from hearth.core.records import Failure, VersionJob
from hearth.core.routing import Deployed, deployed
from hearth.ports.bus import Bus
from hearth.ports.clock import Clock
from hearth.ports.store import WorkStore

EVERY = 2.0  # seconds between looks for work when no hint comes
LEASE = 30.0  # seconds; renewed at a third of it
ATTEMPTS = 3  # launches that may fail for reasons of the platform
PAUSE = 1.0  # seconds between them
TAIL_MAX = 8 << 10  # characters of a log's tail that are kept with a failure
_log = logging.getLogger(__name__)


class Prover:
    """Claims built versions, one at a time.

    Args:
        work: where claims are made and settled.
        launcher: makes the one instance.
        pool: gets it when it has loaded.
        bus: wakes the prover (topic ``versions``).
        clock: pauses and leases.
        owner: ``own_…`` of this process.
        story: tells in the function's log how it went.
    """

    def __init__(
        self,
        work: WorkStore,
        launcher: Launches,
        pool: Pool,
        bus: Bus,
        clock: Clock,
        owner: str,
        story: Story,
    ) -> None:
        self._work = work
        self._launcher = launcher
        self._pool = pool
        self._clock = clock
        self._owner = owner
        self._story = story
        self._wake = asyncio.Event()
        self._rebuilds: set[asyncio.Task[None]] = set()
        bus.subscribe("versions", self._wake.set)

    async def run(self) -> None:
        """Prove until cancelled; a claim that is cut short is given back."""
        trouble = Trouble(_log, "no version can be claimed to be tried")
        while True:
            self._wake.clear()
            try:
                while await self.step():
                    pass
                trouble.over()
            except StoreUnavailable as error:
                trouble.met(error.message)
            timer = asyncio.create_task(self._clock.sleep(EVERY))
            waker = asyncio.create_task(self._wake.wait())
            try:
                await asyncio.wait((timer, waker), return_when=asyncio.FIRST_COMPLETED)
            finally:
                timer.cancel()
                waker.cancel()

    async def step(self) -> bool:
        """Prove one version if there is one; returns whether there was. Raises StoreUnavailable."""
        job = await self._work.claim_proof(self._owner, LEASE)
        if job is None:
            return False
        renewing = asyncio.create_task(self._renew(job))
        try:
            await self._prove(job)
        except StaleLease:
            _log.info("version %s was taken over by another process", job.version.id)
        except asyncio.CancelledError:
            await asyncio.wait_for(self._work.release(job.version.id, job.lease.token), 2.0)
            raise
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
        return True

    def rebuild(self, version: Deployed) -> None:
        """Its artifact or its toolchain is gone from this node: have it built again. Never raises."""
        self._spawn(self._rebuild(version.id))

    async def _prove(self, job: VersionJob) -> None:
        version = deployed(job.function, job.version, job.secrets)
        token, row = job.lease.token, job.version
        for attempt in range(1, ATTEMPTS + 1):
            try:
                slot = await self._launcher.launch(version)
                break
            except PartsGone:
                return None  # `rebuild` was told by the launcher
            except (FunctionError, LimitUnenforceable) as error:
                return await self._fail(job, error)
            except HearthError as error:
                _log.warning("version %s could not be tried: %s", row.id, error.message)
                if attempt == ATTEMPTS:
                    if isinstance(error, NoCapacity | KeeperUnavailable | StoreUnavailable):
                        return await self._work.release(row.id, token)
                    return await self._fail(job, error)
                await self._clock.sleep(PAUSE)
        try:
            await self._work.publish(row.id, token, slot.handler)
        except BaseException:
            await self._launcher.discard(slot, 0.0)
            raise
        self._story.deploy(row.function_id, row.number, f"version {row.number} is live")
        self._pool.add(version, slot)
        return None

    async def _fail(self, job: VersionJob, error: HearthError) -> None:
        row = job.version
        await self._work.fail(row.id, job.lease.token, failure_of(error))
        text = f"version {row.number} failed: {error.message}"
        self._story.deploy(row.function_id, row.number, text, "error")

    async def _renew(self, job: VersionJob) -> None:
        while True:
            await self._clock.sleep(LEASE / 3)
            try:
                await self._work.renew(job.version.id, job.lease.token, LEASE)
            except StaleLease:
                return
            except HearthError as error:
                _log.warning("a lease could not be renewed: %s", error.message)

    async def _rebuild(self, version_id: str) -> None:
        try:
            await self._work.rebuild(version_id)
        except HearthError as error:
            _log.warning("version %s could not be sent to be built again: %s", version_id, error.message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._rebuilds.add(task)
        task.add_done_callback(self._rebuilds.discard)


def failure_of(error: HearthError) -> Failure:
    """An error as it is kept with a version: file and line where they are known, what was printed last."""
    details = error.details
    tail, traceback = (str(details.get(key) or "").strip("\n") for key in ("tail", "traceback"))
    parts = [tail] if traceback in tail else [tail, traceback]  # a shim logs what it reports
    file, line = details.get("file"), details.get("line")
    return Failure(
        code=error.code,
        message=error.message,
        hint=error.hint,
        tail="\n".join(filter(None, parts))[-TAIL_MAX:],
        file=file if isinstance(file, str) and file else None,
        line=line if isinstance(line, int) else None,
    )
