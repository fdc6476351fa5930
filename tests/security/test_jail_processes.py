"""Hostile code against processes and sockets: its own, the platform's, and its end. Each test is an attack, written as the payload would write it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time

import pytest

from tests.contract.driver_cases import Rig, read_some, read_until, soon
from tests.patience import patient
from tests.security.jail import told

pytestmark = [pytest.mark.root, pytest.mark.own]


async def test_pid_1_cannot_be_killed_from_inside(rig: Rig) -> None:
    seen = await told(
        rig,
        "import signal\nfor s in (15, 2, 1, 9, 19): os.kill(1, s)\ntime.sleep(0.05); print(json.dumps([os.getppid(), sorted(int(p) for p in os.listdir('/proc') if p.isdigit())]))",
    )
    assert seen == [1, [1, 2]]


async def test_only_its_own_processes_exist(rig: Rig) -> None:
    # an ordinary user's keeper is process 1, and so is something inside
    somebody = max(os.getpid(), 2_000_000)
    seen = await told(
        rig,
        f"print(json.dumps([os.getpid(), attempt(os.kill, {somebody}, 0), open('/proc/self/cgroup').read()]))",
    )
    assert seen[0] == 2
    assert seen[1] == "ESRCH"
    assert all(line.endswith(":/") for line in seen[2].splitlines()), seen[2]


async def test_abstract_sockets_and_loopback_of_the_host_are_out_of_reach(rig: Rig) -> None:
    name = f"hearth-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as abstract, socket.socket() as tcp:
        abstract.bind("\0" + name)
        abstract.listen()
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        seen = await told(
            rig,
            f"import socket as S\nprint(json.dumps([attempt(S.socket(S.AF_UNIX).connect, '\\0' + {name!r}), attempt(S.socket().connect, ('127.0.0.1', {tcp.getsockname()[1]}))"
            ", attempt(S.socket().connect, ('169.254.169.254', 80)), [n for i, n in S.if_nameindex()]]))",
        )
    assert seen == ["ECONNREFUSED", "ECONNREFUSED", "ENETUNREACH", ["lo"]]


@pytest.mark.uids
async def test_another_uid_cannot_dial_and_the_socket_is_gone_after_one(rig: Rig) -> None:
    handle = await rig.start("s = dial(); print(os.path.exists(SLOT + '/guest.sock'), flush=True); s.recv(1)")
    slot = rig.inner._table.find(handle)._slot.path
    fd = await rig.driver.connect(handle, soon())
    assert not (slot / "guest.sock").exists()
    os.close(fd)
    await rig.driver.stop(handle, 0)
    handle = await rig.start("time.sleep(100)")
    path = rig.inner._table.find(handle)._slot.path / "guest.sock"
    with socket.socket(socket.AF_UNIX) as intruder:  # root may connect, but has the wrong uid
        intruder.connect(str(path))
        assert await asyncio.to_thread(intruder.recv, 1) == b""
    with pytest.raises(Exception, match="in time"):
        await rig.driver.connect(handle, soon(0.05))
    await rig.driver.stop(handle, 0)


async def test_descriptors_sent_by_the_guest_do_not_stay(rig: Rig) -> None:
    """With or without the kernel's SO_PASSRIGHTS: nothing is installed here, and closing takes no time of ours."""
    code = """
import array, socket as S
s = dial()
fds = []
for _ in range(8):
    t = S.socket(); t.setsockopt(S.SOL_SOCKET, S.SO_LINGER, b'\\1\\0\\0\\0\\3\\0\\0\\0'); fds.append(t)
try: s.sendmsg([b'x'], [(S.SOL_SOCKET, S.SCM_RIGHTS, array.array('i', [f.fileno() for f in fds]))]); r = b'sent\\n'
except OSError as e: r = b'refused\\n'
s.sendall(r); s.recv(1)
"""
    handle = await rig.start(code)
    fd = await rig.driver.connect(handle, soon())
    before = set(os.listdir("/proc/self/fd"))
    begun = time.monotonic()
    data = await read_until(fd, b"\n")
    assert time.monotonic() - begun < 2
    assert data in (b"refused\n", b"xsent\n")
    assert set(os.listdir("/proc/self/fd")) == before
    os.close(fd)
    await rig.driver.stop(handle, 0)


async def test_a_stopped_or_deaf_sandbox_is_killed(rig: Rig) -> None:
    handle = await rig.start(
        "import signal\nfor n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n    except OSError: pass\n"
        "dial().sendall(b'up\\n'); os.kill(os.getpid(), signal.SIGSTOP)"
    )
    fd = await rig.driver.connect(handle, soon())
    await read_until(fd, b"\n")
    ended = await rig.driver.stop(handle, 0.02)
    assert ended.signal == signal.SIGKILL
    os.close(fd)


async def test_a_killed_bubblewrap_takes_its_sandbox_with_it(rig: Rig) -> None:
    handle = await rig.start("dial().sendall(b'up\\n'); time.sleep(1000)")
    fd = await rig.driver.connect(handle, soon())
    await read_until(fd, b"\n")
    rig.inner._table.find(handle)._spawned.outer.signal(signal.SIGKILL)
    ended = await asyncio.wait_for(rig.driver.wait(handle), patient(10))
    assert ended.signal == signal.SIGKILL
    assert await read_some(fd) == b""
    os.close(fd)
    await rig.driver.stop(handle, 0)
