"""A hostile function that came the whole way, slot, attach, load, request: what it finds, reaches and changes.

Every attack is written as the function would write it. `evil` runs what a request's body says.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from hearth.core.launch import Limits
from hearth.drivers.common import slots
from tests.contract.driver_cases import Rig
from tests.security.conftest import Languages, RigOf
from tests.security.functions import Language, Running, become_hostile, opened
from tests.security.jail import HELPERS

pytestmark = [pytest.mark.root, pytest.mark.own, pytest.mark.timeout(300)]
KINDS = ["python", "go", "node", pytest.param("node-wheel", marks=pytest.mark.network)]
KEEPERS_SECRET = "keepers-own-secret"
REFUSED = {"EROFS", "EPERM", "EACCES", "EBUSY", "EINVAL", "ENOENT", "ENOSYS"}


# Its code, its slot, the shim

PLACES = ["/hearth", "/hearth/code", "/hearth/secrets", "/hearth-shim", "/usr"]
CHANGES = """
places = {"code": "/hearth/code", "slot": "/hearth", "secrets": "/hearth/secrets", "shim": "/hearth-shim"}
file = {"code": "handler.py", "shim": "main.py"}
result = {}
for name, place in places.items():
    result[name] = [
        attempt(lambda: open(place + "/new", "w")), attempt(os.mkdir, place + "/folder"),
        attempt(os.symlink, "/tmp", place + "/link"), attempt(os.chmod, place, 0o777),
        attempt(os.rename, place, place + "-moved"), attempt(os.utime, place),
    ]
    if name in file:
        path = place + "/" + file[name]
        result[name] += [
            attempt(lambda: open(path, "a")), attempt(os.truncate, path, 0), attempt(os.chmod, path, 0o777),
            attempt(os.unlink, path), attempt(os.rename, path, place + "/other"), attempt(os.link, path, place + "/hard"),
            attempt(os.setxattr, path, "user.x", b"1"), attempt(os.chown, path, 1000, 1000),
        ]
"""
MOUNTS = """
MS_REMOUNT, MS_BIND, MNT_DETACH = 32, 4096, 2
def name(r): return "ok" if r == 0 else errno.errorcode[ctypes.get_errno()]
result = {}
for place in (b"/hearth/code", b"/hearth", b"/hearth-shim", b"/", b"/usr", b"/proc/sys"):
    result[place.decode()] = [
        name(libc.mount(None, place, None, MS_REMOUNT | MS_BIND, None)), name(libc.umount2(place, MNT_DETACH)),
        name(libc.mount(b"/tmp", place, None, MS_BIND, None)), name(libc.mount(b"tmpfs", place, b"tmpfs", 0, None)),
        call(442, -100, ctypes.c_char_p(place), 0, ctypes.c_char_p(b"\\0" * 8 + b"\\1" + b"\\0" * 23), 32),
        call(428, -100, ctypes.c_char_p(place), 1),
    ]
"""


async def test_code_slot_and_shim_cannot_be_changed(home: Rig, python: Language) -> None:
    async with opened(home, python) as slot:
        folder = await become_hostile(slot, given=(("KEY", b"value"),))
        before = (folder / "handler.py").read_bytes()
        flags = await slot.run(f"import os\nresult = {{p: os.statvfs(p).f_flag for p in {PLACES!r}}}")
        wanted = os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV
        assert {place: flag & wanted for place, flag in flags.items()} == dict.fromkeys(PLACES, wanted)
        seen = await slot.run(HELPERS + "import os" + CHANGES)
        assert {name: set(results) <= REFUSED for name, results in seen.items()} == dict.fromkeys(
            seen, True
        ), seen
        assert (folder / "handler.py").read_bytes() == before
        assert sorted(path.name for path in folder.iterdir()) == ["handler.py"]


async def test_code_changes_when_its_mount_is_writable(
    home: Rig, python: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: it is the attribute of the mount that held, and nothing else."""
    monkeypatch.setattr(slots.mounts, "set_attributes", lambda fd, flags: None)
    async with opened(home, python) as slot:
        folder = await become_hostile(slot)
        assert await slot.run(HELPERS + "result = attempt(lambda: open('/hearth/code/new', 'w'))") == "ok"
        assert (folder / "new").exists()


@pytest.mark.parametrize("filters", [2, 0], ids=["filters", "no-filters"])
async def test_mounts_cannot_be_changed(
    home: Rig, python: Language, monkeypatch: pytest.MonkeyPatch, filters: int
) -> None:
    """The filters refuse; where they were not, a function without capabilities could do nothing either."""
    programs = home.inner._machine.filters
    object.__setattr__(programs, "programs", programs.programs[:filters])
    monkeypatch.setattr("hearth.drivers.common.program.check_confined", lambda *_: None)
    async with opened(home, python) as slot:
        await become_hostile(slot)
        seen = await slot.run(HELPERS + MOUNTS)
        assert {place: set(results) for place, results in seen.items()} == {
            place: {"EPERM"} for place in seen
        }


async def test_code_is_not_there_before_attach(home: Rig, python: Language) -> None:
    async with opened(home, python) as slot:
        child = home.inner._table.find(slot.handle)._child.pid
        assert list(Path(f"/proc/{child}/root/hearth/code").iterdir()) == []
        await become_hostile(slot)
        assert [path.name for path in Path(f"/proc/{child}/root/hearth/code").iterdir()] == ["handler.py"]


# The platform


async def test_the_guest_socket_can_be_dialled_once_only(evil: Running, home: Rig) -> None:
    seen = await evil.run(
        HELPERS
        + "import socket, os\ndef dial(p):\n    with socket.socket(socket.AF_UNIX) as s: s.connect(p)\n"
        "result = [attempt(dial, p) for p in ('/hearth/guest.sock', '/hearth/../hearth/guest.sock')] + [os.listdir('/hearth')]"
    )
    assert seen[:2] == ["ENOENT", "ENOENT"]
    assert sorted(seen[2]) == ["code", "secrets"]


@pytest.mark.parametrize("kind", KINDS)
async def test_no_environment_and_no_descriptor_of_the_platform(
    languages: Languages, rig_of: RigOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    language = await asyncio.to_thread(languages, kind)
    rig = await rig_of(language)
    monkeypatch.setenv("KEEPER_PASSWORD", KEEPERS_SECRET)
    (tmp_path / "secret").touch(0o600)
    leaked = os.open(tmp_path / "secret", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        async with opened(rig, language) as slot:
            await slot.attach(Limits())
            await slot.load(env=(("MINE", "1"),))
            seen = await slot.run(LOOK[language.runtime.name])
    finally:
        os.close(leaked)
    assert KEEPERS_SECRET not in str(seen)
    assert {name.split("=")[0] for name in seen["env"]} <= {
        "PATH", "HOME", "LANG", "PWD", "MINE", "PORT", "HEARTH_FUNCTION", "HEARTH_NAMESPACE", "HEARTH_VERSION",
        "GOMAXPROCS", "GOMEMLIMIT", "LC_CTYPE",
    }  # fmt: skip
    assert "MINE=1" in seen["env"]
    first = set(seen["/proc/1/environ"].strip("\0").split("\0"))
    assert first <= {"PATH=/usr/bin:/bin", "PWD=/"}
    allowed = ("/dev/null", "pipe:[", "socket:[", "anon_inode:", "/proc/")
    assert all(link.startswith(allowed) for link in seen["/proc/self/fd"]), seen["/proc/self/fd"]
    assert sum(link.startswith("socket:[") for link in seen["/proc/self/fd"]) == 1  # its own connection
    assert seen["/proc/1/fd"] == [] or all(link.startswith(allowed) for link in seen["/proc/1/fd"])
    assert not any(link.startswith("socket:[") for link in seen["/proc/1/fd"])


LOOK: dict[str, Any] = {
    "python": """
import os
def links(p):
    found = []
    for f in os.listdir(p):
        try: found.append(os.readlink(p + "/" + f))
        except OSError: pass
    return found
result = {"env": [f"{k}={v}" for k, v in os.environ.items()], "/proc/1/environ": open("/proc/1/environ").read(),
          "/proc/self/fd": links("/proc/self/fd"), "/proc/1/fd": links("/proc/1/fd"), "/proc/1/cmdline": open("/proc/1/cmdline").read(),
          "self": open("/proc/self/environ").read()}
""",
    "node": """
const fs = require('node:fs');
const links = (p) => fs.readdirSync(p).map((f) => { try { return fs.readlinkSync(p + '/' + f) } catch { return '' } }).filter(Boolean);
return { env: Object.entries(process.env).map(([k, v]) => k + '=' + v), '/proc/1/environ': fs.readFileSync('/proc/1/environ', 'utf8'),
  '/proc/self/fd': links('/proc/self/fd'), '/proc/1/fd': links('/proc/1/fd'), '/proc/1/cmdline': fs.readFileSync('/proc/1/cmdline', 'utf8'),
  self: fs.readFileSync('/proc/self/environ', 'utf8') };
""",
    "go": {
        "Read": ["/proc/1/environ", "/proc/1/cmdline", "/proc/self/environ"],
        "Links": ["/proc/self/fd", "/proc/1/fd"],
    },
}


async def test_go_code_cannot_change_itself(languages: Languages, rig_of: RigOf) -> None:
    language = await asyncio.to_thread(languages, "go")
    rig = await rig_of(language)
    async with opened(rig, language) as slot:
        folder = await become_hostile(slot)
        before = (folder / "function").stat().st_mtime_ns
        paths = [
            "/hearth/code/function",
            "/hearth/code/new",
            "/hearth/new",
            "/hearth-shim/launcher.py",
            "/usr/new",
        ]
        seen = await slot.run(
            {"Write": paths, "Read": ["/etc/shadow", "/hearth/guest.sock"], "Run": ["/usr/bin/id"]}
        )
        assert {seen[path] for path in paths} <= {
            "read-only file system",
            "text file busy",
            "permission denied",
        }, seen
        assert seen["/etc/shadow"] == seen["/hearth/guest.sock"] == "no such file or directory"
        assert "uid=1000(fn) gid=1000(fn) groups=1000(fn)" in seen["/usr/bin/id"]
        assert (folder / "function").stat().st_mtime_ns == before


async def test_processes_outside_cannot_be_signalled(home: Rig, python: Language, evil: Running) -> None:
    async with opened(home, python) as other:
        await become_hostile(other)
        sandbox = home.inner._table.find(other.handle)
        outside = [os.getpid(), sandbox._child.pid, sandbox._program.pid, sandbox._spawned.process.pid]
        outside = [pid for pid in outside if pid > 100]  # smaller numbers may be its own processes
        seen = await evil.run(
            HELPERS + "import os, signal\n"
            f"result = [attempt(f, p, *a) for p in {outside!r} for f, *a in ((os.kill, 0), (os.kill, 9), (os.pidfd_open,), (os.sched_setaffinity, [0]))]"
        )
        assert set(seen) == {"ESRCH"}
        # Itself is all that it may kill.
        pair = (
            "import os\nr, w = os.pipe()\nchild = os.fork()\nif child == 0:\n    while True: os.read(r, 1)\n"
        )
        assert await evil.run(pair + "os.kill(-1, 9)\nresult = [os.getppid(), os.waitpid(child, 0)[1]]") == [
            1,
            9,
        ]
        assert await other.run("result = 'alive'") == "alive"
