"""A data directory and its platform, looked at from outside: who runs on it, and what would keep `hearth up` from it.

Nothing is changed. Locks are asked for a moment, shared: a platform that starts just then tries again.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from hearth.core.errors import StartupFailed
from hearth.core.finding import Finding, State, found_by, ok
from hearth.supervisor.datadir import NAME, check_folders, is_locked, read_instance, unusable


@dataclass(frozen=True, slots=True)
class Place:
    """A data directory.

    Args:
        instance: its id; None where it has none yet, or can't be read.
        running: a platform has it now.
        supervisor: that platform's first process; None where this user can't see it.
        finding: whether it can be used.
    """

    data: Path
    instance: str | None
    running: bool
    supervisor: int | None
    finding: Finding


def look(data: Path) -> Place:
    """See `Place`."""
    lock = data / "lock"
    instance, running = None, False
    try:
        finding = _usable(data, lock)
        running = finding.holds and is_locked(lock)
    except FileNotFoundError:  # never used
        finding = _usable(data, lock)
    except OSError as error:
        finding = unusable(data, error.strerror or str(error))
    if finding.holds:
        try:
            instance = read_instance(data)
            check_folders(data)
        except StartupFailed as error:
            finding = found_by(error, NAME, State.REFUSED)
    return Place(data, instance, running, _holder(lock) if running else None, finding)


def _usable(data: Path, lock: Path) -> Finding:
    """Whether the supervisor could make or open it. Raises OSError."""
    if not _is_there(data):
        parent = next(folder for folder in data.parents if _is_there(folder))
        _demand(parent, os.W_OK | os.X_OK)
        return ok(NAME, f"{data} is made at the first start")
    if not data.is_dir():
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    _demand(data, os.R_OK | os.W_OK | os.X_OK)
    if lock.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if _is_there(lock):
        _demand(lock, os.R_OK | os.W_OK)
    return ok(NAME, str(data))


def _is_there(path: Path) -> bool:
    """Raises OSError where that can't be known; `Path.exists` would call it missing on some versions of Python."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def _demand(path: Path, access: int) -> None:
    if not os.access(path, access):
        read_only = os.statvfs(path).f_flag & os.ST_RDONLY
        number = errno.EROFS if read_only else errno.EACCES
        raise OSError(number, os.strerror(number))


def _holder(lock: Path) -> int | None:
    """The process that has a file open, as far as this user may see."""
    wanted = lock.stat()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            for fd in (entry / "fd").iterdir():
                if os.path.samestat(fd.stat(), wanted):
                    return int(entry.name)
        except OSError:  # it has ended, or is another user's
            continue
    return None
