"""The drivers on which the contract suite runs, each made ready by a factory; add a driver by adding a case.

A factory is an async context manager that gives a `Rig` and, at its end, fails if anything is left on the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hearth.core.ids import new_id
from hearth.core.launch import Attachment, Handle, Limits, Network, SandboxSpec
from hearth.drivers.bubblewrap import BubblewrapDriver
from hearth.drivers.bubblewrap.kin import below, children
from hearth.drivers.common.uids import FIRST, Uids
from hearth.drivers.docker import DockerDriver
from hearth.drivers.process import ProcessDriver
from hearth.drivers.remote import RemoteDriver
from hearth.drivers.safe import SafeAttachingDriver, safe
from hearth.keeper.server import KeeperServer, Role
from tests.dockerd import Dockerd
from tests.patience import patient

PYTHON = "/usr/bin/python3"


def fresh(kind: str) -> str:
    return new_id(kind, time.time_ns() // 1_000_000, secrets.token_bytes(10))


def soon(seconds: float | None = None) -> float:
    """A deadline; the default is what no plain machine needs, another is what a test says that it is."""
    return time.monotonic() + (patient(20.0) if seconds is None else seconds)


# What every payload may use: where the slot is, and a connected guest.
PRELUDE = """
import os, socket, sys, time
SLOT = os.environ.get("HEARTH_SLOT_DIR", "/hearth")
def dial():
    s = socket.socket(socket.AF_UNIX)
    s.connect(SLOT + "/guest.sock")
    return s
"""


@dataclass
class Rig:
    """A driver that is ready, and what a test needs beside it.

    Args:
        driver: wrapped by `safe`, as the keeper uses it.
        folders: mount kind to the folder where its names are.
        isolates: it is a sandbox and not a plain process.
        inner: the driver inside.
    """

    driver: SafeAttachingDriver | RemoteDriver
    folders: dict[str, Path]
    isolates: bool
    inner: Any = None
    owner: str = field(default_factory=lambda: fresh("owner"))

    def spec(self, code: str, **more: Any) -> SandboxSpec:
        """A sandbox that runs Python code (after `PRELUDE`)."""
        more.setdefault("owner", self.owner)
        more.setdefault("argv", (PYTHON, "-I", "-S", "-c", PRELUDE + code))
        more.setdefault("env", (("PATH", "/usr/bin:/bin"),))
        return SandboxSpec(id=fresh("sandbox"), **more)

    async def start(self, code: str, **more: Any) -> Handle:
        return await self.driver.start(self.spec(code, **more), soon())

    async def run(self, code: str, **more: Any) -> tuple[Any, str, str]:
        """Run to the end: (exit, stdout, stderr)."""
        more.setdefault("guest", False)
        handle = await self.start(code, **more)
        out, err = self.driver.output(handle)
        try:
            texts = await asyncio.wait_for(asyncio.gather(read_all(out), read_all(err)), patient(60))
            ended = await asyncio.wait_for(self.driver.wait(handle), patient(60))
        finally:
            os.close(out)
            os.close(err)
            await self.driver.stop(handle, 0)
        return ended, *(text.decode("utf-8", "replace") for text in texts)

    def artifact(self, **files: str) -> str:
        name = "sha256-" + secrets.token_hex(16)
        folder = self.folders["artifact"] / name
        folder.mkdir()
        folder.chmod(0o755)
        for file, text in files.items():
            (folder / file).write_text(text)
            (folder / file).chmod(0o644)
        return name

    async def attach(self, handle: Handle, artifact: str, **more: Any) -> None:
        more = {"limits": Limits(), "network": Network(), **more}
        await self.driver.attach(handle, Attachment(artifact, **more))


async def read_some(fd: int) -> bytes:
    """What comes next from a non-blocking descriptor; empty at its end."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return os.read(fd, 65536)
        except BlockingIOError:
            ready = loop.create_future()
            loop.add_reader(fd, lambda done=ready: done.done() or done.set_result(None))
            try:
                await ready
            finally:
                loop.remove_reader(fd)
        except ConnectionResetError:
            return b""


async def read_all(fd: int) -> bytes:
    data = b""
    while chunk := await read_some(fd):
        data += chunk
    return data


async def read_until(fd: int, end: bytes) -> bytes:
    data = b""
    while end not in data:
        chunk = await asyncio.wait_for(read_some(fd), 20)
        if not chunk:
            raise AssertionError(f"the other side closed after {data!r}")
        data += chunk
    return data


def open_fds() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
    return found


@contextlib.contextmanager
def no_leaked_fds() -> Any:
    before = open_fds()
    yield
    left = {entry for entry in open_fds() - before if "eventpoll" not in entry}
    assert not left, f"descriptors left open: {left}"


def make_folders(data: Path) -> dict[str, Path]:
    """A data directory as the platform has it: nobody but its owner may enter."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    kinds = {"artifact": "artifacts", "source": "sources", "toolchain": "toolchains", "shim": "shims"}
    for name in kinds.values():
        (data / name).mkdir(mode=0o700, exist_ok=True)
    return {kind: data / name for kind, name in kinds.items()}


@contextlib.asynccontextmanager
async def bubblewrap_rig(
    tmp_path: Path, instead: dict[str, Path] | None = None, **options: Any
) -> AsyncIterator[Rig]:
    """Bubblewrap, and root or a process that has called `linux.userns.enter` (see tests/user/inside.py) are needed.

    `instead`: folders of mount kinds that are not to be empty ones of the test's own.
    """
    run = Path(tempfile.mkdtemp(prefix="hearth-test-", dir="/run" if os.geteuid() == 0 else None))
    run.chmod(0o711)
    instance = "t" + secrets.token_hex(5)
    folders = {**make_folders(tmp_path / "data"), **(instead or {})}
    driver = BubblewrapDriver(instance=instance, run=run, data=tmp_path / "data", folders=folders, **options)
    reap_orphans()
    try:
        with no_leaked_fds():
            await driver.open()
            try:
                shared = driver._ready()
                yield Rig(safe(driver, max_starts=8), folders, True, driver)
                left = await driver.list_owned(None)
            finally:
                await driver.close()
        assert not left, f"sandboxes left by the test: {left}"
        assert_nothing_left(instance, shared.uids, run, tmp_path)
    finally:
        shutil.rmtree(run)


def reap_orphans() -> bool:
    """Sandboxes of a keeper that a test killed come to this process, a subreaper, and wait to be collected: that is done here.

    Their uids may be anybody's next, so to a later test they would look like its own. Returns whether some are still alive.
    """
    alive = False
    for pid in children(os.getpid()):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            if int(status.partition("\nUid:\t")[2].split()[0]) >= FIRST:
                alive |= os.waitpid(pid, os.WNOHANG)[0] == 0
    return alive


def assert_nothing_left(instance: str, uids: Uids, run: Path, data: Path) -> None:
    """No process, mount, control group or loop device."""
    if uids.shared:
        assert not below(os.getpid())
    for status in [] if uids.shared else Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            line = next(line for line in status.read_text().splitlines() if line.startswith("Uid:"))
            assert not any(int(uid) in uids.range for uid in line.split()[1:]), status.read_text()
    table = Path("/proc/self/mountinfo").read_text()
    assert str(run) not in table
    assert str(data) not in table
    for folder, _, _ in os.walk("/sys/fs/cgroup"):  # others' groups vanish meanwhile: those are passed over
        assert not Path(folder).name.startswith(f"hearth-{instance}"), folder
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            assert str(data) not in backing.read_text()


@contextlib.asynccontextmanager
async def docker_rig(
    tmp_path: Path, dockerd: Dockerd, instead: dict[str, Path] | None = None, **options: Any
) -> AsyncIterator[Rig]:
    """Containers of a daemon of the tests' own; root is needed."""
    instance = "t" + secrets.token_hex(5)
    run = Path(f"/run/hearth-docker-{instance}")
    folders = {**make_folders(tmp_path / "data"), **(instead or {})}
    driver = DockerDriver(
        instance=instance, run=run, data=tmp_path / "data", folders=folders, socket=dockerd.socket, **options
    )
    with no_leaked_fds():
        await driver.open()
        try:
            uids = driver._ready().uids
            yield Rig(safe(driver, max_starts=8), folders, True, driver)
            left = await driver.list_owned(None)
        finally:
            await driver.close()
    assert not left, f"sandboxes left by the test: {left}"
    assert not run.exists()
    containers = (await dockerd.request("GET", "/containers/json", all="1")).json()
    assert not [one["Names"] for one in containers if one["Labels"].get("hearth.instance") == instance]
    assert_nothing_left(instance, uids, run, tmp_path)


@contextlib.asynccontextmanager
async def process_rig(tmp_path: Path) -> AsyncIterator[Rig]:
    folders = make_folders(tmp_path / "data")
    driver = ProcessDriver(run=tmp_path / "run", folders=folders)
    with no_leaked_fds():
        await driver.open()
        try:
            wrapped = safe(driver, max_starts=8)
            yield Rig(wrapped, folders, False, driver)
            left = await driver.list_owned(None)
        finally:
            await driver.close()
    assert not left, f"sandboxes left by the test: {left}"
    assert not list((tmp_path / "run").iterdir())


@contextlib.asynccontextmanager
async def remote_rig(tmp_path: Path, inner: Any, **more: Any) -> AsyncIterator[Rig]:
    """Another rig's driver, as control and shards reach it: through the keeper's socket."""
    async with inner(tmp_path, **more) as rig:
        folder = Path(tempfile.mkdtemp(prefix="hearth-keeper-"))
        server = KeeperServer(rig.driver, None)
        server.listen(folder / "keeper.sock", os.getuid(), Role.PLATFORM)
        remote = RemoteDriver(folder / "keeper.sock", rig.owner)
        try:
            await remote.dial()
            yield Rig(remote, rig.folders, rig.isolates, rig.inner, rig.owner)
        finally:
            remote.close()
            await server.close()
            shutil.rmtree(folder)


Factory = Callable[..., AbstractAsyncContextManager[Rig]]


@dataclass(frozen=True)
class Case:
    name: str
    make: Factory
    root: bool
    docker: bool = False  # its factory is given a daemon too


CASES: list[Case] = [
    Case("bubblewrap", bubblewrap_rig, root=True),
    Case("process", process_rig, root=False),
    Case("docker", docker_rig, root=True, docker=True),
    Case("remote-bubblewrap", partial(remote_rig, inner=bubblewrap_rig), root=True),
    Case("remote-docker", partial(remote_rig, inner=docker_rig), root=True, docker=True),
    Case("remote-process", partial(remote_rig, inner=process_rig), root=False),
]
