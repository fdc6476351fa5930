"""The data directory as the supervisor sees it: its lock, the platform's instance id, its owner.

It belongs to the unprivileged user of control and shards, who can put anything in the place of anything in it. What the supervisor, as
root, opens, reads and changes here is therefore looked at first and never followed through a link.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import stat
from pathlib import Path

from hearth.core.errors import StartupFailed

_INSTANCE = re.compile(r"[0-9a-f]{8}")
FOLDERS = ("sources", "artifacts", "toolchains", "disks", "logs", "tmp", "backups")


class DataDir:
    """An opened, locked data directory. The lock is the kernel's and goes with this process.

    Raises:
        StartupFailed: another platform runs on it, it can't be written, or its instance id is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._lock = os.open(path / "lock", flags, 0o600)
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
        try:
            self.instance = self._read_instance()
        except BaseException:
            os.close(self._lock)
            raise

    def _read_instance(self) -> str:
        """Names of control groups, run directories and tables are made of it: it must be nothing but a name."""
        file = self.path / "instance"
        try:
            name = file.read_text().strip()
        except FileNotFoundError:
            name = secrets.token_hex(4)
            staged = self.path / "instance.new"
            staged.unlink(missing_ok=True)
            with open(
                os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "w"
            ) as out:
                out.write(name + "\n")
            staged.rename(file)
        except (OSError, UnicodeDecodeError):
            name = ""
        if _INSTANCE.fullmatch(name) is None:
            raise StartupFailed(
                f"{file} does not hold an instance id",
                hint="if nothing of this data directory runs, remove that file: a new one is made",
            )
        return name

    @property
    def has_state(self) -> bool:
        """Whether a platform has been started here before."""
        return (self.path / "hearth.db").exists()

    def give_to(self, uid: int, gid: int) -> None:
        """Make the folders, and everything that control and shards write, theirs. The root key stays the supervisor's.

        Raises StartupFailed when a folder was replaced by a link or a file.
        """
        if os.geteuid() == 0:
            self._keep_disks()
        for name in FOLDERS:
            folder = self.path / name
            if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
                raise StartupFailed(
                    f"{folder} is not a folder", hint="move what it leads to there: links are not followed"
                )
            folder.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() != 0:
            return
        if self.path.stat().st_uid != uid:
            for folder_name, folders, files in os.walk(self.path):
                if Path(folder_name) == self.path:
                    folders[:] = [name for name in folders if name != "disks"]
                    files = [name for name in files if name not in ("lock", "key", "instance")]
                for name in (*folders, *files):
                    os.chown(Path(folder_name) / name, uid, gid, follow_symlinks=False)
            os.chown(self.path, uid, gid)
        for name in FOLDERS:
            if name != "disks":
                os.chown(self.path / name, uid, gid, follow_symlinks=False)

    def _keep_disks(self) -> None:
        """Throw away disks that another than root could write: root mounts them, and they are only caches."""
        disks = self.path / "disks"
        try:
            status = disks.lstat()
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode) and status.st_uid == 0 and not status.st_mode & 0o022:
            return
        if stat.S_ISDIR(status.st_mode):
            shutil.rmtree(disks)
        else:
            disks.unlink()

    def close(self) -> None:
        os.close(self._lock)
