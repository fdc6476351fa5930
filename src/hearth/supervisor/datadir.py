"""The data directory as the supervisor sees it: its lock, the platform's instance id, its owner."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

from hearth.core.errors import StartupFailed

FOLDERS = ("sources", "artifacts", "toolchains", "disks", "logs", "tmp", "backups")


class DataDir:
    """An opened, locked data directory. The lock is the kernel's and goes with this process.

    Raises:
        StartupFailed: another platform runs on it, or it can't be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartupFailed(
                f"the data directory {path} can't be used: {error.strerror}",
                hint="choose another with --data-dir, or mend its permissions",
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise StartupFailed(
                f"another hearth runs on the data directory {path}",
                hint="stop it first, or choose another directory with --data-dir",
            ) from error
        self.instance = self._read_instance()

    def _read_instance(self) -> str:
        file = self.path / "instance"
        try:
            return file.read_text().strip()
        except FileNotFoundError:
            name = secrets.token_hex(4)
            staged = self.path / "instance.new"
            staged.write_text(name + "\n")
            staged.rename(file)
            return name

    def give_to(self, uid: int, gid: int) -> None:
        """Make the folders, and everything that control and shards write, theirs. The root key stays the supervisor's."""
        for name in FOLDERS:
            (self.path / name).mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() != 0:
            return
        if self.path.stat().st_uid != uid:
            for folder, folders, files in os.walk(self.path):
                if Path(folder) == self.path:
                    folders[:] = [name for name in folders if name != "disks"]
                    files = [name for name in files if name not in ("lock", "key", "instance")]
                for name in (*folders, *files):
                    os.chown(Path(folder) / name, uid, gid, follow_symlinks=False)
            os.chown(self.path, uid, gid)
        for name in FOLDERS:
            os.chown(self.path / name, *((0, 0) if name == "disks" else (uid, gid)))

    def close(self) -> None:
        os.close(self._lock)
