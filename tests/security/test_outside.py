"""What /proc shows of a sandbox from outside, for every kind of sandbox; and that each part shows when its option is left out."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import resource
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hearth.core.errors import SandboxFailed
from hearth.core.launch import Disk, Handle, Network
from hearth.drivers.bubblewrap import argv
from hearth.drivers.bubblewrap import sandbox as sandbox_module
from hearth.drivers.bubblewrap import spawn as spawn_module
from hearth.drivers.common import program, seccomp
from tests.contract.driver_cases import Rig, read_until, soon
from tests.machine import elsewhere
from tests.security.jail import drop_options
from tests.security.outside import look

pytestmark = pytest.mark.root
WAIT = "s = dial(); s.sendall(b'up\\n'); s.recv(1)"
BUILD = "print('up', flush=True); import signal; signal.pause()"


async def up(rig: Rig, **more: object) -> tuple[Handle, int]:
    handle = await rig.start(WAIT, **more)
    fd = await rig.driver.connect(handle, soon())
    await read_until(fd, b"\n")
    return handle, fd


async def test_a_waiting_slot_and_an_attached_one(rig: Rig) -> None:
    handle, fd = await up(rig)
    assert await look(rig, handle) == set()
    await rig.attach(handle, rig.artifact(), secrets=(("A", b"b"),))
    assert await look(rig, handle) == set()
    os.close(fd)
    await rig.driver.stop(handle, 0)


@pytest.mark.parametrize("disk", [None, Disk("ns_x", 24 << 20, "/work")], ids=["plain", "disk"])
async def test_a_build(rig: Rig, disk: Disk | None) -> None:
    handle = await rig.start(BUILD, guest=False, disk=disk)
    out, err = rig.driver.output(handle)
    await read_until(out, b"up\n")
    assert await look(rig, handle) == set()
    os.close(out)
    os.close(err)
    await rig.driver.stop(handle, 0)


LOOK = """
s = dial(); s.sendall(b'up\\n')
while s.recv(10):
    t = socket.socket(); t.settimeout(0.2)
    try: t.connect(('10.255.255.1', 9)); r = 'reached'
    except OSError as e: r = type(e).__name__
    t.close()
    s.sendall(repr((sorted(n for i, n in socket.if_nameindex()), open('/etc/resolv.conf').read().split()[:2], r)).encode() + b'\\n')
"""


async def test_a_networked_slot_is_closed_until_attach_and_as_confined_as_others(networked: Rig) -> None:
    assert "network" in (await networked.driver.probe()).enforces
    handle = await networked.start(LOOK, networked=True)
    link = networked.inner._table.find(handle)._net.link
    fd = await networked.driver.connect(handle, soon())
    await read_until(fd, b"up\n")
    assert await look(networked, handle) == set()
    assert Path(f"/sys/class/net/{link}/operstate").read_text().strip() == "down"
    os.write(fd, b"?")
    before = ast.literal_eval((await read_until(fd, b"\n")).decode())
    resolver = networked.inner._machine.networks.resolver
    assert before[:2] == (["eth0", "lo"], ["nameserver", resolver])
    assert before[2] != "reached"
    await networked.attach(handle, networked.artifact(), network=Network("internet"))
    assert await look(networked, handle) == set()
    assert Path(f"/sys/class/net/{link}/operstate").read_text().strip() == "up"
    os.write(fd, b"?")
    after = ast.literal_eval((await read_until(fd, b"\n")).decode())
    assert after[2] != "reached"  # a private address, whatever is open
    os.close(fd)
    await networked.driver.stop(handle, 0)
    assert not Path(f"/sys/class/net/{link}").exists()


async def test_a_networked_build_and_a_slot_attached_with_none(networked: Rig) -> None:
    handle = await networked.start(BUILD, guest=False, network=Network("internet"), networked=True)
    out, err = networked.driver.output(handle)
    await read_until(out, b"up\n")
    assert await look(networked, handle) == set()
    os.close(out)
    os.close(err)
    await networked.driver.stop(handle, 0)
    slot, fd = await up(networked, networked=True)
    await networked.attach(slot, networked.artifact())
    link = networked.inner._table.find(slot)._net.link
    assert Path(f"/sys/class/net/{link}/operstate").read_text().strip() == "down"
    os.close(fd)
    await networked.driver.stop(slot, 0)


async def test_no_two_sandboxes_share_a_uid(rig: Rig) -> None:
    pairs = [await up(rig) for _ in range(3)]
    assert len({rig.inner._table.find(handle)._uid for handle, _ in pairs}) == 3
    for handle, fd in pairs:
        os.close(fd)
        await rig.driver.stop(handle, 0)


# negative controls


async def no_program(spawned: Any, child: Any, *_: int) -> None:
    """Waits for the program as `spawn.program_of` does, where it is bubblewrap's first process itself."""
    while not program.has_started(child.pid, spawned.process.pid):
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("dropped", "shows"),
    [
        (("--unshare-pid",), {"NSpid", "ns pid"}),
        (("--unshare-net",), {"ns net"}),
        (("--unshare-ipc",), {"ns ipc"}),
        (("--unshare-uts", "--hostname"), {"ns uts"}),
        (("--unshare-cgroup",), {"ns cgroup"}),
        (("--new-session",), {"session"}),
        (("--add-seccomp-fd",), {"Seccomp", "Seccomp_filters"}),
    ],
    ids=lambda value: value[0].strip("-") if isinstance(value, tuple) else "",
)
async def test_leaving_an_option_out_shows(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, dropped: tuple[str, ...], shows: set[str]
) -> None:
    monkeypatch.setattr(program, "check_confined", lambda *_: None)
    drop_options(monkeypatch, *dropped)
    if "--unshare-pid" in dropped:  # then there is no pid 1 whose child the program would be
        monkeypatch.setattr(sandbox_module, "program_of", no_program)
    handle, fd = await up(rig)
    assert shows <= await look(rig, handle)
    os.close(fd)
    await rig.driver.stop(handle, 0)


@pytest.mark.parametrize(
    ("part", "instead", "shows"),
    [
        ("echo 500 > /proc/self/oom_score_adj || exit 125; ", "", "oom_score_adj"),
        ('echo 0 > "$file" || exit 125', ":", "cgroup"),
        ("ulimit -c 0 && ", "", "core"),
    ],
    ids=["oom_score_adj", "cgroup", "core"],
)
async def test_leaving_out_what_is_done_before_bubblewrap_shows(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, part: str, instead: str, shows: str
) -> None:
    if shows == "core" and resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.RLIM_INFINITY))
        except ValueError:
            elsewhere("no core is written, whatever one does")
    assert part in argv._JOIN
    monkeypatch.setattr(argv, "_JOIN", argv._JOIN.replace(part, instead))
    handle, fd = await up(rig)
    assert shows in await look(rig, handle)
    os.kill(rig.inner._table.find(handle)._child.pid, signal.SIGKILL)  # its group may not hold it
    os.close(fd)
    await rig.driver.stop(handle, 0)


async def test_groups_and_environment_of_the_keeper_show(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    command, start = argv.command, subprocess.Popen

    def keeping(**given: Any) -> list[str]:
        return ["--keep-groups" if word == "--clear-groups" else word for word in command(**given)]

    def telling(*given: Any, env: dict[str, str], **more: Any) -> Any:
        return start(*given, env={**env, "PASSWORD": "hunter2"}, **more)

    monkeypatch.setattr(argv, "command", keeping)
    monkeypatch.setattr("hearth.drivers.bubblewrap.spawn.subprocess.Popen", telling)
    before = os.getgroups()
    os.setgroups([54321])
    try:
        handle, fd = await up(rig)
    finally:
        os.setgroups(before)
        monkeypatch.undo()
    seen = await look(rig, handle)
    assert "Groups" in seen
    assert any("hunter2" in problem for problem in seen)
    os.close(fd)
    await rig.driver.stop(handle, 0)


async def test_root_without_a_user_namespace_shows(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "check_confined", lambda *_: None)
    run_as_root(monkeypatch)
    drop_options(monkeypatch, "--unshare-user", "--uid", "--gid", "--disable-userns")
    handle = await rig.start(BUILD, guest=False)
    out, err = rig.driver.output(handle)
    await read_until(out, b"up\n")
    assert {"Uid", "ns user"} <= await look(rig, handle)
    os.close(out)
    os.close(err)
    await rig.driver.stop(handle, 0)


async def test_one_filter_too_few_shows(rig: Rig) -> None:
    object.__setattr__(rig.inner._machine.filters, "programs", seccomp.build().programs[:1])
    handle, fd = await up(rig)
    assert await look(rig, handle) == {"Seccomp_filters"}
    os.close(fd)
    await rig.driver.stop(handle, 0)


@pytest.mark.parametrize("capabilities", ["dropped", "kept"])
async def test_root_that_is_not_dropped_shows(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capabilities: str
) -> None:
    """And --cap-drop, which an ordinary uid makes needless, is what holds if that should ever be forgotten."""
    monkeypatch.setattr(program, "check_confined", lambda *_: None)
    run_as_root(monkeypatch)
    drop_options(monkeypatch, "--disable-userns", *(("--cap-drop",) if capabilities == "kept" else ()))
    handle = await rig.start(BUILD, guest=False)
    out, err = rig.driver.output(handle)
    await read_until(out, b"up\n")
    seen = await look(rig, handle)
    assert {"Uid", "Gid"} <= seen
    assert ("CapBnd" in seen) is (capabilities == "kept")
    os.close(out)
    os.close(err)
    await rig.driver.stop(handle, 0)


def run_as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    original = argv.command

    def as_root(**given: object) -> list[str]:
        words = original(**given)  # type: ignore[arg-type]
        start = words.index("--") + 1
        return words[:start] + words[words.index("--", start) + 1 :]

    monkeypatch.setattr(argv, "command", as_root)


async def test_the_driver_itself_refuses_to_run_as_root(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    run_as_root(monkeypatch)
    with pytest.raises(SandboxFailed, match="less confined"):
        await rig.start(WAIT)


async def test_the_driver_itself_refuses_a_program_without_filters(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_options(monkeypatch, "--add-seccomp-fd")
    with pytest.raises(SandboxFailed, match="less confined"):
        await rig.start(WAIT)
    assert await rig.driver.list_owned(None) == []


async def test_without_die_with_parent_a_sandbox_outlives_bubblewrap(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of test_jail's: here only the control group is left to end it."""
    drop_options(monkeypatch, "--die-with-parent")
    handle, fd = await up(rig)
    sandbox = rig.inner._table.find(handle)
    sandbox._spawned.outer.signal(signal.SIGKILL)
    await sandbox._spawned.outer.ended.wait()
    assert not sandbox._child.ended.is_set()
    ended = await rig.driver.stop(handle, 0)
    assert ended.signal == signal.SIGKILL
    os.close(fd)


async def test_a_sandbox_is_batch_work_and_its_keeper_is_not(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, fd = await up(rig)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    os.close(fd)
    await rig.driver.stop(handle, 0)
    monkeypatch.setattr(spawn_module, "_as_batch_work", contextlib.nullcontext)
    handle, fd = await up(rig)
    assert await look(rig, handle) == {"scheduler"}
    os.close(fd)
    await rig.driver.stop(handle, 0)
