"""Build workers: one build of equal sources, claims that survive, failures that are told apart."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hearth.app.builds import LEASE
from hearth.core.errors import KeeperUnavailable
from hearth.core.launch import Handle, SandboxSpec
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


async def test_equal_sources_are_built_once(plat: Platform, jo: dict[str, str]) -> None:
    for _ in range(3):
        await plat.deploy(jo, archive())
    function = await function_of(plat)
    with plat.workers(3) as task:
        rows = [await plat.settled(function, n, "built") for n in (1, 2, 3)]
    await task
    assert len({row.artifact for row in rows}) == 1
    assert len(plat.driver.specs) == 1


async def test_namespaces_share_nothing(plat: Platform, jo: dict[str, str]) -> None:
    ann = await plat.api.register("ann@example.com", namespace="ann")
    await plat.deploy(jo, archive())
    answer = await plat.api.client.post(
        "/api/v1/functions/ann/hello/versions",
        content=archive(),
        headers=ann | {"content-type": "application/gzip"},
    )
    assert answer.status_code == 202
    other = await plat.api.store.find_function("ann", "hello")
    assert other is not None
    with plat.workers() as task:
        await plat.settled(await function_of(plat), 1, "built")
        await plat.settled(other.id, 1, "built")
    await task
    disks = [spec.disk.name for spec in plat.driver.specs if spec.disk is not None]
    assert len(set(disks)) == 2


async def test_a_version_whose_artifact_is_gone_is_built_again(plat: Platform, jo: dict[str, str]) -> None:
    import shutil

    await plat.deploy(jo, archive())
    function = await function_of(plat)
    with plat.workers() as task:
        row = await plat.settled(function, 1, "built")
        shutil.rmtree(plat.blobs.path("artifact", row.artifact))
        await plat.api.store.rebuild(row.id)
        while not plat.blobs.exists("artifact", row.artifact):
            await asyncio.sleep(0.01)
        await plat.settled(function, 1, "built")
    await task
    assert len(plat.driver.specs) == 2


async def test_draining_gives_the_build_back(plat: Platform, jo: dict[str, str], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    await plat.deploy(jo, archive(build=f"cat {gate}"))
    with plat.workers() as task:
        await plat.settled(await function_of(plat), 1, "building")
        while not plat.driver.started:
            await asyncio.sleep(0.01)
    await task
    row = await plat.settled(await function_of(plat), 1, "pending")
    assert plat.driver.started == {}
    job = await plat.api.store.claim_build("own_next", LEASE)
    assert job is not None
    assert (job.version.id, job.lease.attempt) == (row.id, 1)


async def test_a_dead_worker_is_replaced_once(plat: Platform, jo: dict[str, str]) -> None:
    await plat.deploy(jo, archive())
    assert await plat.api.store.claim_build("own_dead", 0) is not None
    with plat.workers() as task:
        await plat.settled(await function_of(plat), 1, "built")
    await task


async def test_a_lost_lease_ends_the_build(plat: Platform, jo: dict[str, str], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    await plat.deploy(jo, archive(build=f"cat {gate}"))
    function = await function_of(plat)
    with plat.workers(1) as task:
        row = await plat.settled(function, 1, "building")
        while not plat.driver.started:
            await asyncio.sleep(0.01)
        await plat.api.store.delete_function(function)
        plat.api.clock.advance(LEASE / 3)
        while plat.driver.started:
            await asyncio.sleep(0.01)
    await task
    assert await plat.api.store.find_version(function, row.number) is None


async def test_the_platforms_own_failures_are_tried_again(
    plat: Platform, jo: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = plat.driver.start, 0

    async def start(spec: SandboxSpec, deadline: float) -> Handle:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise KeeperUnavailable("the keeper has gone")
        return await real(spec, deadline)

    monkeypatch.setattr(plat.driver, "start", start)
    await plat.deploy(jo, archive())
    with plat.workers(1) as task:
        function = await function_of(plat)
        settled = asyncio.create_task(plat.settled(function, 1, "built", "failed"))
        while not settled.done():
            plat.api.clock.advance(1.0)
            await asyncio.sleep(0.01)
    await task
    assert (settled.result().state.value, calls) == ("built", 3)


async def test_a_version_that_nobody_has(plat: Platform, jo: dict[str, str]) -> None:
    await plat.deploy(jo, archive(function__yaml="name: hello\nruntime: python3.99\n"))
    with plat.workers(1) as task:
        row = await plat.settled(await function_of(plat), 1, "failed", "built")
    await task
    assert row.failure is not None
    assert "no python 3.99" in row.failure.message


async def test_faults_of_ours_fail_the_version_and_spare_the_worker(
    plat: Platform, jo: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(plat.workshop.runtimes["node"], "plan_build", broken)
    await plat.deploy(jo, archive())
    with plat.workers(1) as task:
        row = await plat.settled(await function_of(plat), 1, "failed")
        monkeypatch.undo()
        await plat.deploy(jo, archive())
        await plat.settled(await function_of(plat), 2, "built")
    await task
    assert row.failure is not None
    assert "a fault" not in row.failure.message
