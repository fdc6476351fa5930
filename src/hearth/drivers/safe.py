"""The shell around every driver: a time limit on every call, foreign errors translated, starts limited.

A driver says what it does in terms of its technology; whoever calls it relies on the promises of `ports.driver` even when
the driver hangs or raises something of its own. `safe(driver)` keeps those promises.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from hearth.core.errors import HearthError, NoCapacity, SandboxFailed
from hearth.core.launch import Attachment, Exit, Handle, Probe, SandboxSpec, Usage
from hearth.ports.driver import CanAttach, CanListen, Driver

_FULL = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EAGAIN, errno.EDQUOT}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that a call may take; what has a deadline or a grace of its own gets `slack` on top of it."""

    probe: float = 240.0
    prepare: float = 60.0
    attach: float = 10.0
    short: float = 10.0  # list_owned, usage
    slack: float = 5.0
    stop: float = 60.0  # on top of its grace


def translate(error: BaseException, what: str) -> HearthError:
    """A driver's foreign exception as one of ours: the one table for all drivers."""
    if isinstance(error, HearthError):
        return error
    if isinstance(error, TimeoutError):
        return SandboxFailed(f"{what} took too long")
    if isinstance(error, OSError) and error.errno in _FULL:
        return NoCapacity(f"{what} found no room on this node: {error.strerror}", retry_after=1)
    if isinstance(error, OSError):
        return SandboxFailed(f"{what} failed: {error.strerror or error}")
    return SandboxFailed(f"{what} failed ({type(error).__name__})")


class SafeDriver:
    """Args:
    driver: what is made safe.
    max_starts: how many sandboxes may be starting at once.
    timeouts: see there.
    """

    def __init__(self, driver: Driver, max_starts: int, timeouts: Timeouts) -> None:
        self.name = driver.name
        self._driver = driver
        self._timeouts = timeouts
        self._starts = asyncio.Semaphore(max_starts)

    async def probe(self) -> Probe:
        async with _guarded("probing", self._timeouts.probe):
            return await self._driver.probe()

    async def prepare(self, artifact: str) -> None:
        async with _guarded("preparing an artifact", self._timeouts.prepare):
            await self._driver.prepare(artifact)

    async def start(self, spec: SandboxSpec, deadline: float) -> Handle:
        """See the port. Waiting for a turn counts towards the deadline."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._starts.acquire()
        except TimeoutError as error:
            raise NoCapacity("too many sandboxes are starting at once", retry_after=1) from error
        try:
            async with _guarded("starting a sandbox", deadline - time.monotonic() + self._timeouts.slack):
                return await self._driver.start(spec, deadline)
        finally:
            self._starts.release()

    async def connect(self, handle: Handle, deadline: float) -> int:
        async with _guarded("waiting for a guest", deadline - time.monotonic() + self._timeouts.slack):
            return await self._driver.connect(handle, deadline)

    async def listen(self, handle: Handle) -> int | None:
        """See `ports.driver.CanListen`; None where the driver is not."""
        if not isinstance(self._driver, CanListen):
            return None
        async with _guarded("listening in a sandbox", self._timeouts.short):
            return await self._driver.listen(handle)

    def output(self, handle: Handle) -> tuple[int, int]:
        try:
            return self._driver.output(handle)
        except Exception as error:  # whatever a driver raises: that is what this class is for
            if isinstance(error, HearthError):
                raise
            raise translate(error, "taking a sandbox's output") from error

    async def wait(self, handle: Handle) -> Exit:
        """See the port; the one call without a limit."""
        async with _guarded("waiting for a sandbox's end", None):
            return await self._driver.wait(handle)

    async def stop(self, handle: Handle, grace: float) -> Exit:
        async with _guarded("stopping a sandbox", max(grace, 0.0) + self._timeouts.stop):
            return await self._driver.stop(handle, max(grace, 0.0))

    async def list_owned(self, owner: str | None) -> list[Handle]:
        async with _guarded("listing sandboxes", self._timeouts.short):
            return await self._driver.list_owned(owner)

    async def usage(self, handle: Handle) -> Usage:
        async with _guarded("reading a sandbox's usage", self._timeouts.short):
            return await self._driver.usage(handle)


class SafeAttachingDriver(SafeDriver):
    """A safe driver that is `CanAttach`, because the one inside is."""

    def __init__(self, driver: Driver, attacher: CanAttach, max_starts: int, timeouts: Timeouts) -> None:
        super().__init__(driver, max_starts, timeouts)
        self._attacher = attacher

    async def attach(self, handle: Handle, attachment: Attachment) -> None:
        async with _guarded("attaching a version", self._timeouts.attach):
            await self._attacher.attach(handle, attachment)


def safe(driver: Driver, *, max_starts: int = 4, timeouts: Timeouts | None = None) -> SafeDriver:
    """The same driver, with its promises held; `CanAttach` if and only if the given one is."""
    chosen = timeouts if timeouts is not None else Timeouts()
    if isinstance(driver, CanAttach):
        return SafeAttachingDriver(driver, driver, max_starts, chosen)
    return SafeDriver(driver, max_starts, chosen)


@contextlib.asynccontextmanager
async def _guarded(what: str, limit: float | None) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(None if limit is None else max(limit, 0.0)):
            yield
    except Exception as error:  # whatever a driver raises: that is what this module is for
        if isinstance(error, HearthError):
            raise
        raise translate(error, what) from error
