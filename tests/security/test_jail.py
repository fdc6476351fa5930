"""Hostile code in a real sandbox: each test is an attack, written as the payload would write it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hearth.core.launch import Disk, Limits, Mount
from hearth.drivers.bubblewrap import argv, cgroups
from tests.contract.driver_cases import Rig, bubblewrap_rig, read_some, read_until, soon

pytestmark = pytest.mark.root
MIB = 1 << 20

HELPERS = """
import ctypes, json, errno
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    r = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    return "ok" if r >= 0 else errno.errorcode[ctypes.get_errno()]
def attempt(f, *a, **k):
    try: f(*a, **k)
    except OSError as e: return errno.errorcode.get(e.errno, str(e))
    return "ok"
"""


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with bubblewrap_rig(tmp_path) as ready:
        yield ready


async def told(rig: Rig, code: str, **more: Any) -> Any:
    """What the payload prints as JSON on its last line."""
    ended, out, err = await rig.run(HELPERS + code, **more)
    assert ended.code == 0, (ended, err)
    return json.loads(out.splitlines()[-1])


def without(monkeypatch: pytest.MonkeyPatch, *dropped: str) -> None:
    """Leave options of bubblewrap out (each with the values that follow it): the negative control."""
    original = argv.options

    def fewer(layout: argv.Layout, fds: argv.Fds) -> list[str]:
        words, out, skipping = original(layout, fds), [], False
        for word in words:
            if word.startswith("--"):
                skipping = word in dropped
            if not skipping:
                out.append(word)
        return out

    monkeypatch.setattr(argv, "options", fewer)


# memory, processes, time


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


async def test_cpu_quota_holds(rig: Rig) -> None:
    code = (
        "end = time.monotonic() + 0.6\nwhile time.monotonic() < end: pass\nprint(time.process_time() / 0.6)"
    )
    share = float((await rig.run(code, limits=Limits(cpu=0.25)))[1])
    assert share < 0.5  # a quarter, and what the kernel gives in advance


async def test_limits_hold_from_attach_on(rig: Rig) -> None:
    code = "s = dial(); s.recv(1)\nx = bytearray(100 << 20)\ns.sendall(b'had it\\n'); s.recv(1)"
    handle = await rig.start(code, limits=Limits(memory=256 * MIB))
    fd = await rig.driver.connect(handle, soon())
    await rig.attach(handle, rig.artifact(), limits=Limits(memory=48 * MIB))
    os.write(fd, b"?")
    ended = await asyncio.wait_for(rig.driver.wait(handle), 20)
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


# what it can see and touch


async def test_host_files_are_not_there(rig: Rig, tmp_path: Path) -> None:
    seen = await told(
        rig,
        f"print(json.dumps([os.path.exists(p) for p in ('/root', '/home', '/var', '/opt', '/etc/shadow', '/sys', "
        f"'/run/hearth-uids', {str(tmp_path)!r})] + [sorted(os.listdir('/')), sorted(os.listdir('/run')), sorted(os.listdir('/etc'))]))",
    )
    assert seen[:8] == [False] * 8
    assert set(seen[8]) <= {
        "bin",
        "dev",
        "etc",
        "hearth",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "proc",
        "run",
        "sbin",
        "tmp",
        "usr",
    }
    assert seen[9] == ["secrets"]
    assert set(seen[10]) <= {
        "alternatives", "group", "hosts", "ld.so.cache", "nsswitch.conf", "os-release", "passwd", "pki", "resolv.conf", "ssl",
    }  # fmt: skip


async def test_nothing_but_tmp_and_shm_is_writable(rig: Rig) -> None:
    seen = await told(
        rig,
        """
places = ['/', '/usr', '/usr/bin', '/etc', '/hearth', '/hearth/code', '/hearth/secrets', '/dev', '/run', '/proc', '/proc/sys/kernel', '/tmp', '/dev/shm']
def touch(p):
    with open(p + '/x', 'w'): pass
print(json.dumps({p: attempt(touch, p) for p in places}))
""",
    )
    assert {place for place, result in seen.items() if result == "ok"} == {"/tmp", "/dev/shm"}


async def test_root_is_writable_without_the_remount(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "--remount-ro")
    assert (await told(rig, "print(json.dumps(attempt(lambda: open('/x', 'w').close())))")) == "ok"


async def test_code_and_secrets_are_read_only_and_stay(rig: Rig) -> None:
    code = """
s = dial(); s.recv(1)
r = {
  'write': attempt(lambda: open('/hearth/code/new', 'w')),
  'change': attempt(lambda: open('/hearth/code/main.txt', 'w')),
  'chmod': attempt(os.chmod, '/hearth/code/main.txt', 0o777),
  'rename': attempt(os.rename, '/hearth/code', '/hearth/other'),
  'unlink': attempt(os.unlink, '/hearth/code/main.txt'),
  'secret': attempt(lambda: open('/run/secrets/KEY', 'w')),
  'own secret': attempt(os.chmod, '/run/secrets/KEY', 0o600),
  'another': attempt(lambda: open('/run/secrets/OTHER', 'w')),
  'umount': attempt(lambda: (_ for _ in ()).throw(OSError(ctypes.get_errno(), '')) if libc.umount2(b'/hearth/code', 2) else None),
  'read': open('/hearth/code/main.txt').read(), 'secret_text': open('/run/secrets/KEY').read(),
}
s.sendall(json.dumps(r).encode() + b'\\n'); s.recv(1)
"""
    artifact = rig.artifact(**{"main.txt": "code"})
    (rig.folders["artifact"] / artifact).chmod(0o777)  # the mount holds, not the files' modes
    (rig.folders["artifact"] / artifact / "main.txt").chmod(0o666)
    handle = await rig.start(HELPERS + code)
    fd = await rig.driver.connect(handle, soon())
    await rig.attach(handle, artifact, secrets=(("KEY", b"value"),))
    os.write(fd, b"?")
    seen = json.loads(await read_until(fd, b"\n"))
    assert (seen.pop("read"), seen.pop("secret_text")) == ("code", "value")
    assert all(result in ("EROFS", "EPERM", "EACCES", "EBUSY") for result in seen.values()), seen
    assert (rig.folders["artifact"] / artifact / "main.txt").read_text() == "code"
    os.close(fd)
    await rig.driver.stop(handle, 0)


async def test_nothing_can_arrive_after_attach(rig: Rig) -> None:
    handle = await rig.start("s = dial(); s.recv(1); import signal; signal.pause()")
    fd = await rig.driver.connect(handle, soon())
    await rig.attach(handle, rig.artifact())
    sandbox = rig.inner._find(handle)
    inside = Path(f"/proc/{sandbox._program.pid}/mountinfo").read_text()
    slot = [line for line in inside.splitlines() if " /hearth" in line]
    assert len(slot) >= 2
    assert not any("master:" in line or "shared:" in line for line in slot), slot
    assert str(sandbox._slot.path) not in Path("/proc/self/mountinfo").read_text()
    os.close(fd)
    await rig.driver.stop(handle, 0)


async def test_setuid_files_are_of_no_use(rig: Rig) -> None:
    seen = await told(
        rig,
        """
import shutil, subprocess
shutil.copy('/usr/bin/id', '/tmp/id')
made = os.open('/tmp/suid', os.O_CREAT | os.O_WRONLY, 0o4755); os.close(made)
print(json.dumps([attempt(os.chmod, '/tmp/id', 0o4755), attempt(os.chmod, '/tmp/id', 0o2755),
  subprocess.run(['/usr/bin/id', '-u'], capture_output=True, text=True).stdout.strip(), attempt(os.setuid, 0),
  'nosuid' in [l for l in open('/proc/self/mountinfo') if ' /tmp ' in l][0]]))
""",
    )
    assert seen == ["EPERM", "EPERM", "1000", "EINVAL", True]


async def test_environ_of_the_platform_is_nowhere(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_PASSWORD", "hunter2")
    seen = await told(
        rig,
        """
text = []
for pid in [p for p in os.listdir('/proc') if p.isdigit()]:
    for name in ('environ', 'cmdline'):
        try: text.append(open(f'/proc/{pid}/{name}').read())
        except OSError: pass
print(json.dumps([os.listdir('/proc').count('1'), text]))
""",
        env=(("TOKEN", "in-environment-only"),),
    )
    assert "hunter2" not in str(seen)
    commands = [text for text in seen[1] if "TOKEN" not in text]
    assert not any("in-environment-only" in text for text in commands)


async def test_values_of_the_environment_are_in_no_command_line_on_the_host(rig: Rig) -> None:
    handle = await rig.start("dial().recv(1)", env=(("TOKEN", "c0nfidential"),))
    fd = await rig.driver.connect(handle, soon())
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            assert b"c0nfidential" not in cmdline.read_bytes()
    os.close(fd)
    await rig.driver.stop(handle, 0)


async def test_no_descriptor_is_inherited(rig: Rig) -> None:
    secret = os.open("/etc/shadow", os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        seen = await told(
            rig,
            "print(json.dumps({p: [os.readlink(f'/proc/{p}/fd/{f}') for f in os.listdir(f'/proc/{p}/fd') if os.path.islink(f'/proc/{p}/fd/{f}')]"
            " for p in os.listdir('/proc') if p.isdigit()}))",
        )
    finally:
        os.close(secret)
    for links in seen.values():
        assert all(
            link.startswith(("/dev/null", "pipe:", "/proc/", "anon_inode:[eventfd]", "anon_inode:[signalfd]"))
            for link in links
        ), seen


# system calls


async def test_forbidden_calls(rig: Rig) -> None:
    seen = await told(
        rig,
        """
import socket as S, fcntl
NEWUSER, NEWNS = 0x10000000, 0x20000
def sock(family, kind, proto=0):
    S.socket(family, kind, proto).close()
print(json.dumps({
  'unshare user': call(272, NEWUSER) if os.uname().machine == 'x86_64' else 'EPERM',
  'unshare mount': call(272, NEWNS) if os.uname().machine == 'x86_64' else 'EPERM',
  'clone user': call(56, NEWUSER | 17, 0, 0, 0, 0) if os.uname().machine == 'x86_64' else 'ENOSYS',
  'clone3': call(435, 0, 0),
  'mount': 'ok' if libc.mount(b'x', b'/tmp', b'tmpfs', 0, None) == 0 else errno.errorcode[ctypes.get_errno()],
  'fsopen': call(430, ctypes.c_char_p(b'tmpfs'), 0), 'open_tree': call(428, -100, ctypes.c_char_p(b'/'), 1),
  'ptrace': 'ok' if libc.ptrace(16, 1, 0, 0) == 0 else errno.errorcode[ctypes.get_errno()],
  'io_uring': call(425, 1, 0), 'bpf': call(321, 0, 0, 0), 'userfaultfd': call(323, 0), 'keyctl': call(250, 0, 0, 0, 0, 0),
  'pidfd_getfd': call(438, 0, 0, 0), 'memfd_secret': call(447, 0), 'perf': call(298, 0, 0, -1, -1, 0),
  'vsock': attempt(sock, 40, S.SOCK_STREAM), 'packet': attempt(sock, 17, S.SOCK_RAW), 'alg': attempt(sock, 38, S.SOCK_SEQPACKET),
  'netfilter': attempt(sock, 16, S.SOCK_RAW, 12), 'raw ip': attempt(sock, S.AF_INET, S.SOCK_RAW, 1),
  'tiocsti': attempt(fcntl.ioctl, 0, 0x5412, b'x'), 'tioclinux': attempt(fcntl.ioctl, 0, 0x541C, b'x'),
  'device': attempt(os.mknod, '/tmp/dev', 0o20666, os.makedev(1, 1)), 'block': attempt(os.mknod, '/tmp/blk', 0o60666, os.makedev(254, 0)),
  'chroot': attempt(os.chroot, '/tmp'), 'hostname': attempt(S.sethostname, 'x'),
  'allowed': [attempt(sock, S.AF_INET, S.SOCK_STREAM), attempt(sock, S.AF_UNIX, S.SOCK_STREAM), attempt(os.mkfifo, '/tmp/fifo'),
              attempt(sock, 16, S.SOCK_RAW, 0)],
}))
""",
    )
    assert seen.pop("allowed") == ["ok"] * 4
    assert {name: result for name, result in seen.items() if result not in ("EPERM", "ENOSYS")} == {}


@pytest.mark.parametrize("bits", ["int80", "x32"])
async def test_foreign_calling_conventions_are_killed(rig: Rig, bits: str) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("x86-64 only")
    if bits == "x32":
        code = "libc.syscall(ctypes.c_long(0x40000000 | 39))"
    else:
        code = """
import mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))
ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
"""
    ended, out, err = await rig.run(HELPERS + code + "\nprint('survived')")
    assert ended.signal == signal.SIGSYS, (ended, out, err)


async def test_a_user_namespace_can_be_made_without_disable_userns(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: with the filters away, --disable-userns alone must hold; without it nothing does."""
    if os.uname().machine != "x86_64":
        pytest.skip("x86-64 numbers")
    shared = rig.inner._machine
    object.__setattr__(shared.filters, "programs", ())
    monkeypatch.setattr("hearth.drivers.bubblewrap.program.check_confined", lambda pid, uid: None)
    attack = "print(json.dumps(call(272, 0x10000000)))"
    assert await told(rig, attack) in ("ENOSPC", "EUSERS")
    without(monkeypatch, "--disable-userns")
    assert await told(rig, attack) == "ok"


async def test_forbidden_calls_succeed_without_filters(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = rig.inner._machine
    object.__setattr__(shared.filters, "programs", ())
    monkeypatch.setattr("hearth.drivers.bubblewrap.program.check_confined", lambda pid, uid: None)
    seen = await told(
        rig,
        "import socket as S\nprint(json.dumps([attempt(lambda: S.socket(16, S.SOCK_RAW, 12).close()), attempt(lambda: os.chmod('/tmp', 0o4777)) != 'x']))",
    )
    assert seen == ["ok", True]


# processes and sockets


async def test_pid_1_cannot_be_killed_from_inside(rig: Rig) -> None:
    seen = await told(
        rig,
        "import signal\nfor s in (15, 2, 1, 9, 19): os.kill(1, s)\ntime.sleep(0.05); print(json.dumps([os.getppid(), sorted(int(p) for p in os.listdir('/proc') if p.isdigit())]))",
    )
    assert seen == [1, [1, 2]]


async def test_only_its_own_processes_exist(rig: Rig) -> None:
    seen = await told(
        rig,
        f"print(json.dumps([os.getpid(), attempt(os.kill, {os.getpid()}, 0), open('/proc/self/cgroup').read()]))",
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


async def test_another_uid_cannot_dial_and_the_socket_is_gone_after_one(rig: Rig) -> None:
    handle = await rig.start("s = dial(); print(os.path.exists(SLOT + '/guest.sock'), flush=True); s.recv(1)")
    slot = rig.inner._find(handle)._slot.path
    fd = await rig.driver.connect(handle, soon())
    assert not (slot / "guest.sock").exists()
    os.close(fd)
    await rig.driver.stop(handle, 0)
    handle = await rig.start("time.sleep(100)")
    path = rig.inner._find(handle)._slot.path / "guest.sock"
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
    rig.inner._find(handle)._spawned.outer.signal(signal.SIGKILL)
    ended = await asyncio.wait_for(rig.driver.wait(handle), 10)
    assert ended.signal == signal.SIGKILL
    assert await read_some(fd) == b""
    os.close(fd)
    await rig.driver.stop(handle, 0)


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


async def test_mounted_folders_are_read_only_whatever_their_modes(rig: Rig) -> None:
    tool = rig.folders["toolchain"] / "tool"
    tool.mkdir()
    tool.chmod(0o777)
    (tool / "file").write_text("tool")
    (tool / "file").chmod(0o666)
    seen = await told(
        rig,
        "print(json.dumps([attempt(lambda: open('/tools/x/new', 'w')), attempt(lambda: open('/tools/x/file', 'w')), attempt(os.chmod, '/tools/x/file', 0o777)]))",
        mounts=(Mount("toolchain", "tool", "/tools/x"),),
    )
    assert seen == ["EROFS"] * 3
    assert (tool / "file").read_text() == "tool"
