"""Slot directories: what a sandbox sees at /hearth, and what can still be moved in while it waits.

Each slot is a directory on a private tmpfs, bound onto itself: a mount of its own, private then shared, so that it forms a
peer group with nobody but the sandbox, which has it as a read-only slave. `attach` moves read-only mounts into it; `seal`
then makes the *slot's* mount private and takes it away. The sandbox keeps all, the host keeps no mount, and nothing can arrive
later. (Making only the moved mount private and unmounting it takes it away inside too: umounts follow the parent.)
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from hearth.core.errors import InvalidInput
from hearth.drivers.common import mounts
from hearth.drivers.common.mounts import NODEV, NOEXEC, NOSUID, RDONLY

SECRET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")


def tmp_options(size: int, owner: tuple[int, int] | None = None) -> dict[str, str]:
    """Options of a sandbox's /tmp: bytes, and files in proportion (each costs kernel memory, counted to the sandbox)."""
    options = {"size": str(size), "nr_inodes": str(1024 + size // 1024)}
    if owner is not None:
        options |= {"mode": "1777", "uid": str(owner[0]), "gid": str(owner[1])}
    return options


class Slot:
    """One sandbox's directory and the mounts that are staged for its start.

    Args:
        root: the slots' tmpfs (see `open_root`).
        name: short; it shows in the sandbox's mountinfo.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.path = root / name
        self._stage = root / f"{name}-stage"
        self._staged: list[Path] = []
        self._tmp: int | None = None
        self._mounted = False

    def make(self) -> None:
        """Make the directory and its mount. Raises OSError; call `remove` then."""
        for folder in (self.path, self.path / "code", self.path / "secrets"):
            _folder(folder)
        mounts.bind_to_itself(self.path)
        self._mounted = True
        mounts.make_private(self.path)
        mounts.make_shared(self.path)

    def stage_tmp(self, size: int, owner: tuple[int, int]) -> Path:
        """Make /tmp; its size can be changed as long as the sandbox lives. Returns where it stands for the start."""
        self._tmp = mounts.new_tmpfs(tmp_options(size, owner), NOSUID | NODEV)
        return self._move(self._tmp)

    def stage_folder(self, fd: int) -> Path:
        """Put a read-only view of a folder where bubblewrap finds it; closes `fd`."""
        try:
            view = mounts.clone_mount(fd)
        finally:
            os.close(fd)
        try:
            mounts.set_attributes(view, RDONLY | NOSUID | NODEV)
            return self._move(view)
        finally:
            os.close(view)

    def stage_mount(self, mount_fd: int) -> Path:
        """Put a detached mount where bubblewrap finds it; the descriptor stays the caller's."""
        return self._move(mount_fd)

    def _move(self, mount_fd: int) -> Path:
        if not self._staged:
            _folder(self._stage)
        place = self._stage / str(len(self._staged))
        _folder(place)
        mounts.move_mount(mount_fd, place)
        self._staged.append(place)
        return place

    def unstage(self) -> None:
        """The sandbox has its mounts now: take the keeper's own away, so that its namespace stays lean."""
        while self._staged:
            place = self._staged.pop()
            mounts.unmount(place)
            place.rmdir()
        with contextlib.suppress(FileNotFoundError):
            self._stage.rmdir()

    def resize_tmp(self, size: int) -> None:
        """Change /tmp's size. Raises OSError when more is in it."""
        if self._tmp is not None:
            mounts.reconfigure(self._tmp, tmp_options(size))

    def attach(self, code: int, secrets: tuple[tuple[str, bytes], ...], owner: tuple[int, int]) -> None:
        """Move code (an O_PATH descriptor, closed here) and secrets in, read-only, and seal the slot.

        Raises:
            InvalidInput: a secret's name is no file name.
            OSError: the kernel refused; the slot is then of no use.
        """
        try:
            view = mounts.clone_mount(code)
        finally:
            os.close(code)
        try:
            mounts.set_attributes(view, RDONLY | NOSUID | NODEV)
            if secrets:
                self._attach_secrets(secrets, owner)
            mounts.move_mount(view, self.path / "code")
        finally:
            os.close(view)
        self.seal()

    def _attach_secrets(self, secrets: tuple[tuple[str, bytes], ...], owner: tuple[int, int]) -> None:
        size = sum(len(value) + 4096 for _, value in secrets) + 65536
        options = {"size": str(size), "mode": "500", "uid": str(owner[0]), "gid": str(owner[1])}
        box = mounts.new_tmpfs(options, NOSUID | NODEV | NOEXEC)
        try:
            for name, value in secrets:
                if SECRET.match(name) is None:
                    raise InvalidInput(f"{name[:80]!r} can't be the name of a secret's file")
                _write_secret(box, name, value, owner)
            mounts.set_attributes(box, RDONLY)
            mounts.move_mount(box, self.path / "secrets")
        finally:
            os.close(box)

    def seal(self) -> None:
        """From now on nothing can be moved in. Idempotent."""
        if self._mounted:
            mounts.make_private(self.path, recursive=True)
            mounts.unmount(self.path)
            self._mounted = False

    def remove(self) -> None:
        """Remove all that is left of it on the host. Idempotent."""
        self.unstage()
        if self._tmp is not None:
            os.close(self._tmp)
            self._tmp = None
        self.seal()
        for name in ("guest.sock", "code", "secrets"):
            _remove(self.path / name)
        _remove(self.path)


def _folder(path: Path) -> None:
    path.mkdir()
    path.chmod(0o755)  # whatever our umask is: a sandbox's uid must get through


def _write_secret(box: int, name: str, value: bytes, owner: tuple[int, int]) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o400, dir_fd=box)
    with os.fdopen(fd, "wb") as file:
        file.write(value)
        os.fchown(file.fileno(), *owner)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()


def open_root(root: Path, size: str = "4m") -> None:
    """Mount the slots' tmpfs. What an earlier keeper mounted at or below it is taken away first."""
    close_root(root)
    root.mkdir(parents=True, exist_ok=True)
    mounts.mount_tmpfs(root, size=size, mode="711")


def close_root(root: Path) -> None:
    """Take the slots' tmpfs and all mounts below it away."""
    while mounts.mount_points(root):
        mounts.unmount(mounts.mount_points(root)[0])
