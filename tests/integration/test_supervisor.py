"""The supervisor with small real processes in the place of the platform's."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from hearth.core.errors import Conflict, StartupFailed
from hearth.supervisor.child import ChildSpec
from hearth.supervisor.datadir import DataDir
from hearth.supervisor.sockets import bind_public
from hearth.supervisor.supervisor import Supervisor

CHILD = textwrap.dedent("""
    import json, os, signal, sys
    config = json.load(open(int(sys.argv[-1]), "rb"))
    fds = config["fds"]
    note = os.open(config["note"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    def say(word):
        os.write(note, f"{config['name']} {word}\\n".encode())
    def end(*_):
        say("stopped")
        os._exit(0)
    def drain(number, _):
        say(signal.Signals(number).name)
        os.write(fds["ready"], b'{"draining": true}\\n')
        if not config.get("drains"):
            end()
    def hurry(*_):
        say("hurried")
        if config["drains"] != "deaf":
            end()
    signal.signal(signal.SIGTERM, drain if config.get("drains") else end)
    signal.signal(signal.SIGUSR1, drain)
    signal.signal(signal.SIGUSR2, hurry)
    os.write(fds["ready"], json.dumps({"owner": f"own_{os.getpid()}"}).encode() + b"\\n")
    say("started")
    if config["dead"]:
        say("after " + ",".join(config["dead"]))
    if config.get("fail"):
        os.write(fds["ready"], json.dumps({"error": {"code": "conflict", "message": "no", "hint": "yes"}}).encode() + b"\\n")
        sys.exit(1)
    if config.get("die"):
        sys.exit(3)
    os.write(fds["ready"], json.dumps({"pid": os.getpid()}).encode() + b"\\n")
    os.read(fds["lifeline"], 1)
    say("orphaned")
""")


def spec(tmp_path: Path, name: str, stage: int, **config: Any) -> ChildSpec:
    """`drains`: True for one that ends only when it is hurried, "deaf" for one that doesn't even then."""
    return ChildSpec(
        name,
        (sys.executable, "-I", "-S", "-c", CHILD),
        {"name": name, "note": str(tmp_path / "notes"), **config},
        stage,
        drains="drains" in config,
        overlaps="drains" in config,
        ready_timeout=20,
    )


def notes(tmp_path: Path) -> list[str]:
    return (tmp_path / "notes").read_text().splitlines()


async def until(condition: Any, what: str) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what


async def test_starts_in_order_and_stops_in_the_opposite_one(tmp_path: Path) -> None:
    supervisor = Supervisor([spec(tmp_path, "b", 1), spec(tmp_path, "a", 0)], 5)

    def ready(said: dict[str, dict[str, Any]]) -> None:
        assert len({message["pid"] for message in said.values()}) == 2
        os.kill(os.getpid(), signal.SIGTERM)

    await supervisor.run(ready)
    assert notes(tmp_path) == ["a started", "b started", "b stopped", "a stopped"]


async def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    supervisor = Supervisor([spec(tmp_path, "a", 0)], 5)
    up = asyncio.Event()
    pids: list[int] = []

    def ready(said: dict[str, dict[str, Any]]) -> None:
        pids.append(said["a"]["pid"])
        up.set()

    running = asyncio.create_task(supervisor.run(ready))
    await up.wait()
    os.kill(pids[0], signal.SIGKILL)
    await until(lambda: notes(tmp_path).count("a started") == 2, "started again")
    os.kill(os.getpid(), signal.SIGINT)
    await running
    assert "a orphaned" not in notes(tmp_path)


async def test_who_comes_after_a_killed_child_is_told_of_it(tmp_path: Path) -> None:
    supervisor = Supervisor([spec(tmp_path, "a", 0)], 5)
    pids: list[int] = []
    running = asyncio.create_task(supervisor.run(lambda said: pids.append(said["a"]["pid"])))
    await until(lambda: pids, "up")
    os.kill(pids[0], signal.SIGKILL)
    await until(lambda: f"a after own_{pids[0]}" in notes(tmp_path), "told")
    os.kill(os.getpid(), signal.SIGTERM)
    await running


async def up(supervisor: Supervisor) -> tuple[asyncio.Task[None], int]:
    """Run it until "a" is ready; returns its task and the pid of "a"."""
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(supervisor.run(lambda said: ready.set_result(said["a"]["pid"])))
    return running, await ready


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_a_hang_up_replaces_what_may_overlap(tmp_path: Path) -> None:
    specs = [spec(tmp_path, "a", 0, drains=True), spec(tmp_path, "b", 0)]
    again = [spec(tmp_path, "a", 0, drains=True, more="new"), spec(tmp_path, "b", 0)]
    running, before = await up(Supervisor(specs, 30, again=lambda: again))
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: "a SIGTERM" in notes(tmp_path), "asked to go")
    assert [line for line in notes(tmp_path) if line[0] == "a"] == ["a started", "a started", "a SIGTERM"]
    assert lives(before), "it drains"
    assert notes(tmp_path).count("b started") == 1
    os.kill(before, signal.SIGKILL)  # it has gone: nobody comes after it, since somebody is there
    await until(lambda: not lives(before), "reaped")
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: "a SIGUSR1" in notes(tmp_path), "the platform stops")
    os.kill(os.getpid(), signal.SIGTERM)
    await running
    assert notes(tmp_path).count("a started") == 2
    assert notes(tmp_path).count("a hurried") == 1


async def test_one_that_is_asked_to_go_by_hand_has_a_successor_at_once(tmp_path: Path) -> None:
    running, before = await up(Supervisor([spec(tmp_path, "a", 0, drains=True)], 30))
    os.kill(before, signal.SIGTERM)
    await until(lambda: notes(tmp_path).count("a started") == 2, "a successor")
    assert lives(before)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    await running
    assert not lives(before)


async def test_a_successor_that_fails_leaves_the_one_before_alone(tmp_path: Path) -> None:
    again = [spec(tmp_path, "a", 0, drains=True, fail=True), spec(tmp_path, "c", 1, drains=True)]
    running, before = await up(
        Supervisor(
            [spec(tmp_path, "a", 0, drains=True), spec(tmp_path, "c", 1, drains=True)],
            30,
            again=lambda: again,
        )
    )
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: notes(tmp_path).count("a started") == 2, "tried")
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: notes(tmp_path).count("a started") == 3, "tried again")
    assert lives(before)
    assert notes(tmp_path).count("c started") == 1
    assert "a SIGTERM" not in notes(tmp_path)
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: "c SIGUSR1" in notes(tmp_path), "told at once, whatever its stage")
    os.kill(os.getpid(), signal.SIGTERM)
    await running


async def test_the_third_signal_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hearth.supervisor.supervisor._HURRY_SLACK", 600)
    running, _ = await up(Supervisor([spec(tmp_path, "a", 0), spec(tmp_path, "b", 1, drains="deaf")], 600))
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: "b SIGUSR1" in notes(tmp_path), "asked")
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: "b hurried" in notes(tmp_path), "hurried")
    os.kill(os.getpid(), signal.SIGTERM)
    await running
    assert notes(tmp_path)[-1] == "a stopped"


async def test_a_failed_start_tells_why_and_leaves_nothing(tmp_path: Path) -> None:
    supervisor = Supervisor([spec(tmp_path, "a", 0), spec(tmp_path, "b", 1, fail=True)], 5)
    with pytest.raises(Conflict) as caught:
        await supervisor.run(lambda said: None)
    assert caught.value.hint == "yes"
    assert notes(tmp_path)[-1] == "a stopped"


async def test_a_child_that_says_nothing_is_a_failed_start(tmp_path: Path) -> None:
    with pytest.raises(StartupFailed, match="ended before it was ready"):
        await Supervisor([spec(tmp_path, "a", 0, die=True)], 5).run(lambda said: None)


def test_children_learn_of_the_supervisors_death(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import asyncio, os, signal, sys
        sys.path[:0] = sys.argv[2:]
        from pathlib import Path
        from tests.integration.test_supervisor import spec
        from hearth.supervisor.supervisor import Supervisor
        supervisor = Supervisor([spec(Path(sys.argv[1]), "a", 0)], 5)
        asyncio.run(supervisor.run(lambda said: os.kill(os.getpid(), signal.SIGKILL)))
    """)
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), str(root)], timeout=60, check=False
    )
    assert result.returncode == -signal.SIGKILL

    async def told() -> None:
        await until(lambda: notes(tmp_path)[-1] == "a orphaned", "told")

    asyncio.run(told())


def test_one_platform_per_data_directory(tmp_path: Path) -> None:
    first = DataDir(tmp_path / "data")
    with pytest.raises(StartupFailed, match="another hearth runs"):
        DataDir(tmp_path / "data")
    instance = first.instance
    first.close()
    second = DataDir(tmp_path / "data")
    assert second.instance == instance
    second.close()


def test_a_port_in_use_is_refused_even_if_it_could_be_shared() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(StartupFailed, match="is in use"):
            bind_public("127.0.0.1", other.getsockname()[1], 1)


def test_each_shard_has_a_socket_on_the_same_port() -> None:
    sockets = bind_public("127.0.0.1", 0, 2)
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    for sock in sockets:
        sock.close()
