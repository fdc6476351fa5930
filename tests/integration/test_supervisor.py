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
    signal.signal(signal.SIGTERM, end)
    say("started")
    if config.get("fail"):
        os.write(fds["ready"], json.dumps({"error": {"code": "conflict", "message": "no", "hint": "yes"}}).encode() + b"\\n")
        sys.exit(1)
    if config.get("die"):
        sys.exit(3)
    os.write(fds["ready"], json.dumps({"pid": os.getpid()}).encode() + b"\\n")
    os.close(fds["ready"])
    os.read(fds["lifeline"], 1)
    say("orphaned")
""")


def spec(tmp_path: Path, name: str, stage: int, **config: Any) -> ChildSpec:
    return ChildSpec(
        name,
        (sys.executable, "-I", "-S", "-c", CHILD),
        {"name": name, "note": str(tmp_path / "notes"), **config},
        stage,
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
