"""The collector on a real store and real files: what nobody needs goes, and nothing else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from hearth.app.retention import Retention
from hearth.core import limits
from tests.integration.build_platform import Platform, archive, platform


@pytest.fixture
async def plat(tmp_path: Path) -> AsyncIterator[Platform]:
    async with platform(tmp_path) as made:
        yield made


@pytest.fixture
async def jo(plat: Platform) -> dict[str, str]:
    return await plat.api.register("jo@example.com", namespace="jo-fn")


async def function_of(plat: Platform) -> str:
    row = await plat.api.store.find_function("jo-fn", "hello")
    assert row is not None
    return row.id


class Hints:
    """A bus that only the test rings."""

    def __init__(self) -> None:
        self.ring: list[Callable[[], None]] = []

    def publish(self, topic: str) -> None:
        raise AssertionError("retention has nothing to tell")

    def subscribe(self, topic: str, callback: Callable[[], None]) -> None:
        self.ring.append(callback)


def age(plat: Platform) -> None:
    for kind in ("source", "artifact"):
        for digest in plat.blobs.listing(kind):
            os.utime(plat.blobs.path(kind, digest), (1, 1))


async def test_what_a_deleted_function_had_is_removed(plat: Platform, jo: dict[str, str]) -> None:
    await plat.deploy(jo, archive())
    await plat.deploy(jo, archive("other"), "other")
    with plat.workers() as task:
        row = await plat.settled(await function_of(plat), 1, "built")
        other = await plat.api.store.find_function("jo-fn", "other")
        assert other is not None
        await plat.settled(other.id, 1, "built")
    await task
    retention = Retention(plat.api.store, plat.blobs, plat.api.clock, Hints(), "own_control")
    age(plat)
    assert await retention.files() == 0
    await plat.api.store.delete_function(row.function_id)
    os.utime(plat.blobs.path("source", row.source))  # deployed again this moment: its row comes
    assert await retention.files() == 1
    assert not plat.blobs.exists("artifact", row.artifact)
    age(plat)
    assert await retention.files() == 1
    assert len(plat.blobs.listing("source")) == len(plat.blobs.listing("artifact")) == 1
    again = await plat.deploy(jo, archive())  # a cached build of an artifact that is gone is none
    assert again.status_code == 202
    with plat.workers() as task:
        rebuilt = await plat.settled(await function_of(plat), 1, "built")
    await task
    assert rebuilt.artifact == row.artifact and plat.blobs.exists("artifact", row.artifact)


async def test_old_versions_go_by_themselves(plat: Platform, jo: dict[str, str]) -> None:
    hints = Hints()
    collector = Retention(plat.api.store, plat.blobs, plat.api.clock, hints, "own_control")
    running = asyncio.create_task(collector.run())
    store = plat.api.store
    try:
        with plat.workers() as task:
            for number in range(1, 13):
                await plat.deploy(jo, archive(build=f"echo {number} > made"))
                function = await function_of(plat)
                await plat.settled(function, number, "built")
                proof = await store.claim_proof("prover", 30)
                assert proof is not None
                await store.publish(proof.version.id, proof.lease.token, "handler.handler")
        await task
        first = await store.find_version(function, 1)
        age(plat)
        for ring in hints.ring:
            ring()
        async with asyncio.timeout(20):
            while len(kept := await store.version_uses(function, None, 99)) > 10:
                plat.api.clock.advance(1.0)
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert [use.version.number for use in kept] == list(range(12, 2, -1))
    assert first is None or plat.blobs.exists(
        "artifact", first.artifact
    )  # an instance may come up this moment
    age(plat)
    await collector.files()
    assert len(plat.blobs.listing("source")) == len(plat.blobs.listing("artifact")) == 10


async def test_while_another_control_collects_nothing_is_done(plat: Platform, jo: dict[str, str]) -> None:
    mine = Retention(plat.api.store, plat.blobs, plat.api.clock, Hints(), "own_mine")
    await plat.deploy(jo, archive())
    events = await plat.api.store.last_event()
    plat.api.clock.advance(limits.EVENT_AGE + 1)
    assert await plat.api.store.hold("retention", "own_other", 60)
    assert await mine.rows() == 0
    await plat.api.store.let_go("retention", "own_other")
    assert await mine.rows() >= events
    assert await plat.api.store.hold("retention", "own_other", 60)  # and it was let go
