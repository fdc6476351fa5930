"""Hostile code that looks for files: what it can see, read and write. Each test is an attack, written as the payload would write it."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest

from hearth.core.launch import Mount
from tests.contract.driver_cases import Rig, read_until, soon
from tests.security.jail import HELPERS, drop_options, told

pytestmark = [pytest.mark.root, pytest.mark.own]


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
    drop_options(monkeypatch, "--remount-ro")
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
    sandbox = rig.inner._table.find(handle)
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


async def test_no_descriptor_is_inherited(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "secret").touch(0o600)
    secret = os.open(tmp_path / "secret", os.O_RDONLY)
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
