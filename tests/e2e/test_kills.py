"""kill -9: what must end with whom, and what must not be left. Recovery under load is in test_kills_at_random.py."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.platform import HEARTH, Platform, leftovers, loops, members, until

pytestmark = pytest.mark.root

HELLO = {"handler.py": "def handler(event, context):\n    return 'hello'\n"}


def test_a_killed_supervisor_takes_everything_along(own_platform: Platform) -> None:
    platform = own_platform.start()
    platform.register()
    platform.deploy("hello", "python", HELLO)
    assert platform.call("/fn/ann/hello").body == b"hello"
    assert len(members(platform.instance)) > 4
    platform.stop(signal.SIGKILL)
    until(lambda: not members(platform.instance), what="something lives on")
    platform.start()
    assert platform.call("/fn/ann/hello").body == b"hello"
    assert platform.stop() == 0


def test_killed_together_the_next_start_is_clean(own_platform: Platform) -> None:
    platform = own_platform.start()
    platform.register()
    platform.deploy("hello", "python", HELLO)
    assert platform.process is not None
    keepers = platform.pids("keeper")
    for pid in (platform.process.pid, *keepers):
        os.kill(pid, signal.SIGKILL)
    platform.process.wait()
    until(lambda: not members(platform.instance), what="something lives on")
    platform.start()
    assert platform.call("/fn/ann/hello").body == b"hello"
    assert platform.stop(signal.SIGINT) == 0
    assert leftovers(platform.instance, platform.data) == []


KEPT = {"idle": "15m"}  # on a slow machine what comes next may take longer than an idle instance is kept
# Leaves processes that are nobody's children, in sessions of their own, deaf to every signal, and one that forks on and on.
DAEMONS = {
    "handler.py": """
import os, signal, time
def deaf():
    os.setsid()
    for number in range(1, 32):
        try: signal.signal(number, signal.SIG_IGN)
        except OSError: pass
    os.closerange(0, 64)
def handler(event, context):
    for forks in (False, False, False, True):
        if os.fork() == 0:
            if os.fork() == 0:
                deaf()
                while True:
                    if forks and os.fork() != 0: os._exit(0)
                    time.sleep(0.01 if forks else 3600)
            os._exit(0)
        os.wait()
    return "left"
"""
}


@contextlib.contextmanager
def daemons(platform: Platform) -> Iterator[set[int]]:
    """Pidfds of all that runs in sandboxes beside their programs."""
    found = set()
    for pid in members(platform.instance):
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue  # the one that forks on
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            status = ""
        if len(re.findall(r"^NSpid:\t\d+\t([3-9]|\d\d+)$", status, re.M)) == 1:
            found.add(pidfd)
        else:
            os.close(pidfd)
    try:
        assert len(found) >= 3
        assert not all_ended(found)
        yield found
    finally:
        for pidfd in found:
            os.close(pidfd)


def all_ended(pidfds: set[int]) -> bool:
    return len(select.select(list(pidfds), [], [], 0)[0]) == len(pidfds)


@pytest.mark.parametrize("kind", ["keeper", "shard"])
def test_daemons_of_a_function_end_too(own_platform: Platform, kind: str) -> None:
    platform = own_platform.start()
    platform.register()
    platform.deploy("daemons", "python", DAEMONS, scale=KEPT)
    assert platform.call("/fn/ann/daemons").body == b"left"
    with daemons(platform) as pidfds:
        platform.kill(kind)
        until(lambda: all_ended(pidfds), what="a daemon lives on")
    until(lambda: platform.call("/fn/ann/daemons").status == 200, 60, "calls do not work again")
    assert platform.stop() == 0


def kinds_of(left: list[str]) -> set[str]:
    return {line.partition(" ")[0] for line in left}


@pytest.mark.parametrize("with_keeper", [False, True], ids=["supervisor", "and-keeper"])
def test_nothing_of_functions_and_builds_is_left(own_platform: Platform, with_keeper: bool) -> None:
    """Networks, disks and groups of what runs when the supervisor is killed; where its keeper is too, the next start clears them."""
    platform = own_platform.start()
    platform.register()
    platform.deploy("daemons", "python", DAEMONS, network="internet", scale=KEPT)
    assert platform.call("/fn/ann/daemons").body == b"left"
    folder = platform.function("slow", "python", HELLO, build={"command": "sleep 3600"})
    deploying = subprocess.Popen(
        [HEARTH, "deploy", str(folder)],
        env=platform.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: loops(platform.data), what="no build began")
        left = leftovers(platform.instance, platform.data)
        assert {"process", "cgroup", "table", "link", "address", "folder", "disk"} <= kinds_of(left)
        keepers = platform.pids("keeper") if with_keeper else []
        assert platform.process is not None
        with daemons(platform) as pidfds:
            for pid in (*keepers, platform.process.pid):
                os.kill(pid, signal.SIGKILL)
            platform.process.wait()
            until(lambda: not members(platform.instance), what="something lives on")
            until(lambda: all_ended(pidfds), what="a daemon lives on")
        if not with_keeper:
            until(
                lambda: kinds_of(leftovers(platform.instance, platform.data)) <= {"folder", "cgroup"},
                what=f"left: {leftovers(platform.instance, platform.data)}",
            )
        platform.start()
        until(lambda: platform.call("/fn/ann/daemons").body == b"left")
        assert platform.stop() == 0
        assert leftovers(platform.instance, platform.data) == []
    finally:
        deploying.kill()
        deploying.wait()


def test_two_platforms_side_by_side(own_platform: Platform, platform: Platform) -> None:
    second = own_platform.start()
    second.register()
    second.deploy("hello", "python", HELLO)
    platform.deploy("beside", "python", HELLO)
    assert second.call("/fn/ann/hello").body == b"hello"
    assert second.stop() == 0
    assert platform.call("/fn/ann/beside").body == b"hello"


def test_one_data_directory_one_platform(platform: Platform) -> None:
    said = platform.cli("up", "--port", "0", "--data-dir", str(platform.data), code=1)
    assert "another hearth runs" in said and "hint" in said


def test_a_port_in_use(platform: Platform, own_platform: Platform) -> None:
    port = platform.url.rpartition(":")[2]
    said = own_platform.cli("up", "--port", port, "--data-dir", str(own_platform.data), code=1)
    assert "in use" in said and "hint" in said
