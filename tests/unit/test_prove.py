"""The prover: one real launch decides; every claim is settled, given back or taken over."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from hearth.app import prove as module
from hearth.app.prove import LEASE, Prover
from hearth.app.story import Story
from hearth.core.errors import (
    FunctionLoadFailed,
    NoCapacity,
    NotFound,
    SandboxFailed,
    StaleLease,
    StoreUnavailable,
)
from hearth.core.records import Failure, Lease, VersionJob
from hearth.core.version import VersionState
from hearth.testing.guest import FakeGuest
from hearth.testing.workshop import LocalBus
from tests.unit.pool_kit import Kit, function_row, make_kit, version, version_row


@dataclass
class Work:
    """WorkStore over one version."""

    jobs: int = 1
    said: list[tuple[object, ...]] = field(default_factory=list)
    stale: bool = False
    down: bool = False

    async def claim_proof(self, owner: str, lease_s: float) -> VersionJob | None:
        if self.down:
            raise StoreUnavailable("down")
        if not self.jobs:
            return None
        self.jobs -= 1
        return VersionJob(version_row(state=VersionState.PROVING), function_row("hello"), Lease(7, owner, 1))

    async def publish(self, version_id: str, token: int, handler: str) -> None:
        if self.stale:
            raise StaleLease("somebody else's")
        self.said.append(("publish", version_id, token, handler))

    async def fail(self, version_id: str, token: int, failure: Failure) -> None:
        self.said.append(("fail", version_id, token, failure))

    async def release(self, version_id: str, token: int) -> None:
        self.said.append(("release", version_id, token))

    async def renew(self, version_id: str, token: int, lease_s: float) -> None:
        self.said.append(("renew", version_id, token))

    async def rebuild(self, version_id: str) -> None:
        self.said.append(("rebuild", version_id))


def prover(kit: Kit, work: Work) -> tuple[Prover, LocalBus]:
    bus = LocalBus()
    made = Prover(work, kit.launcher, kit.pool, bus, kit.clock, "own_1", Story(kit.logs, kit.clock))  # type: ignore[arg-type]
    kit.launcher._on_parts_gone = made.rebuild
    return made, bus


async def test_what_loads_is_published_and_stays_warm() -> None:
    kit, work = make_kit(), Work()
    made, _ = prover(kit, work)
    assert await made.step()
    assert work.said == [("publish", "ver_hello_1", 7, "handler.handler")]
    assert kit.pool.take(version()) is not None
    assert not await made.step()
    await kit.close()


async def test_what_does_not_load_fails_with_its_reason() -> None:
    error = FunctionLoadFailed(
        "ImportError: nope", details={"traceback": "Traceback …", "file": "handler.py", "line": 3}
    )
    kit, work = make_kit(guest=lambda fd: FakeGuest(ready=error)), Work()
    made, _ = prover(kit, work)
    await made.step()
    ((what, _, token, failure),) = work.said
    assert (what, token) == ("fail", 7)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.file, failure.line) == ("function_load_failed", "handler.py", 3)
    assert "Traceback" in failure.tail
    assert not kit.driver.running
    await kit.close()


async def test_the_platforms_trouble_is_tried_again_and_is_not_the_functions_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.0)
    kit, work = make_kit(), Work(jobs=2)
    kit.driver.script.start.extend([SandboxFailed("no"), None])
    made, _ = prover(kit, work)
    await made.step()
    assert work.said[-1][0] == "publish"
    await kit.pool.close()
    kit.driver.script.start.extend([NoCapacity("full")] * 10)
    await made.step()
    assert work.said[-1][0] == "release"
    await kit.close()


async def test_missing_parts_send_it_back_to_be_built() -> None:
    kit, work = make_kit(), Work()
    kit.driver.script.attach.append(NotFound("no such artifact"))
    made, _ = prover(kit, work)
    await made.step()
    await kit.settle()
    assert work.said == [("rebuild", "ver_hello_1")]
    await kit.close()


async def test_a_proof_that_comes_too_late_leaves_nothing_running() -> None:
    kit, work = make_kit(), Work(stale=True)
    made, _ = prover(kit, work)
    assert await made.step()
    assert not kit.driver.running and not kit.pool.instances
    await kit.close()


async def test_a_long_proof_renews_its_lease_and_a_cancelled_one_gives_it_back() -> None:
    kit, work = make_kit(), Work()
    kit.driver.gate = asyncio.Event()
    made, _ = prover(kit, work)
    running = asyncio.create_task(made.run())
    await kit.settle()
    kit.clock.advance(LEASE / 3)
    await kit.settle()
    assert work.said == [("renew", "ver_hello_1", 7)]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert work.said[-1] == ("release", "ver_hello_1", 7)
    await kit.close()


async def test_a_hint_wakes_it_and_a_store_that_is_down_does_not_end_it() -> None:
    kit, work = make_kit(), Work(jobs=0, down=True)
    made, bus = prover(kit, work)
    running = asyncio.create_task(made.run())
    await kit.settle()
    work.down, work.jobs = False, 1
    bus.publish("versions")
    await kit.settle()
    assert work.said[-1][0] == "publish"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await kit.close()
