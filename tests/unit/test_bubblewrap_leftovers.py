"""A keeper that is killed with -9, and what its successor finds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hearth.core.launch import Disk
from hearth.drivers.bubblewrap import BubblewrapDriver, cgroup_tree, cgroups
from hearth.drivers.common import mounts
from hearth.drivers.safe import safe
from tests.contract.driver_cases import Rig, assert_nothing_left, make_folders, reap_orphans

pytestmark = pytest.mark.root

KEEPER = """
import asyncio, sys
from pathlib import Path
from hearth.core.launch import Disk
from hearth.drivers.bubblewrap import BubblewrapDriver
from hearth.drivers.safe import safe
from hearth.linux import mounts
from tests.contract.driver_cases import Rig, make_folders

async def main(instance, run, data):
    folders = make_folders(Path(data))
    driver = BubblewrapDriver(instance=instance, run=Path(run), data=Path(data), folders=folders)
    await driver.open()
    rig = Rig(safe(driver), folders, True, driver)
    forever = "if os.fork() == 0: os.setsid()\\nwhile 1: time.sleep(1)"
    await rig.start(forever)
    await rig.start(forever, guest=False, disk=Disk("ns_kept", 24 << 20, "/work"))
    print("up", driver._machine.uids.range.start, flush=True)
    await asyncio.sleep(1000)

if sys.argv[4] == "own":
    mounts.unshare_mounts()
asyncio.run(main(*sys.argv[1:4]))
"""


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[tuple[str, Path, Path]]:
    run = Path(tempfile.mkdtemp(prefix="hearth-test-", dir="/run"))
    run.chmod(0o711)
    yield "t" + secrets.token_hex(5), run, tmp_path / "data"
    shutil.rmtree(run)


@contextlib.contextmanager
def keeper(instance: str, run: Path, data: Path, namespace: str) -> AsyncIterator[subprocess.Popen[str]]:  # type: ignore[misc]
    mounts.become_subreaper()
    process = subprocess.Popen(
        [sys.executable, "-c", KEEPER, instance, str(run), str(data), namespace],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("up ")
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def members(instance: str) -> set[int]:
    return {
        pid
        for group in cgroup_tree.detect(instance).existing().values()
        for pid in cgroups.pids_of(group.directories)
    }


@pytest.mark.parametrize("namespace", ["own", "shared"])
async def test_sandboxes_die_with_their_keeper_and_the_next_one_starts_clean(
    place: tuple[str, Path, Path], namespace: str
) -> None:
    instance, run, data = place
    with keeper(instance, run, data, namespace) as process:
        assert len(members(instance)) >= 6
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 10
    while members(instance) or reap_orphans():  # cgroup membership, not a list of pids
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    driver = BubblewrapDriver(instance=instance, run=run, data=data, folders=make_folders(data))
    await driver.open()
    rig = Rig(safe(driver), make_folders(data), True, driver)
    ended, out, err = await rig.run(
        "open('/work/new', 'w').close(); print('works')", disk=Disk("ns_kept", 24 << 20, "/work")
    )
    assert (ended.code, out) == (0, "works\n"), err
    uids = driver._ready().uids
    await driver.close()
    assert_nothing_left(instance, uids, run, data)


async def test_what_outlives_its_keeper_is_killed_by_the_next_one(
    place: tuple[str, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without bubblewrap's courtesy: a process in a group of the instance that nobody watches."""
    instance, run, data = place
    groups = cgroup_tree.detect(instance)
    groups.open()
    from hearth.core.launch import Limits

    group = groups.create("sb_leftover", Limits())
    script = 'for file in "$@"; do echo 0 > "$file"; done; sleep 1000 & exec sleep 1000'
    stray = subprocess.Popen(["/bin/sh", "-c", script, "join", *group.joins], start_new_session=True)
    while len(cgroups.pids_of(group.directories)) < 2:
        await asyncio.sleep(0.005)
    driver = BubblewrapDriver(instance=instance, run=run, data=data, folders=make_folders(data))
    opening = asyncio.ensure_future(driver.open())
    while stray.poll() is None:
        await asyncio.sleep(0.005)
    await opening
    assert stray.returncode == -signal.SIGKILL
    with contextlib.suppress(ChildProcessError):  # the grandchild came to us, the subreaper
        os.waitpid(-1, os.WNOHANG)
    await driver.close()
    assert not members(instance)


async def test_two_platforms_side_by_side(place: tuple[str, Path, Path], tmp_path: Path) -> None:
    instance, run, data = place
    drivers = []
    for name in ("a", "b"):
        (run / name).mkdir(mode=0o711)
        folders = make_folders(data / name)
        driver = BubblewrapDriver(
            instance=f"{instance}{name}", run=run / name, data=data / name, folders=folders
        )
        await driver.open()
        drivers.append(Rig(safe(driver), folders, True, driver))
    first, second = (rig.inner._ready().uids.range for rig in drivers)
    assert not set(first) & set(second)
    held = await drivers[0].start("time.sleep(1000)")
    await drivers[1].inner.close()  # takes nothing of the other with it
    usage = await drivers[0].driver.usage(held)
    assert usage.pids >= 2
    await drivers[0].inner.close()
