"""What bubblewrap leaves running when keeper and supervisor are killed together: the guard ends it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess

import pytest

from hearth.core.launch import Limits
from hearth.drivers.bubblewrap import cgroup_tree, guard
from hearth.drivers.bubblewrap.cgroups import Group, pids_of, remove_soon
from tests.contract.driver_cases import Rig, fresh

pytestmark = pytest.mark.root
DEAF = "trap '' TERM HUP INT; echo up; while :; do sleep 0.01; done"


def inside(group: Group, script: str) -> subprocess.Popen[bytes]:
    """A process that is in a group and has nobody who would end it."""
    join = 'for file in "$@"; do echo 0 > "$file"; done; exec setsid sh -c "$SCRIPT"'
    process = subprocess.Popen(
        ["/bin/sh", "-c", join, "join", *group.joins],
        env={"PATH": "/usr/bin:/bin", "SCRIPT": script},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.stdout.close()
    return process


@pytest.mark.parametrize("how", ["killed", "closed"])
async def test_it_ends_what_is_left_when_the_keeper_is_gone(how: str) -> None:
    groups = cgroup_tree.detect("t" + os.urandom(5).hex())
    groups.open()
    watching = await guard.start(groups, "/bin/sh")
    group = groups.create(fresh("sandbox"), Limits(pids=16))
    stray = inside(group, DEAF)
    try:
        if how == "killed":
            assert watching._process.stdin is not None
            watching._process.stdin.close()  # as the kernel does when the keeper dies
            assert await asyncio.to_thread(stray.wait, 20) == -signal.SIGKILL
            assert await asyncio.to_thread(watching._process.wait, 20) == 0
        watching.close()
        if how == "closed":  # negative control: a keeper that leaves in good order has nothing killed
            assert stray.poll() is None
    finally:
        stray.kill()
        stray.wait()
        for _ in range(1000):
            if not pids_of(group.directories):
                break
            group.kill()
            await asyncio.sleep(0.01)
        await remove_soon(group.directories, 5)
        groups.close()


async def test_it_is_in_a_group_of_its_own_and_no_sandbox(rig: Rig) -> None:
    watching = next(iter(rig.inner._machine.groups.existing()))
    assert watching == guard.NAME
    assert await rig.driver.list_owned(None) == []


async def test_one_whose_start_is_cancelled_is_ended() -> None:
    groups = cgroup_tree.detect("t" + os.urandom(5).hex())
    groups.open()
    starting = asyncio.create_task(guard.start(groups, "/bin/sh"))
    while not groups.existing():  # its group is made in the same turn in which it is spawned
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not groups.existing()
    groups.close()
    assert not any(directory.exists() for directory in groups.directories)
