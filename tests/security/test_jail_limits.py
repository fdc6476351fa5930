"""Hostile code that eats: memory, /tmp, processes, cpu, files, disk. Each test is an attack, written as the payload would write it."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from hearth.core.errors import LimitUnenforceable
from hearth.core.launch import Disk, Limits
from hearth.drivers.bubblewrap import cgroups
from tests.contract.driver_cases import Rig, read_some, read_until, soon
from tests.patience import patient
from tests.security.jail import MIB, told
from tests.security.outside import limit_of, pids_of, status_of

CAP_SYS_RESOURCE = 24
pytestmark = [pytest.mark.root, pytest.mark.own]


@pytest.mark.parametrize(
    "eat",
    [
        "x = []\nwhile 1: x.append(bytearray(1 << 20))",
        "f = open('/tmp/full', 'wb')\nwhile 1: f.write(b'x' * (1 << 20))",
        "f = os.memfd_create('m')\nwhile 1: os.write(f, b'x' * (1 << 20))",
        "n = 0\nwhile 1:\n    n += 1\n    os.close(os.open(f'/tmp/{n}', os.O_CREAT))",
        "f = open('/dev/shm/full', 'wb')\nx = []\nfor i in range(15): f.write(b'x' * (1 << 20)); f.flush()\n"
        "while 1: x.append(bytearray(1 << 20))",
    ],
    ids=["heap", "tmp", "memfd", "inodes", "shm"],
)
@pytest.mark.cgroups
async def test_memory_is_held_however_it_is_eaten(rig: Rig, eat: str) -> None:
    ended, _, err = await rig.run(eat, limits=Limits(memory=32 * MIB, tmp=256 * MIB))
    assert ended.oom, (ended, err)
    assert ended.signal == signal.SIGKILL


async def test_memory_within_the_limit_is_no_oom(rig: Rig) -> None:
    ended, _, _ = await rig.run("x = bytearray(16 << 20)", limits=Limits(memory=64 * MIB))
    assert (ended.code, ended.oom) == (0, False)


async def test_tmp_is_full_at_its_size_and_grows_at_attach(rig: Rig) -> None:
    code = """
s = dial()
def fill():
    n = 0
    try:
        with open('/tmp/full', 'wb', 0) as f:
            while 1: n += f.write(b'x' * 65536)
    except OSError: pass
    os.unlink('/tmp/full')
    return n
while s.recv(10): s.sendall(b'%d\\n' % fill())
"""
    handle = await rig.start(code, limits=Limits(tmp=MIB))
    fd = await rig.driver.connect(handle, soon())
    os.write(fd, b"?")
    assert int(await read_until(fd, b"\n")) == MIB
    await rig.attach(handle, rig.artifact(), limits=Limits(tmp=8 * MIB))
    os.write(fd, b"?")
    assert int(await read_until(fd, b"\n")) == 8 * MIB
    os.close(fd)
    await rig.driver.stop(handle, 0)


async def test_a_fork_bomb_stays_within_its_pids_and_is_killed_whole(rig: Rig) -> None:
    code = """
s = dial()
for _ in range(200):
    try:
        if os.fork() == 0:
            while 1:
                try: os.fork()
                except OSError: time.sleep(0.01)
    except OSError: break
s.sendall(b'full\\n')
while 1: time.sleep(1)
"""
    handle = await rig.start(code, limits=Limits(pids=40))
    fd = await rig.driver.connect(handle, soon())
    await read_until(fd, b"\n")
    usage = await rig.driver.usage(handle)
    assert 30 < usage.pids <= 40 + cgroups.OWN_PIDS
    ended = await rig.driver.stop(handle, 0)
    assert ended.signal == signal.SIGKILL
    assert await read_some(fd) == b""
    os.close(fd)


@pytest.mark.cgroups
async def test_cpu_quota_holds(rig: Rig) -> None:
    code = (
        "end, used = time.monotonic() + 0.6, time.process_time()\n"  # without what its start took
        "while time.monotonic() < end: pass\nprint((time.process_time() - used) / 0.6)"
    )
    share = float((await rig.run(code, limits=Limits(cpu=0.25)))[1])
    assert share < 0.5  # a quarter, and what the kernel gives in advance


@pytest.mark.cgroups
async def test_limits_hold_from_attach_on(rig: Rig) -> None:
    code = "s = dial(); s.recv(1)\nx = bytearray(100 << 20)\ns.sendall(b'had it\\n'); s.recv(1)"
    handle = await rig.start(code, limits=Limits(memory=256 * MIB))
    fd = await rig.driver.connect(handle, soon())
    await rig.attach(handle, rig.artifact(), limits=Limits(memory=48 * MIB))
    os.write(fd, b"?")
    ended = await asyncio.wait_for(rig.driver.wait(handle), patient(20))
    assert ended.oom
    os.close(fd)
    await rig.driver.stop(handle, 0)


async def test_open_files_are_limited(rig: Rig) -> None:
    code = "import resource; print(json.dumps([resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE)]))"
    assert await told(
        rig,
        "import sys; sys.path.append('/usr/lib/python3/dist-packages')\n" + code,
        limits=Limits(open_files=77),
    ) == [
        [77, 77],
        [0, 0],
    ]


async def test_open_files_change_at_attach_or_that_is_refused(rig: Rig) -> None:
    """It takes CAP_SYS_RESOURCE, which root in a container may lack; ignored it is never."""
    handle = await rig.start("s = dial(); s.recv(1)")
    fd = await rig.driver.connect(handle, soon())
    _, program = pids_of(rig, handle)
    may = int(status_of(os.getpid())["CapEff"], 16) & 1 << CAP_SYS_RESOURCE
    if may:
        await rig.attach(handle, rig.artifact(), limits=Limits(open_files=77))
        assert limit_of(program, "Max open files") == ["77", "77"]
    else:
        with pytest.raises(LimitUnenforceable, match="open files"):
            await rig.attach(handle, rig.artifact(), limits=Limits(open_files=77))
    os.close(fd)
    await rig.driver.stop(handle, 0)


@pytest.mark.uids
async def test_a_disk_is_kept_between_sandboxes_and_another_at_once_gets_a_fresh_one(rig: Rig) -> None:
    disk = Disk("ns_a", 24 * MIB, "/work")
    code = "print(json.dumps([sorted(os.listdir('/work')), os.stat('/work').st_uid, attempt(lambda: open('/work/f', 'w').write('x'))]))"
    first = await told(rig, code, disk=disk)
    assert first[0] in ([], ["lost+found"])
    assert first[1:] == [1000, "ok"]
    holder = await rig.start(
        "s = dial(); assert os.path.exists('/work/f'); s.sendall(b'up\\n'); s.recv(1)", disk=disk
    )
    fd = await rig.driver.connect(holder, soon())
    await read_until(fd, b"\n")
    second = await told(rig, code, disk=disk)
    assert "f" not in second[0]
    os.close(fd)
    await rig.driver.stop(holder, 0)
    assert "f" in (await told(rig, code, disk=disk))[0]


async def test_a_disk_is_full_at_its_size(rig: Rig) -> None:
    code = "print(json.dumps(attempt(lambda: open('/work/big', 'wb').write(bytes(40 << 20)))))"
    assert await told(rig, code, disk=Disk("ns_b", 24 * MIB, "/work")) == "ENOSPC"
