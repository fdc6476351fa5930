"""What becomes of containers when their daemon, or somebody else, does something that nobody asked for. A real daemon, really restarted."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hearth.core.errors import HearthError, SandboxFailed
from hearth.core.launch import Exit, Limits
from hearth.drivers.docker import DockerDriver
from hearth.drivers.docker.engine import EngineGone
from hearth.drivers.docker.images import IMAGES
from hearth.drivers.docker.probe import _run
from hearth.drivers.docker.sandbox import Sandbox
from hearth.drivers.docker.spec import INSTANCE, SANDBOX
from tests.contract.driver_cases import Rig, docker_rig, read_some, read_until, soon
from tests.dockerd import Dockerd
from tests.patience import patient

pytestmark = pytest.mark.docker
WAIT = "s = dial(); s.sendall(b'up\\n'); s.recv(1)"


@pytest.fixture
async def rig(tmp_path: Path, dockerd: Dockerd) -> AsyncIterator[Rig]:
    async with docker_rig(tmp_path, dockerd) as ready:
        yield ready


async def names(dockerd: Dockerd) -> set[str]:
    found = (await dockerd.request("GET", "/containers/json", all="1")).json()
    return {name for one in found for name in one["Names"]}


async def made(dockerd: Dockerd, name: str, labels: dict[str, str] | None = None) -> str:
    """Somebody's container, running."""
    body = {
        "Image": IMAGES["python"],
        "Cmd": ["sleep", "1000"],
        "Labels": labels or {},
        "HostConfig": {"NetworkMode": "none"},
    }
    answer = await dockerd.request("POST", "/containers/create", body, name=name)
    assert answer.status_code == 201, answer.text
    container = str(answer.json()["Id"])
    assert (await dockerd.request("POST", f"/containers/{container}/start")).status_code == 204
    return container


async def removed(dockerd: Dockerd, container: str) -> None:
    await dockerd.request("DELETE", f"/containers/{container}", force="1")


async def restarted(dockerd: Dockerd, how: str) -> None:
    await asyncio.to_thread(dockerd.kill if how == "crash" else dockerd.stop)
    await asyncio.to_thread(dockerd.start)


async def gone(rig: Rig, dockerd: Dockerd) -> None:
    """Wait until this instance has no container any more."""
    async with asyncio.timeout(patient(60)):
        while [name for name in await names(dockerd) if rig.inner._instance in name]:
            await rig.inner._reconcile()


async def ended(rig: Rig, handle: Any) -> Exit:
    return await asyncio.wait_for(rig.driver.wait(handle), patient(60))


async def test_a_trial_hears_all_of_what_is_said_line_by_line(rig: Rig) -> None:
    script = "i=0; while [ $i -lt 60 ]; do echo $i; sleep 0.02; i=$((i+1)); done"
    ended, said = await _run(rig.driver, script, Limits())
    assert (ended.code, said.split()) == (0, [str(number) for number in range(60)])


async def test_a_container_that_somebody_removes(rig: Rig, dockerd: Dockerd) -> None:
    handle = await rig.start(WAIT)
    fd = await rig.driver.connect(handle, soon())
    await read_until(fd, b"up\n")
    await removed(dockerd, rig.inner._table.find(handle).container)
    assert (await ended(rig, handle)).signal == signal.SIGKILL
    assert await read_some(fd) == b""
    os.close(fd)
    await rig.driver.stop(handle, 1)
    assert await rig.driver.list_owned(None) == []


async def test_a_container_that_somebody_kills_is_no_matter_of_memory(rig: Rig, dockerd: Dockerd) -> None:
    handle = await rig.start(WAIT)
    container = rig.inner._table.find(handle).container
    await dockerd.request("POST", f"/containers/{container}/kill")
    end = await ended(rig, handle)
    assert (end.signal, end.oom) == (signal.SIGKILL, False)
    await rig.driver.stop(handle, 0)


@pytest.mark.parametrize("how", ["crash", "stop"])
async def test_a_daemon_that_restarts_under_load(rig: Rig, dockerd: Dockerd, how: str) -> None:
    stranger = await made(dockerd, f"stranger-{how}")
    standing = [await rig.start(WAIT) for _ in range(3)]
    starting = [asyncio.ensure_future(rig.driver.start(rig.spec(WAIT), soon(patient(60)))) for _ in range(4)]
    await asyncio.wait(starting, return_when=asyncio.FIRST_COMPLETED)
    await restarted(dockerd, how)
    results = await asyncio.gather(*starting, return_exceptions=True)
    assert all(isinstance(result, (str, HearthError)) for result in results), results
    for handle in standing:  # without live restore, containers end with their daemon
        assert (await ended(rig, handle)).code is None
    for handle in await rig.driver.list_owned(None):
        await rig.driver.stop(handle, 0)
    again = await rig.start(WAIT)  # and it goes on
    await rig.driver.stop(again, 0)
    await gone(rig, dockerd)
    assert f"/stranger-{how}" in await names(dockerd)
    await removed(dockerd, stranger)


async def test_stopping_while_the_daemon_is_gone_and_nothing_stays_when_it_is_back(
    rig: Rig, dockerd: Dockerd
) -> None:
    handle = await rig.start("import signal; signal.signal(15, signal.SIG_IGN)\n" + WAIT)
    fd = await rig.driver.connect(handle, soon())
    await read_until(fd, b"up\n")
    await asyncio.to_thread(dockerd.kill)
    try:
        await rig.driver.stop(handle, 0)  # its processes are gone when this returns
        assert await read_some(fd) == b""
        with pytest.raises(SandboxFailed, match="docker"):
            await rig.start(WAIT)
    finally:
        await asyncio.to_thread(dockerd.start)
    os.close(fd)
    await gone(rig, dockerd)


async def test_containers_that_outlive_their_daemon_are_heard_again(rig: Rig, dockerd: Dockerd) -> None:
    dockerd.configure(live_restore=True)
    await asyncio.to_thread(dockerd.stop)
    await asyncio.to_thread(dockerd.start)
    try:
        handle = await rig.start(
            "s = dial(); s.sendall(b'up\\n'); s.recv(1)\nprint('afterwards', flush=True)\ns.sendall(b'x\\n'); s.recv(1)\nsys.exit(4)"
        )
        fd = await rig.driver.connect(handle, soon())
        out, err = rig.driver.output(handle)
        await read_until(fd, b"up\n")
        streams = rig.inner._table.find(handle)._streams
        await restarted(dockerd, "crash")
        while streams.ended.is_set() or not streams._reading:
            await rig.inner._reconcile()
        os.write(fd, b"x")
        assert await read_until(out, b"\n") == b"afterwards\n"
        assert await read_until(fd, b"\n") == b"x\n"
        os.write(fd, b"x")
        assert (await ended(rig, handle)).code == 4
        for one in (fd, out, err):
            os.close(one)
        await rig.driver.stop(handle, 0)
    finally:
        dockerd.configure(live_restore=False)
        await restarted(dockerd, "stop")


async def test_a_reply_to_create_that_is_lost(
    rig: Rig, dockerd: Dockerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = rig.inner._ready().engine
    request, lost = engine.request, []

    async def lossy(method: str, path: str, **more: Any) -> Any:
        answer = await request(method, path, **more)
        if path == "/containers/create" and not lost:
            lost.append(answer["Id"])
            raise EngineGone("the reply was lost")
        return answer

    monkeypatch.setattr(engine, "request", lossy)
    handle = await rig.start(WAIT)
    assert rig.inner._table.find(handle).container == lost[0]  # the one that was made, and no second one
    assert len([name for name in await names(dockerd) if rig.inner._instance in name]) == 1
    await rig.driver.stop(handle, 0)


async def test_a_name_that_is_taken(rig: Rig, dockerd: Dockerd) -> None:
    spec = rig.spec(WAIT)
    stranger = await made(dockerd, f"hearth-{rig.inner._instance}-{spec.id}")
    handle = await rig.driver.start(spec, soon())
    sandbox: Sandbox = rig.inner._table.find(handle)
    assert sandbox.container != stranger
    await rig.driver.stop(handle, 0)
    found = (await dockerd.request("GET", f"/containers/{stranger}/json")).json()
    assert found["State"]["Running"]
    await removed(dockerd, stranger)


async def test_what_an_earlier_keeper_left_is_removed_and_nothing_else(
    rig: Rig, dockerd: Dockerd, tmp_path: Path
) -> None:
    instance = "t0123456789"
    left = await made(dockerd, "left", {INSTANCE: instance, SANDBOX: "sb_left"})
    others = await made(dockerd, "others", {INSTANCE: "another", SANDBOX: "sb_left"})
    plain = await made(dockerd, "plain")
    driver = DockerDriver(
        instance=instance,
        run=Path(f"/run/hearth-docker-{instance}"),
        data=tmp_path / "data",
        folders=rig.folders,
        socket=dockerd.socket,
    )
    await driver.open()
    await driver.close()
    found = await names(dockerd)
    assert "/left" not in found
    assert {"/others", "/plain"} <= found
    for container in (left, others, plain):
        await removed(dockerd, container)
