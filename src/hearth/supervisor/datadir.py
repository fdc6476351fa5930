"""The data directory as the supervisor sees it: its lock, the platform's instance id, its owner.

It belongs to the unprivileged user of control and shards, who can put anything in the place of anything in it. What the supervisor, as
root, opens, reads and changes here is therefore looked at first and never followed through a link.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shlex
import shutil
import stat
import time
from pathlib import Path

from hearth.core.errors import StartupFailed
from hearth.core.finding import RUN, Finding, refused

NAME = "data directory"
_TRIES, _PAUSE = 10, 0.02  # seconds
_INSTANCE = re.compile(r"[0-9a-f]{8}")
FOLDERS = ("sources", "artifacts", "toolchains", "disks", "logs", "tmp", "backups")


def _take(lock: int) -> bool:
    """Hold it; False when another platform does. `hearth doctor` may have it for a moment."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_PAUSE)
    return False


def is_locked(lock: Path) -> bool:
    """Whether somebody holds a lock (flock(2)): asked by taking it for a moment, shared. Raises OSError."""
    fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def unusable(path: Path, why: str) -> Finding:
    """A data directory that can't be read or written."""
    return refused(
        NAME,
        f"the data directory {path} can't be used: {why}",
        "hearth up --data-dir ~/.local/share/hearth-new",
    )


def read_instance(data: Path) -> str | None:
    """The instance id of a data directory; None where there is none yet.

    Names of control groups, run directories and tables are made of it: it must be nothing but a name. Raises StartupFailed.
    """
    file = data / "instance"
    try:
        name = file.read_text().strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        name = ""
    if _INSTANCE.fullmatch(name) is None:
        raise StartupFailed(
            f"{file} does not hold an instance id; if nothing of this data directory runs, a new one can be made",
            hint=f"{RUN}mv {shlex.quote(str(file))} {shlex.quote(f'{file}.old')}",
        )
    return name


def check_folders(data: Path) -> None:
    """Raise StartupFailed when a folder of the data directory was replaced by a link or a file."""
    for name in FOLDERS:
        folder = data / name
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise StartupFailed(
                f"{folder} is not a folder", hint="move what it leads to there: links are not followed"
            )


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
            raise unusable(path, error.strerror or str(error)).error() from error
        if not _take(self._lock):
            os.close(self._lock)
            raise StartupFailed(
                f"another hearth runs on the data directory {path}",
                hint="stop it first, or choose another directory with --data-dir",
            )
        try:
            self.instance = self._make_instance()
        except BaseException:
            os.close(self._lock)
            raise

    def _make_instance(self) -> str:
        file = self.path / "instance"
        name = read_instance(self.path)
        if name is None:
            name = secrets.token_hex(4)
            staged = self.path / "instance.new"
            staged.unlink(missing_ok=True)
            with open(
                os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "w"
            ) as out:
                out.write(name + "\n")
            staged.rename(file)
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
        check_folders(self.path)
        for name in FOLDERS:
            (self.path / name).mkdir(mode=0o700, exist_ok=True)
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
