"""The shell around drivers: what a bad driver does reaches nobody."""

from __future__ import annotations

import asyncio
import errno
import secrets
import time

import pytest

from hearth.core.errors import HearthError, LimitUnenforceable, NoCapacity, SandboxFailed
from hearth.core.ids import new_id
from hearth.core.launch import Attachment, Exit, Handle, Limits, Network, Probe, SandboxSpec, Usage
from hearth.drivers.safe import Timeouts, safe, translate
from hearth.ports.driver import CanAttach


class BadDriver:
    """Does in every call what it was told: raises an error, or hangs (None)."""

    name = "bad"

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
        self.starting = 0
        self.most = 0
        self.cancelled = 0

    async def _misbehave(self) -> None:
        if self.error is not None:
            raise self.error
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def probe(self) -> Probe:
        await self._misbehave()
        raise AssertionError

    async def prepare(self, artifact: str) -> None:
        await self._misbehave()

    async def start(self, spec: SandboxSpec, deadline: float) -> Handle:
        self.starting += 1
        self.most = max(self.most, self.starting)
        try:
            await self._misbehave()
        finally:
            self.starting -= 1
        raise AssertionError

    async def connect(self, handle: Handle, deadline: float) -> int:
        await self._misbehave()
        raise AssertionError

    def output(self, handle: Handle) -> tuple[int, int]:
        raise self.error or KeyError("x")

    async def wait(self, handle: Handle) -> Exit:
        await self._misbehave()
        raise AssertionError

    async def stop(self, handle: Handle, grace: float) -> Exit:
        await self._misbehave()
        raise AssertionError

    async def list_owned(self, owner: str | None) -> list[Handle]:
        await self._misbehave()
        raise AssertionError

    async def usage(self, handle: Handle) -> Usage:
        await self._misbehave()
        raise AssertionError


class BadAttacher(BadDriver):
    async def attach(self, handle: Handle, attachment: Attachment) -> None:
        await self._misbehave()


def fresh(kind: str) -> str:
    return new_id(kind, time.time_ns() // 1_000_000, secrets.token_bytes(10))


SPEC = SandboxSpec(id=fresh("sandbox"), owner=fresh("owner"), argv=("/bin/true",))
HANDLE = Handle("bad/1:x")
SHORT = Timeouts(probe=0.01, prepare=0.01, attach=0.01, short=0.01, slack=0.01, stop=0.01)


def calls(error: BaseException | None) -> list[object]:
    driver = safe(BadAttacher(error), timeouts=SHORT)
    assert isinstance(driver, CanAttach)
    soon = time.monotonic() + 0.01
    return [
        driver.probe(),
        driver.prepare("a"),
        driver.start(SPEC, soon),
        driver.connect(HANDLE, soon),
        driver.stop(HANDLE, 0.0),
        driver.list_owned(None),
        driver.usage(HANDLE),
        driver.attach(HANDLE, Attachment("a", Limits(), Network())),
    ]


async def test_every_call_that_hangs_ends() -> None:
    results = await asyncio.gather(*calls(None), return_exceptions=True)
    assert [type(result) for result in results] == [SandboxFailed] * len(results)


async def test_every_foreign_error_becomes_one_of_ours() -> None:
    results = await asyncio.gather(*calls(RuntimeError("inner secret")), return_exceptions=True)
    assert [type(result) for result in results] == [SandboxFailed] * len(results)
    assert not any("inner secret" in str(result) for result in results)
    with pytest.raises(SandboxFailed):
        safe(BadDriver(KeyError("x"))).output(HANDLE)


async def test_our_own_errors_pass_as_they_are() -> None:
    for error in (LimitUnenforceable("no"), NoCapacity("full"), SandboxFailed("x")):
        results = await asyncio.gather(*calls(error), return_exceptions=True)
        assert all(result is error for result in results)
        with pytest.raises(type(error)):
            safe(BadDriver(error)).output(HANDLE)


async def test_wait_has_no_limit_and_can_be_left() -> None:
    driver = BadDriver(None)
    waiting = asyncio.ensure_future(safe(driver, timeouts=SHORT).wait(HANDLE))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert driver.cancelled == 1


async def test_starts_are_limited_and_waiting_for_a_turn_counts() -> None:
    driver = BadDriver(None)
    wrapped = safe(driver, max_starts=2, timeouts=SHORT)
    soon = time.monotonic() + 0.03
    results = await asyncio.gather(*(wrapped.start(SPEC, soon) for _ in range(6)), return_exceptions=True)
    assert driver.most == 2
    assert {type(result) for result in results} == {SandboxFailed, NoCapacity}
    assert driver.starting == 0


def test_a_driver_that_can_not_attach_stays_one() -> None:
    assert not isinstance(safe(BadDriver(None)), CanAttach)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (OSError(errno.EMFILE, "too many open files"), NoCapacity),
        (OSError(errno.ENOSPC, "no space"), NoCapacity),
        (OSError(errno.EPERM, "not permitted"), SandboxFailed),
        (TimeoutError(), SandboxFailed),
        (KeyError("x"), SandboxFailed),
        (LimitUnenforceable("x"), LimitUnenforceable),
    ],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)
def test_the_table_of_errors(error: BaseException, wanted: type[HearthError]) -> None:
    assert type(translate(error, "it")) is wanted
