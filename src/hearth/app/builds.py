"""Builds: control's workers claim versions that wait, build each once, and say how it ended.

Rows are the truth: a version is claimed with a lease, renewed while it is built, and every settle names the lease's
token. A worker that dies leaves its claim to lapse; the version is then built again, once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from hearth.app.build_figures import BuildFigures
from hearth.app.feed import BuildFeed
from hearth.app.story import Story
from hearth.app.trouble import Trouble
from hearth.core import limits
from hearth.core.artifact import build_key
from hearth.core.disk import nearly_full
from hearth.core.errors import (
    HearthError,
    PlatformError,
    StaleLease,
    StoreUnavailable,
    source_of,
)
from hearth.core.launch import Toolchain
from hearth.core.records import Failure, SandboxRow, VersionJob
from hearth.ports.blobs import Blobs
from hearth.ports.builder import BuildOrder, BuildRunner, ToolchainSource
from hearth.ports.bus import Bus
from hearth.ports.clock import Clock, Ids
from hearth.ports.logs import BUILD, LogLine, LogSink
from hearth.ports.runtime import Runtime
from hearth.ports.store import ProcessStore, WorkStore

LEASE = 15.0  # seconds; renewed three times within
POLL = 3.0  # seconds after which rows are looked at even without a hint
RETRIES = (
    1.0,
    4.0,
)  # seconds before another try after a failure of the platform's, such as a keeper that restarts
TAIL = 4096
_log = logging.getLogger(__name__)


class BuildStore(WorkStore, ProcessStore, Protocol):
    """What a worker needs of the store."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """What builds need, handed in by bootstrap.

    Args:
        owner: ``own_…`` of this process.
        driver: the driver's name, for the rows of sandboxes.
        runtimes: by name.
        figures: counts builds.
    """

    store: BuildStore
    blobs: Blobs
    toolchains: ToolchainSource
    runner: BuildRunner
    runtimes: Mapping[str, Runtime]
    logs: LogSink
    feed: BuildFeed
    clock: Clock
    ids: Ids
    owner: str
    driver: str
    figures: BuildFigures = field(default_factory=BuildFigures)


class BuildWorkers:
    """The build workers of one control process.

    Args:
        bus: topic ``versions`` wakes them.
        count: builds at once.
    """

    def __init__(self, workshop: Workshop, bus: Bus, count: int) -> None:
        self._shop = workshop
        self._count = count
        self._trouble = Trouble(_log, "no build can be claimed")
        self._wake = asyncio.Event()
        self._keys: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}
        bus.subscribe("versions", self._wake.set)

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until asked to stop; builds in work are then given back, for the next control to take up."""
        workers = [asyncio.create_task(self._work(), name=f"build-{n}") for n in range(self._count)]
        stop = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait([stop, *workers], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            for worker in workers:
                worker.cancel()
            ended = await asyncio.gather(*workers, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def _work(self) -> None:
        while True:
            self._wake.clear()
            try:
                job = await self._shop.store.claim_build(self._shop.owner, LEASE)
                self._trouble.over()
            except StoreUnavailable as error:
                self._trouble.met(error.message)
                job = None
            if job is None:
                await self._rest()
            else:
                await self._take(job)

    async def _rest(self) -> None:
        waits = [
            asyncio.ensure_future(self._wake.wait()),
            asyncio.ensure_future(self._shop.clock.sleep(POLL)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _take(self, job: VersionJob) -> None:
        """Build one version while its lease is renewed; settle it."""
        build = asyncio.create_task(self._settled(job))
        renewal = asyncio.create_task(self._renew(job))
        try:
            await asyncio.wait([build, renewal], return_when=asyncio.FIRST_COMPLETED)
            if not build.done():  # the renewal ends only when the lease is lost
                _log.warning("version %s: its build is somebody else's now", job.version.id)
        finally:
            tasks = [build, renewal]
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def _renew(self, job: VersionJob) -> None:
        while True:
            await self._shop.clock.sleep(LEASE / 3)
            try:
                await self._shop.store.renew(job.version.id, job.lease.token, LEASE)
            except StaleLease:
                return
            except StoreUnavailable as error:
                _log.warning("the lease of %s could not be renewed: %s", job.version.id, error.message)

    async def _settled(self, job: VersionJob) -> None:
        store, version, token = self._shop.store, job.version, job.lease.token
        clock, figures, runtime = self._shop.clock, self._shop.figures, version.config.runtime
        self._shop.feed.open(version.id)
        began = clock.monotonic()
        try:
            try:
                with figures.one():
                    artifact, toolchain = await self._retried(job)
            except asyncio.CancelledError:
                async with asyncio.timeout(5.0):
                    await store.release(version.id, token)
                raise
            except HearthError as error:
                self._say(job, f"version {version.number} failed: {error.message}", "error")
                result = "platform_error" if source_of(error) == "platform" else "failed"
                figures.note(runtime, result, clock.monotonic() - began)
                await store.fail(version.id, token, failure_of(error))
            except Exception:  # a fault of ours must not take the worker along, nor be tried for ever
                _log.exception("the build of %s failed", version.id)
                figures.note(runtime, "platform_error", clock.monotonic() - began)
                problem = PlatformError("something went wrong in Hearth itself", hint="its log has more")
                await store.fail(version.id, token, failure_of(problem))
            else:
                size = await self._shop.blobs.size("artifact", artifact)
                await store.built(version.id, token, artifact, toolchain, size)
        except StaleLease:
            _log.warning("version %s: its lease was lost; what was made is dropped", version.id)
        except (StoreUnavailable, TimeoutError) as error:
            _log.warning("version %s can't be settled, its lease will lapse: %s", version.id, error)
            self._shop.feed.line(
                version.id, f"what became of this can't be stored, it will be done again: {error}"
            )

    async def _retried(self, job: VersionJob) -> tuple[str, str]:
        for pause in RETRIES:
            try:
                return await self._build(job)
            except StaleLease:
                raise
            except PlatformError as error:
                self._say(job, f"trying again in {pause:g} s: {error.message}", "warning")
                await self._shop.clock.sleep(pause)
        return await self._build(job)

    async def _build(self, job: VersionJob) -> tuple[str, str]:
        """Build, or find what an equal build made; returns (artifact, exact toolchain)."""
        shop, version, config = self._shop, job.version, job.version.config

        def say(text: str) -> None:
            self._say(job, text, "info")

        if shop.blobs.free() < limits.DISK_FREE_MIN:
            raise nearly_full()
        if not shop.blobs.touch("source", version.source):
            raise PlatformError("the source of this version is gone", hint="deploy it again")
        toolchain = await shop.toolchains.get(config.runtime, config.runtime_version, say)
        runtime = shop.runtimes[config.runtime]
        source = shop.blobs.path("source", version.source)
        plan = await asyncio.to_thread(runtime.plan_build, source, config, toolchain)
        exact = f"{toolchain.runtime}-{toolchain.version}"
        key = build_key(
            namespace_id=job.function.namespace_id,
            source=version.source,
            config=config,
            toolchain=exact,
            plan_identity=plan.identity,
        )
        async with self._alone(key):
            cached = await shop.store.cached_artifact(key)
            if cached is not None and shop.blobs.touch("artifact", cached):
                say("built before from the same source: taken from the cache")
                shop.figures.note(config.runtime, "cached", 0.0)
                return cached, exact
            sandbox = shop.ids.new("sandbox")
            order = BuildOrder(sandbox, version.source, plan, toolchain, job.function.namespace_id)
            began = shop.clock.monotonic()
            artifact = await self._run(job, order, toolchain)
            shop.figures.note(config.runtime, "succeeded", shop.clock.monotonic() - began)
            await shop.store.remember_artifact(key, artifact)
        return artifact, exact

    async def _run(self, job: VersionJob, order: BuildOrder, toolchain: Toolchain) -> str:
        shop = self._shop
        row = SandboxRow(
            order.sandbox,
            shop.owner,
            shop.driver,
            "build",
            "starting",
            None,
            job.version.id,
            shop.clock.now_ms(),
        )
        await shop.store.save_sandboxes([row])
        self._say(job, f"building with {toolchain.runtime} {toolchain.version}", "info")
        try:
            return await shop.runner.run(order, lambda text: self._print(job, text))
        finally:
            gone = SandboxRow(
                row.id, row.owner, row.driver, row.kind, "gone", None, row.version_id, row.created_ms
            )
            try:
                async with asyncio.timeout(5.0):
                    await shop.store.save_sandboxes([gone])
            except (StoreUnavailable, TimeoutError):
                pass  # `clear_owners` notes it at the next start

    @asynccontextmanager
    async def _alone(self, key: str) -> AsyncIterator[None]:
        """Equal builds one after another, so that the second finds what the first made."""
        lock = self._keys.setdefault(key, asyncio.Lock())
        self._users[key] = self._users.get(key, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._keys[key]

    def _say(self, job: VersionJob, text: str, level: str) -> None:
        """The platform's own words."""
        version = job.version
        self._shop.feed.line(version.id, text)
        Story(self._shop.logs, self._shop.clock).deploy(version.function_id, version.number, text, level)

    def _print(self, job: VersionJob, text: str) -> None:
        """The build's words."""
        version, at = job.version, self._shop.clock.now_ms()
        self._shop.feed.line(version.id, text)
        line = LogLine(at, BUILD, "log", "info", text, version.number, "", None)
        self._shop.logs.write(version.function_id, line)


def failure_of(error: HearthError) -> Failure:
    """An error as a version keeps it."""
    details = error.details
    file, line = details.get("file"), details.get("line")
    return Failure(
        code=error.code,
        message=error.message,
        hint=error.hint,
        tail=str(details.get("tail", ""))[-TAIL:],
        file=file if isinstance(file, str) else None,
        line=line if isinstance(line, int) else None,
    )
