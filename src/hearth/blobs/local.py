"""Blobs on the local data directory: ``sources/<digest>/``, ``artifacts/<digest>/``, and ``tmp/`` for what is not whole yet."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

from hearth.blobs.digest import tree_digest
from hearth.core.disk import refusal

FOLDERS = {"source": "sources", "artifact": "artifacts"}
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class LocalBlobs:
    """`ports.blobs.Blobs` on one data directory.

    Args:
        data_dir: exists and belongs to this process's user.

    Raises NoCapacity where the disk is full, PlatformError where it refuses otherwise.

    To make a blob young and to look whether it is old are one step each, under a lock between processes: what `touch`
    has said yes to is not collected.
    """

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir
        self._tmp = data_dir / "tmp"
        self._making = threading.Lock()
        self._marked: tuple[int, str] | None = None
        for name in (*FOLDERS.values(), "tmp"):
            folder = data_dir / name
            folder.mkdir(mode=0o755, exist_ok=True)

    def staging(self) -> Path:
        """A fresh 0700 folder below ``tmp/``, this process's while it lives."""
        try:
            return Path(tempfile.mkdtemp(prefix=f"stage-{self._mark()}-", dir=self._tmp))
        except OSError as error:
            raise refusal(error, "nothing can be taken in") from error

    def close(self) -> None:
        """Let go of what this process has staged: it may be cleared away."""
        if self._marked is not None:
            fd, name = self._marked
            self._marked = None
            (self._tmp / f"mark-{name}").unlink(missing_ok=True)
            os.close(fd)

    def _mark(self) -> str:
        """A name for what is this process's. A lock that the kernel gives back at its death says that it lives."""
        with self._making:
            if self._marked is None:
                name = secrets.token_hex(6)
                with self._alone():
                    path = self._tmp / f"mark-{name}"
                    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._marked = fd, name
            return self._marked[1]

    async def adopt(self, kind: str, staged: Path) -> str:
        """Make a staged tree permanent; returns its digest. The staged folder is gone afterwards."""
        return await asyncio.to_thread(self._adopt, kind, staged)

    def _adopt(self, kind: str, staged: Path) -> str:
        try:
            digest = tree_digest(staged)
            place = self.path(kind, digest)
            if not self.touch(kind, digest):
                staged.chmod(0o755)
                _sync(staged)
                try:
                    staged.rename(place)
                except OSError:
                    if not place.is_dir():  # else another build of the same content was quicker
                        raise
                _sync_folder(place.parent)
                self.touch(kind, digest)
        except OSError as error:
            raise refusal(error, "what was unpacked could not be kept") from error
        shutil.rmtree(staged, ignore_errors=True)
        return digest

    def path(self, kind: str, digest: str) -> Path:
        """Where a blob is. Raises ValueError for what is no digest: it never becomes part of a path."""
        if not _DIGEST.match(digest):
            raise ValueError("not a digest")
        return self._root / FOLDERS[kind] / digest

    def exists(self, kind: str, digest: str) -> bool:
        return self.path(kind, digest).is_dir()

    def touch(self, kind: str, digest: str) -> bool:
        """Make a blob young again, so that `collect` leaves it; False when there is none."""
        place = self.path(kind, digest)
        try:
            with self._alone():
                os.utime(place)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise refusal(error, "a blob can't be touched") from error
        return True

    async def size(self, kind: str, digest: str) -> int:
        """Bytes of its files together; 0 when there is none."""
        return await asyncio.to_thread(_size, self.path(kind, digest))

    def listing(self, kind: str) -> set[str]:
        """The digests that are there."""
        return {entry.name for entry in os.scandir(self._root / FOLDERS[kind]) if _DIGEST.match(entry.name)}

    def free(self) -> int:
        """Bytes that this process may still write on the data directory's disk."""
        return shutil.disk_usage(self._root).free

    async def collect(self, kind: str, keep: Set[str], older_than_s: float) -> set[str]:
        """Remove what is neither in `keep` nor young; kind ``tmp`` removes what was never finished."""
        limit = time.time() - older_than_s
        if kind == "tmp":
            return await asyncio.to_thread(self._collect_unfinished, limit)
        return await asyncio.to_thread(self._collect, kind, keep, limit)

    def _collect(self, kind: str, keep: Set[str], limit: float) -> set[str]:
        gone = set()
        for name in self.listing(kind) - keep:
            # A name of its own: what a removal that was cut short has left may lie there still.
            doomed = self._tmp / f"gone-{name}-{secrets.token_hex(6)}"
            with suppress(OSError):  # gone already, or refused by the disk: the next round tries again
                with self._alone():
                    place = self.path(kind, name)
                    if place.lstat().st_mtime > limit:
                        continue
                    place.rename(doomed)  # in one step: half a tree is never found under a digest
                gone.add(name)
                _remove(doomed)
        return gone

    def _collect_unfinished(self, limit: float) -> set[str]:
        gone = set()
        living = self._living()
        for entry in os.scandir(self._tmp):
            kind, _, rest = entry.name.partition("-")
            if kind == "mark":
                continue
            with suppress(OSError):
                dead = kind == "gone" or (kind == "stage" and rest.partition("-")[0] not in living)
                if dead or entry.stat(follow_symlinks=False).st_mtime <= limit:
                    _remove(Path(entry.path))
                    gone.add(entry.name)
        return gone

    def _living(self) -> set[str]:
        """Whose marks are locked; those of the dead are removed."""
        living = set()
        with self._alone():
            for path in self._tmp.glob("mark-*"):
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                except BlockingIOError:
                    living.add(path.name.removeprefix("mark-"))
                finally:
                    os.close(fd)
        return living

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Between threads and processes; held for a system call or two."""
        fd = os.open(self._tmp, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _size(root: Path) -> int:
    total, folders = 0, [os.fspath(root)]
    try:
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:  # it is being collected
        return total
    return total


def _sync(folder: Path) -> None:
    """Have the disk keep what is below a folder: syncfs(2), one call instead of one for each of 20,000 files."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
