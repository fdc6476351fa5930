"""Containers looked at and attacked as bubblewrap's sandboxes are: what is seen from outside, what a payload can't do, how it ends."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hearth.core.errors import LimitUnenforceable, SandboxFailed
from hearth.core.launch import Handle, Limits
from hearth.drivers.docker import sandbox as sandbox_module
from hearth.drivers.docker import spec as container
from hearth.drivers.docker.place import CopiedPlace
from tests import dockerd as daemons
from tests.contract.driver_cases import Rig, docker_rig, read_until, soon
from tests.dockerd import Dockerd
from tests.patience import patient
from tests.security.jail import told
from tests.security.outside import children_of, status_of

pytestmark = pytest.mark.docker
MIB = 1 << 20
WAIT = "s = dial(); s.sendall(b'up\\n'); s.recv(1)"
NAMESPACES = ("pid", "net", "ipc", "uts", "cgroup", "mnt")


@pytest.fixture
async def rig(tmp_path: Path, dockerd: Dockerd) -> AsyncIterator[Rig]:
    async with docker_rig(tmp_path, dockerd) as ready:
        yield ready


async def up(rig: Rig, **more: Any) -> tuple[Handle, int]:
    handle = await rig.start(WAIT, **more)
    fd = await rig.driver.connect(handle, soon())
    await read_until(fd, b"up\n")
    return handle, fd


def processes(rig: Rig, handle: Handle) -> list[int]:
    first = rig.inner._table.find(handle)._process.pid
    return [first, *children_of(first)]


def wrong(rig: Rig, handle: Handle) -> set[str]:
    """What is not as it must be, of every process of a container."""
    found = set()
    uid = rig.inner._table.find(handle)._uid
    pids = processes(rig, handle)
    assert len(pids) == 2  # Docker's init and the program
    for pid in pids:
        status = status_of(pid)
        for name, expected in (
            ("Uid", "\t".join([str(uid)] * 4)),
            ("Gid", "\t".join([str(uid)] * 4)),
            ("Groups", str(uid)),  # Docker names the own group once more
            *((f"Cap{kind}", "0" * 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ):
            if status[name].strip() != expected:
                found.add(name)
        for name in NAMESPACES:
            if os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}"):
                found.add(f"ns {name}")
        limits = Path(f"/proc/{pid}/limits").read_text()
        if not any(
            line.split()[3:5] == ["1024", "1024"] for line in limits.splitlines() if "open files" in line
        ):
            found.add("open files")
        mounts = [line.split(" ") for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
        by_place = {mount[4]: mount[5].split(",") for mount in mounts}
        if "ro" not in by_place["/"]:
            found.add("root")
        if not {"nosuid", "nodev"} <= set(by_place["/tmp"]):
            found.add("/tmp")
        if "ro" not in by_place["/hearth"]:
            found.add("/hearth")
        if any(line.endswith("docker.sock") for line in by_place):
            found.add("docker.sock")
    return found


async def test_what_is_seen_from_outside(rig: Rig) -> None:
    handle, fd = await up(rig)
    assert wrong(rig, handle) == set()
    await rig.attach(handle, rig.artifact(), secrets=(("A", b"b"),))
    assert wrong(rig, handle) == set()
    os.close(fd)
    await rig.driver.stop(handle, 0)


@pytest.mark.parametrize(
    ("setting", "value", "seen"),
    [
        ("ReadonlyRootfs", False, "root"),
        ("SecurityOpt", ["seccomp=unconfined"], "Seccomp"),
        ("CapDrop", [], "CapBnd"),
        ("CgroupnsMode", "host", "ns cgroup"),
        ("NetworkMode", "host", "ns net"),
        ("Ulimits", [], "open files"),
    ],
)
async def test_each_setting_shows_when_it_is_left_out(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, setting: str, value: object, seen: str
) -> None:
    made = container.config

    def less(wanted: container.Container) -> dict[str, Any]:
        config = made(wanted)
        config["HostConfig"][setting] = value
        return config

    monkeypatch.setattr(container, "config", less)
    monkeypatch.setattr(sandbox_module.program, "check_confined", lambda *arguments: None)
    handle, fd = await up(rig)
    assert seen in wrong(rig, handle)
    os.close(fd)
    await rig.driver.stop(handle, 0)


async def test_a_container_that_is_not_confined_is_never_let_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = container.config

    def less(wanted: container.Container) -> dict[str, Any]:
        config = made(wanted)
        config["HostConfig"]["CapDrop"] = []
        return config

    monkeypatch.setattr(container, "config", less)
    with pytest.raises(SandboxFailed, match="less confined"):
        await rig.start("print('it ran')")
    assert await rig.driver.list_owned(None) == []


async def test_what_a_payload_tries(rig: Rig) -> None:
    found = await told(
        rig,
        """
import socket
from pathlib import Path
print(json.dumps({
    "root": attempt(lambda: open("/x", "w")),
    "usr": attempt(lambda: open("/usr/x", "w")),
    "hearth": attempt(lambda: open("/hearth/x", "w")),
    "tmp": attempt(lambda: open("/tmp/x", "w")),
    "mknod": attempt(os.mknod, "/tmp/null", 0o20666, 259),
    "userns": call(272, 0x10000000),
    "mount": call(165, b"none", b"/tmp", b"tmpfs", 0, 0),
    "ptrace": call(101, 0, 0, 0, 0),
    "keyctl": call(250, 0, 0, 0),
    "io_uring": call(425, 1, 0),
    "unknown": call(500),
    "vsock": attempt(socket.socket, 40, socket.SOCK_STREAM),
    "packet": attempt(socket.socket, socket.AF_PACKET, socket.SOCK_RAW),
    "raw": attempt(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1),
    "unix": attempt(socket.socket, socket.AF_UNIX),
    "inet": attempt(socket.socket, socket.AF_INET6),
    "audit": attempt(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, 9),
    "setuid": attempt(os.chmod, "/tmp/x", 0o4755),
    "chmod": attempt(os.chmod, "/tmp/x", 0o755),
    "tiocsti": call(16, 0, 0x5412, b"x"),
    "ptracer": call(157, 0x59616d61, 1, 0, 0, 0),
    "environ": sorted(Path("/proc/1/environ").read_text().split("\\0")),
    "interfaces": os.listdir("/sys/class/net") if os.path.exists("/sys/class/net") else ["lo"],
    "sockets": [p for p in ("/var/run/docker.sock", "/run/docker.sock") if os.path.exists(p)],
}))
""",
    )
    for name in ("root", "usr", "hearth"):
        assert found[name] == "EROFS", name
    for name in ("tmp", "unix", "inet", "chmod"):
        assert found[name] == "ok", name
    refused = {"EPERM", "ENOSYS"}
    for name in (
        "mknod",
        "userns",
        "mount",
        "ptrace",
        "keyctl",
        "io_uring",
        "unknown",
        "vsock",
        "packet",
        "raw",
    ):
        assert found[name] in refused, name
    for name in ("audit", "setuid", "tiocsti", "ptracer"):
        assert found[name] in refused, name
    assert found["interfaces"] == ["lo"]
    assert found["sockets"] == []
    assert not any(line.startswith("HEARTH") for line in found["environ"])


async def test_lingering_sockets_are_refused_in_silence(rig: Rig) -> None:
    found = await told(
        rig,
        """
import struct
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
print(json.dumps([attempt(s.setsockopt, 1, 13, struct.pack("ii", 1, 3)), s.getsockopt(1, 13, 8)[0], s.getsockopt(1, 2)]))
""",
    )
    assert found[1:] == [0, 1]


async def test_memory_is_told_from_a_kill_and_from_an_exit(rig: Rig) -> None:
    ended, _, _ = await rig.run("x = bytearray(200 << 20)", limits=Limits(memory=64 * MIB))
    assert (ended.signal, ended.oom, ended.reason) == (signal.SIGKILL, True, "killed for memory")
    ended, _, _ = await rig.run(
        "import subprocess\np = subprocess.run([sys.executable, '-c', 'x = bytearray(200 << 20)'])\nsys.exit(3)",
        limits=Limits(memory=64 * MIB),
    )
    assert (ended.code, ended.oom) == (3, True)
    ended, _, _ = await rig.run("os.kill(os.getpid(), 9)")
    assert (ended.signal, ended.oom) == (signal.SIGKILL, False)
    ended, _, _ = await rig.run(
        "sys.exit(137)"
    )  # as shells say it: not to be told from a signal, but no matter of memory
    assert not ended.oom


@pytest.mark.parametrize("kind", ["tmp", "shm"])
async def test_files_in_memory_have_their_sizes(rig: Rig, kind: str) -> None:
    folder, size = {"tmp": ("/tmp", 2 * MIB), "shm": ("/dev/shm", container.SHM_BYTES)}[kind]
    code = f"""
size = 0
with open("{folder}/x", "wb", buffering=0) as f:
    try:
        while size < 64 << 20: size += f.write(b"x" * 65536)
    except OSError as e: print(e.errno)
print(size)
"""
    _, out, _ = await rig.run(code, limits=Limits(tmp=2 * MIB))
    assert out.split() == ["28", str(size)]


async def test_processes_are_counted(rig: Rig) -> None:
    code = """
n = 0
try:
    while n < 50:
        if os.fork() == 0: time.sleep(100)
        n += 1
except BlockingIOError: pass
print(n)
"""
    _, out, _ = await rig.run(code, limits=Limits(pids=8))
    assert int(out) in (7, 8)


async def test_limits_change_at_attach(rig: Rig, dockerd: Dockerd) -> None:
    handle, fd = await up(rig)
    limits = Limits(memory=100 * MIB, cpu=0.5, tmp=4 * MIB, pids=20)
    await rig.attach(handle, rig.artifact(), limits=limits)
    sandbox = rig.inner._table.find(handle)
    told_by = (await dockerd.request("GET", f"/containers/{sandbox.container}/json")).json()["HostConfig"]
    assert (told_by["Memory"], told_by["MemorySwap"]) == (limits.memory, limits.memory)
    assert (told_by["NanoCpus"], told_by["PidsLimit"]) == (500_000_000, limits.pids + container.OWN_PIDS)
    size = os.statvfs(f"/proc/{sandbox._process.pid}/root/tmp")
    assert size.f_blocks * size.f_frsize == limits.tmp
    os.close(fd)
    await rig.driver.stop(handle, 0)


async def test_nothing_stays_mounted_and_nothing_can_be_added_after_attach(rig: Rig) -> None:
    handle, fd = await up(rig)
    pid = processes(rig, handle)[1]
    slots = str(rig.inner._ready().root)
    await rig.attach(handle, rig.artifact(**{"main.py": "x"}), secrets=(("TOKEN", b"s"),))
    here = Path("/proc/self/mountinfo").read_text()
    assert [line.split(" ")[4] for line in here.splitlines() if slots in line] == [slots]
    inside = [line for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines() if " /hearth" in line]
    assert len(inside) == 3  # the slot, the code, the secrets
    assert not any("master:" in line.partition(" - ")[0] for line in inside)
    assert all(line.split(" ")[5].startswith("ro") for line in inside)
    os.close(fd)
    await rig.driver.stop(handle, 0)


async def test_where_mounts_are_not_allowed_code_is_copied(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = rig.inner._ready()
    root = rig.folders["artifact"].parent / "containers"  # of the data directory: links can be made
    for folder in (root.parent, rig.folders["artifact"]):
        folder.chmod(0o711)
    root.mkdir()
    root.chmod(0o711)
    monkeypatch.setattr(type(machine), "place", lambda self, name: CopiedPlace(root, name, machine.sources))
    handle = await rig.start(
        "s = dial(); s.sendall(b'up\\n'); s.recv(1)\n"
        "s.sendall(repr((open('/hearth/code/a').read(), open('/hearth/secrets/T').read())).encode() + b'\\n'); s.recv(1)"
    )
    fd = await rig.driver.connect(handle, soon())
    await read_until(fd, b"up\n")
    await rig.attach(handle, rig.artifact(a="code"), secrets=(("T", b"secret"),))
    os.write(fd, b"x")
    assert await read_until(fd, b"\n") == b"('code', 'secret')\n"
    os.close(fd)
    await rig.driver.stop(handle, 0)
    handle, fd = await up(rig)
    with pytest.raises(LimitUnenforceable):
        await rig.attach(handle, rig.artifact(), limits=Limits(tmp=MIB))
    os.close(fd)
    await rig.driver.stop(handle, 0)
    assert not list(root.iterdir())


async def test_gvisor(rig: Rig) -> None:
    if shutil.which("runsc", path=daemons.PATH) is None:
        pytest.skip("needs runsc")
    code = """
s = dial(); s.sendall(b"up\\n"); s.recv(1)
s.sendall(open("/proc/version").read().split("(")[0].encode() + open("/hearth/code/a").read().encode() + b"\\n"); s.recv(1)
"""
    handle = await rig.start(code, isolation_runtime="runsc")
    fd = await rig.driver.connect(handle, soon())
    await read_until(fd, b"up\n")
    await rig.attach(handle, rig.artifact(a="code"))
    os.write(fd, b"x")
    said = await read_until(fd, b"\n")
    assert b"4.4.0" in said  # the kernel that gVisor says it is, and not this machine's
    assert said.endswith(b"code\n")
    os.close(fd)
    await asyncio.wait_for(rig.driver.stop(handle, 0), patient(30))
    ended, out, _ = await rig.run("print('x'); sys.exit(5)", isolation_runtime="runsc")
    assert (ended.code, out) == (5, "x\n")


async def test_an_isolation_runtime_that_is_not_there(rig: Rig) -> None:
    with pytest.raises(SandboxFailed, match="no isolation runtime 'kata'"):
        await rig.start(WAIT, isolation_runtime="kata")
    with pytest.raises(LimitUnenforceable):
        await rig.start(WAIT, isolation_runtime="runsc", networked=True)
