"""Hostile code that calls the kernel: the seccomp filters and user namespaces. Each test is an attack, written as the payload would write it."""

from __future__ import annotations

import os
import signal

import pytest

from tests.contract.driver_cases import Rig
from tests.machine import elsewhere
from tests.security.jail import HELPERS, drop_options, told

pytestmark = [pytest.mark.root, pytest.mark.own]


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
        elsewhere("x86-64 only")
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
        elsewhere("x86-64 numbers")
    shared = rig.inner._machine
    object.__setattr__(shared.filters, "programs", ())
    monkeypatch.setattr("hearth.drivers.common.program.check_confined", lambda *_: None)
    attack = "print(json.dumps(call(272, 0x10000000)))"
    assert await told(rig, attack) in ("ENOSPC", "EUSERS")
    drop_options(monkeypatch, "--disable-userns")
    assert await told(rig, attack) == "ok"


async def test_forbidden_calls_succeed_without_filters(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = rig.inner._machine
    object.__setattr__(shared.filters, "programs", ())
    monkeypatch.setattr("hearth.drivers.common.program.check_confined", lambda *_: None)
    seen = await told(
        rig,
        "import socket as S\nprint(json.dumps([attempt(lambda: S.socket(16, S.SOCK_RAW, 12).close()), attempt(lambda: os.chmod('/tmp', 0o4777)) != 'x']))",
    )
    assert seen == ["ok", True]
