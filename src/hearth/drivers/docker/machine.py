"""What all containers of one driver share: the daemon, the images, places, uids, networks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hearth.core.errors import InvalidInput, SandboxFailed, StartupFailed
from hearth.core.finding import RUN
from hearth.drivers.common import slots
from hearth.drivers.common.disk import Disks
from hearth.drivers.common.sources import Sources
from hearth.drivers.common.uids import OwnUid, Uids, take_block
from hearth.drivers.docker import profile
from hearth.drivers.docker.engine import Engine
from hearth.drivers.docker.place import CopiedPlace, MountedPlace, Place
from hearth.drivers.docker.waiting import Back
from hearth.linux.libc import CLONE_NEWNS, setns
from hearth.linux.sockets import short_name
from hearth.ports.egress import Networks

ANY_LANGUAGE = "python"
_LOOK = 0.01  # seconds between looks at processes that were killed
_SLOTS_SIZE = "16m"  # of the slots' tmpfs: five small files and a socket for each
_CERTIFICATES = ("/etc/ssl/certs", "/etc/pki/tls/certs", "/etc/pki/ca-trust/extracted")


@dataclass(frozen=True, slots=True)
class Machine:
    """Args:
    root: below which slots are.
    mounted: slots are mounts of their own (see `place`); else files are linked or copied into them.
    info: what the daemon says of itself (``GET /info``).
    images: language to the name of its image.
    back: waits until the daemon answers again.
    """

    engine: Engine
    instance: str
    root: Path
    mounted: bool
    info: dict[str, Any]
    images: Mapping[str, str]
    default_runtime: str
    profile: str
    uids: Uids
    disks: Disks | None
    sources: Sources
    networks: Networks | None
    certificates: tuple[str, ...]
    back: Back
    undo: ExitStack = field(repr=False)

    def place(self, name: str) -> Place:
        """Where a new container's slot is to be."""
        return (MountedPlace if self.mounted else CopiedPlace)(self.root, name, self.sources)

    def image(self, language: str) -> str:
        """Raises InvalidInput."""
        try:
            return self.images[language or ANY_LANGUAGE]
        except KeyError:
            raise InvalidInput(f"there is no image for {language[:40]!r}") from None

    @property
    def runtimes(self) -> frozenset[str]:
        """The isolation runtimes that the daemon has."""
        return frozenset(self.info.get("Runtimes") or ())

    def sees(self, pid: int, container: str) -> bool:
        """Whether that number is the container's first process here too, and not another's."""
        try:
            return (pid > 0 and container in Path(f"/proc/{pid}/cgroup").read_text()) or self._is_its(
                pid, container
            )
        except OSError:
            return False

    async def kill_all(self, container: str, limit: float) -> None:
        """End every process of a container past the daemon; returns when none is left.

        Raises SandboxFailed: they can't be seen from here, or do not end within `limit` seconds.
        """
        deadline = time.monotonic() + limit
        while left := _inside(container):
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise SandboxFailed(
                    f"processes of container {container[:12]} don't end, though they were killed"
                )
            await asyncio.sleep(_LOOK)

    def _is_its(self, pid: int, container: str) -> bool:
        """With a control group namespace of its own it shows as ``/`` to itself only; where that hides it, by its root's mounts."""
        return container in Path(f"/proc/{pid}/mountinfo").read_text()


def _inside(container: str) -> list[int]:
    """Processes that are alive in a container's control groups."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        with contextlib.suppress(OSError):
            if container in path.read_text() and ") Z " not in (path.parent / "stat").read_text():
                found.append(int(path.parent.name))
    return found


def enter_mounts_of(path: Path) -> bool:
    """Move this thread into the mount namespace of the daemon behind a socket; whether it is there now.

    Needs root, the daemon's process in sight, and no other thread that shares this one's working folder (setns(2)).
    """
    if os.geteuid() != 0:
        return False
    try:
        with socket.socket(socket.AF_UNIX) as sock, short_name(path) as name:
            sock.connect(name)
            pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if pid <= 0:
            return False
        theirs = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not os.path.samestat(os.fstat(theirs), os.stat("/proc/self/ns/mnt")):  # noqa: PTH116
                setns(theirs, CLONE_NEWNS)
                os.chdir("/")
        finally:
            os.close(theirs)
    except OSError:
        return False
    return True


async def open_machine(
    *,
    socket_path: Path,
    instance: str,
    run: Path,
    data: Path,
    folders: Mapping[str, Path],
    prefixes: tuple[str, ...],
    networks: Networks | None,
    images: Mapping[str, str],
    runtime: str,
) -> Machine:
    """Reach the daemon, take uids and the slots' folder. Raises StartupFailed; then nothing is left."""
    engine = Engine(socket_path)
    with ExitStack() as undo:
        try:
            await engine.open()
            info = await engine.request("GET", "/info")
            check_daemon(info, runtime)
            mounted = enter_mounts_of(socket_path)
            root = run if mounted else data / "containers"
            uids = take_block(instance) if os.geteuid() == 0 else OwnUid()
            undo.callback(uids.close)
            shims = _prepare(root, mounted, folders.get("shim"), undo)
            disks = None
            if mounted:
                disks = Disks(data / "disks", uids)
                disks.leftovers()
                disks.open()
            sources = Sources({**folders, **({"shim": shims} if shims is not None else {})}, prefixes)
            undo.callback(sources.close)
            text = profile.text()
        except (OSError, ImportError, RuntimeError, SandboxFailed) as error:
            await engine.close()
            hint = error.hint if isinstance(error, SandboxFailed) and error.hint else "run: hearth doctor"
            message = error.message if isinstance(error, SandboxFailed) else str(error)
            raise StartupFailed(f"containers can't be made here: {message}", hint=hint) from error
        except BaseException:
            await engine.close()
            raise
        return Machine(
            engine=engine,
            instance=instance,
            root=root / "slots",
            mounted=mounted,
            info=info,
            images=dict(images),
            default_runtime=runtime,
            profile=text,
            uids=uids,
            disks=disks,
            sources=sources,
            networks=networks if mounted else None,
            certificates=tuple(path for path in _CERTIFICATES if Path(path).is_dir()),
            back=Back(engine),
            undo=undo.pop_all(),
        )


def check_daemon(info: dict[str, Any], runtime: str) -> None:
    """Raise StartupFailed where containers would not be what they must be."""
    options = " ".join(info.get("SecurityOptions") or ())
    if "name=seccomp" not in options:
        raise StartupFailed(
            "this docker filters no system calls", hint="its kernel or its build lacks seccomp"
        )
    if "name=rootless" in options or "name=userns" in options:
        raise StartupFailed(
            "this docker maps user ids (rootless, or userns-remap), with which Hearth's containers have no uids of their own",
            hint="use a docker daemon of root's without userns-remap, or --isolation bubblewrap",
        )
    here = info.get("Runtimes") or {}
    if runtime and runtime not in here:
        raise StartupFailed(
            f"docker has no runtime {runtime!r} (it has {', '.join(sorted(here))})",
            hint=f'{RUN}hearth doctor; runtimes are named in /etc/docker/daemon.json ("runtimes")',
        )


def _prepare(root: Path, mounted: bool, shims: Path | None, undo: ExitStack) -> Path | None:
    """The slots' folder and a readable copy of the shims; what an earlier keeper left is removed."""
    if mounted:
        slots.close_root(root / "slots")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    root.chmod(0o711)
    undo.callback(shutil.rmtree, root, ignore_errors=True)
    if mounted:
        slots.open_root(root / "slots", _SLOTS_SIZE)
        undo.callback(slots.close_root, root / "slots")
    else:
        (root / "slots").mkdir(mode=0o711)
    if shims is None or not shims.is_dir():
        return shims
    copy = root / "shims"
    shutil.copytree(shims, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    return copy
