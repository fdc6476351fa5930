"""The process driver: same port, same life cycle, no isolation whatever, on any Unix user.

There is no /hearth outside a sandbox: a program is told its slot's directory by ``HEARTH_SLOT_DIR`` and uses that where it
would use /hearth. The places of mounts don't exist either, so they are put into arguments and environment as the host's paths.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from hearth.core.errors import InvalidInput, LimitUnenforceable, NoCapacity, NotFound, SandboxFailed
from hearth.core.finding import not_held
from hearth.core.launch import Attachment, Exit, Handle, Mount, Probe, SandboxSpec, Usage
from hearth.drivers.process.child import Child

_HANDLE = "process/1:"
NOTHING_HELD = not_held(
    "isolation",
    "functions run WITHOUT ANY ISOLATION (--isolation process): for development only, never for others' code",
    "hearth up --isolation bubblewrap",
)


class ProcessDriver:
    """Args:
    run: a directory below which slots are made; short, for the sockets' sake.
    folders: kind of `core.launch.Mount` to the host folder in which its names are.
    prefixes: host paths of interpreters that may be used.
    max_sandboxes: at once.

    Call `open` first and `close` at the end.
    """

    def __init__(
        self,
        *,
        run: Path,
        folders: Mapping[str, Path],
        prefixes: tuple[str, ...] = (),
        max_sandboxes: int = 200,
    ) -> None:
        self.name = "process"
        self._run = run
        self._folders = dict(folders)
        self._prefixes = prefixes
        self._max = max_sandboxes
        self._children: dict[str, tuple[SandboxSpec, Child]] = {}
        self._stopping: dict[str, asyncio.Task[Exit]] = {}

    async def open(self) -> None:
        """Make the run directory; what an earlier run left in it is removed. Raises OSError."""
        shutil.rmtree(self._run / "slots", ignore_errors=True)
        (self._run / "slots").mkdir(parents=True, mode=0o700)

    async def close(self) -> None:
        """Stop everything. Idempotent."""
        await asyncio.gather(*(self.stop(handle, 0) for handle in await self.list_owned(None)))
        shutil.rmtree(self._run / "slots", ignore_errors=True)

    async def probe(self) -> Probe:
        """Usable, and enforces nothing."""
        return Probe("process", True, frozenset(), (NOTHING_HELD,))

    async def prepare(self, artifact: str) -> None:
        """Nothing to do."""

    async def start(self, spec: SandboxSpec, deadline: float) -> Handle:
        """See the port; networks and limits are not held."""
        if not spec.argv or "/" in spec.id:
            raise InvalidInput("a sandbox needs an id and a program")
        if spec.id in self._children:
            raise SandboxFailed(f"{spec.id} exists already")
        if len(self._children) >= self._max:
            raise NoCapacity(f"{self._max} processes exist already", retry_after=1)
        if deadline <= time.monotonic():
            raise SandboxFailed("the sandbox could not be started in time")
        slot = Path(tempfile.mkdtemp(dir=self._run / "slots", prefix=""))
        try:
            places = {mount.target: str(self._source(mount)) for mount in spec.mounts}
            if spec.disk is not None:
                places[spec.disk.target] = str(slot / "disk")
                (slot / "disk").mkdir()
            places["/tmp"] = str(slot / "tmp")
            (slot / "tmp").mkdir()
            workdir = Path(_outside(spec.workdir, places))
            env = {name: _outside(value, places) for name, value in spec.env}
            env["HEARTH_SLOT_DIR"] = str(slot)
            argv = [_outside(word, places) for word in spec.argv]
            child = Child(argv, env, workdir, slot, guest=spec.guest)
        except OSError as error:
            shutil.rmtree(slot, ignore_errors=True)
            raise SandboxFailed(f"{spec.argv[0]} can't be started: {error.strerror}") from error
        except BaseException:
            shutil.rmtree(slot, ignore_errors=True)
            raise
        self._children[spec.id] = (spec, child)
        return Handle(_HANDLE + spec.id)

    def _source(self, mount: Mount) -> Path:
        if mount.kind == "prefix":
            if mount.name not in self._prefixes:
                raise InvalidInput(f"{mount.name[:200]!r} is not one of the interpreters that may be used")
            return Path(mount.name)
        folder = self._folders.get(mount.kind)
        if folder is None or not _is_name(mount.name):
            raise InvalidInput(f"{mount.kind} {mount.name[:200]!r} is not something that can be mounted")
        if not (folder / mount.name).is_dir():
            raise NotFound(f"there is no {mount.kind} {mount.name} on this node")
        return folder / mount.name

    def _find(self, handle: Handle) -> tuple[SandboxSpec, Child]:
        found = self._children.get(handle.removeprefix(_HANDLE))
        if found is None:
            raise SandboxFailed("there is no such sandbox (any more)")
        return found

    async def attach(self, handle: Handle, attachment: Attachment) -> None:
        """See the port: the code is a symbolic link in the slot's directory."""
        spec, child = self._find(handle)
        if child.attached or not spec.guest:
            raise SandboxFailed("this sandbox can't be given a version (any more)")
        if attachment.network.allow or attachment.network.hosts:
            raise LimitUnenforceable("the process driver has no networks of its own")
        folder = self._folders.get("artifact")
        if folder is None or not _is_name(attachment.artifact) or not (folder / attachment.artifact).is_dir():
            raise NotFound(f"there is no artifact {attachment.artifact[:80]} on this node")
        child.attached = True
        try:
            (child.slot / "code").symlink_to(folder / attachment.artifact)
            secrets = child.slot / "secrets"
            secrets.mkdir(mode=0o700)
            for name, value in attachment.secrets:
                if not _is_name(name):
                    raise InvalidInput(f"{name[:80]!r} can't be the name of a secret's file")
                fd = os.open(secrets / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
                with os.fdopen(fd, "wb") as file:
                    file.write(value)
        except OSError as error:
            raise SandboxFailed(f"the code can't be attached: {error.strerror}") from error

    async def connect(self, handle: Handle, deadline: float) -> int:
        """See the port."""
        return await self._find(handle)[1].connect(deadline)

    async def listen(self, handle: Handle) -> int:
        """See the port. The network is the host's: whoever is on this machine can dial it."""
        if self._find(handle)[1].attached:
            raise SandboxFailed("nobody can listen for this program any more")
        made = socket.create_server(("127.0.0.1", 0))
        made.setblocking(False)
        return made.detach()

    def output(self, handle: Handle) -> tuple[int, int]:
        """See the port."""
        return self._find(handle)[1].output()

    async def wait(self, handle: Handle) -> Exit:
        """See the port."""
        return await asyncio.shield(self._find(handle)[1].exit)

    async def stop(self, handle: Handle, grace: float) -> Exit:
        """See the port. Goes on when its caller is cancelled."""
        name = handle.removeprefix(_HANDLE)
        if name not in self._children:
            return Exit(None, reason="gone")
        if name not in self._stopping:
            self._stopping[name] = asyncio.ensure_future(self._stop(name, grace))
        return await asyncio.shield(self._stopping[name])

    async def _stop(self, name: str, grace: float) -> Exit:
        _, child = self._children[name]
        try:
            if grace > 0 and not child.exit.done():
                child.signal(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(grace):
                        await asyncio.shield(child.exit)
            await child.kill()
            shutil.rmtree(child.slot, ignore_errors=True)
            del self._children[name]
            return child.exit.result()
        finally:
            del self._stopping[name]

    async def list_owned(self, owner: str | None) -> list[Handle]:
        """See the port."""
        return [
            Handle(_HANDLE + name)
            for name, (spec, _) in self._children.items()
            if owner is None or spec.owner == owner
        ]

    async def usage(self, handle: Handle) -> Usage:
        """Zeros: nothing is counted."""
        self._find(handle)
        return Usage(0, 0, 0.0, 0)


def _is_name(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _outside(text: str, places: Mapping[str, str]) -> str:
    """A path inside a sandbox as the host's path; other text stays as it is. The longest place wins.

    In a text of more than one line, a build's script, every path is put in.
    """
    if "\n" in text:
        known = "|".join(re.escape(target) for target in sorted(places, key=len, reverse=True))
        return re.sub(rf"(?<![\w./-])(?:{known})(?![\w.-])", lambda match: places[match[0]], text)
    for target in sorted(places, key=len, reverse=True):
        if text == target or text.startswith(target + "/"):
            return places[target] + text[len(target) :]
    return text
