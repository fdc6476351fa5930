"""Where a container's slot is on the host, and how things get into it while the container runs.

`MountedPlace` moves mounts in, as with bubblewrap: this process must be in the daemon's mount namespace, as root. `CopiedPlace` links or
copies, where Hearth has not that right.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from hearth.core.errors import InvalidInput, LimitUnenforceable, NotFound, SandboxFailed
from hearth.drivers.common import slots
from hearth.drivers.common.disk import Mounted
from hearth.drivers.common.slots import Slot
from hearth.drivers.common.sources import Sources
from hearth.drivers.docker.spec import Bind

Secrets = tuple[tuple[str, bytes], ...]
Ids = tuple[int, int]


class Place(Protocol):
    """One container's. Errors are OSError where nothing else is said."""

    path: Path

    def make(self) -> Bind:
        """Make it; how it stands in the container."""
        ...

    def folder(self, kind: str, name: str, target: str) -> Bind:
        """A read-only folder. Raises InvalidInput, NotFound, SandboxFailed as `Sources.open`."""
        ...

    def tmp(self, size: int, owner: Ids) -> Bind | None:
        """/tmp, or None: Docker is to make it."""
        ...

    def disk(self, disk: Mounted, target: str) -> Bind:
        """A writable disk."""
        ...

    def etc(self, files: Mapping[str, str]) -> list[Bind]:
        """Files of /etc."""
        ...

    def started(self) -> None:
        """The container has its mounts now."""
        ...

    def resize_tmp(self, size: int) -> None:
        """Change /tmp's size. Raises LimitUnenforceable where it can't be."""
        ...

    def attach(self, artifact: str, secrets: Secrets, owner: Ids) -> None:
        """Code and secrets, read-only; nothing can be added afterwards. Raises InvalidInput, NotFound."""
        ...

    def seal(self) -> None:
        """Nothing can be added any more. Idempotent."""
        ...

    def remove(self) -> None:
        """Idempotent."""
        ...


class _Etc:
    """Files that are bound over an image's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, files: Mapping[str, str]) -> list[Bind]:
        self._folder.mkdir()
        self._folder.chmod(0o755)
        binds = []
        for number, (target, text) in enumerate(files.items()):
            path = self._folder / str(number)
            path.write_text(text)
            path.chmod(0o444)
            binds.append(Bind(str(path), target))
        return binds

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class MountedPlace:
    """Args:
    root: the slots' tmpfs, which the daemon sees too.
    name: short.
    """

    def __init__(self, root: Path, name: str, sources: Sources) -> None:
        self._slot = Slot(root, name)
        self._etc = _Etc(root / f"{name}-etc")
        self._sources = sources
        self._tmp = 0
        self.path = self._slot.path

    def make(self) -> Bind:
        self._slot.make()
        return Bind(str(self.path), "/hearth", follows=True)

    def folder(self, kind: str, name: str, target: str) -> Bind:
        return Bind(str(self._slot.stage_folder(self._sources.open(kind, name))), target)

    def tmp(self, size: int, owner: Ids) -> Bind | None:
        self._tmp = size
        return Bind(str(self._slot.stage_tmp(size, owner)), "/tmp", writable=True)

    def disk(self, disk: Mounted, target: str) -> Bind:
        return Bind(str(self._slot.stage_mount(disk.mount)), target, writable=True)

    def etc(self, files: Mapping[str, str]) -> list[Bind]:
        return self._etc.write(files)

    def started(self) -> None:
        self._slot.unstage()

    def resize_tmp(self, size: int) -> None:
        if size == self._tmp:
            return
        try:
            self._slot.resize_tmp(size)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EINVAL, errno.ENOSPC):
                raise
            raise LimitUnenforceable(
                "/tmp holds more already than it shall", hint="give the function more /tmp"
            ) from error

    def attach(self, artifact: str, secrets: Secrets, owner: Ids) -> None:
        self._slot.attach(self._sources.open("artifact", artifact), secrets, owner)

    def seal(self) -> None:
        self._slot.seal()

    def remove(self) -> None:
        self._slot.remove()
        self._etc.remove()


class CopiedPlace:
    """Args:
    root: a folder that the daemon sees at the same path; on the data directory's file system, so that links can be made.
    sources: resolves names; what it opens is used by its path.
    """

    def __init__(self, root: Path, name: str, sources: Sources) -> None:
        self.path = root / name
        self._etc = _Etc(root / f"{name}-etc")
        self._sources = sources
        self._tmp = 0
        self._sealed = False

    def make(self) -> Bind:
        for folder in (self.path, self.path / "code", self.path / "secrets"):
            folder.mkdir()
            folder.chmod(0o755)
        return Bind(str(self.path), "/hearth")

    def folder(self, kind: str, name: str, target: str) -> Bind:
        return Bind(self._path(kind, name), target)

    def _path(self, kind: str, name: str) -> str:
        fd = self._sources.open(kind, name)
        try:
            return str(Path(f"/proc/self/fd/{fd}").readlink())
        finally:
            os.close(fd)

    def tmp(self, size: int, owner: Ids) -> Bind | None:
        self._tmp = size
        return None

    def disk(self, disk: Mounted, target: str) -> Bind:
        raise SandboxFailed("a disk can't be given to a container here", hint="run Hearth as root")

    def etc(self, files: Mapping[str, str]) -> list[Bind]:
        return self._etc.write(files)

    def started(self) -> None:
        """Docker's binds are its own."""

    def resize_tmp(self, size: int) -> None:
        if size != self._tmp:
            raise LimitUnenforceable(
                "the size of /tmp can't be changed in a running container here",
                hint="leave out files.tmp, or run Hearth as root",
            )

    def attach(self, artifact: str, secrets: Secrets, owner: Ids) -> None:
        if self._sealed:
            raise SandboxFailed("the slot is sealed")
        for name, _ in secrets:
            if slots.SECRET.match(name) is None:
                raise InvalidInput(f"{name[:80]!r} can't be the name of a secret's file")
        source = self._path("artifact", artifact)
        for name, value in secrets:
            path = self.path / "secrets" / name
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444), "wb") as file:
                file.write(value)
        try:
            shutil.copytree(
                source, self.path / "code", symlinks=True, dirs_exist_ok=True, copy_function=_link
            )
        except FileNotFoundError as error:
            raise NotFound(f"there is no artifact {artifact} on this node") from error
        self._sealed = True

    def seal(self) -> None:
        self._sealed = True

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._etc.remove()


def _link(source: str, target: str) -> str:
    """A hard link where it can be, else a copy."""
    with contextlib.suppress(OSError):
        os.link(source, target, follow_symlinks=False)
        return target
    shutil.copy2(source, target, follow_symlinks=False)
    return target
