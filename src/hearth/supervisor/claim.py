"""One platform of an instance on a machine at a time.

Control groups, links, tables and folders below /run are named after the instance, and what stands under such a name when a
platform starts is taken for the leftovers of its own earlier life. A copied data directory has the same
instance: started beside the one that it was copied from, it would end that one. A lock of the machine, not of
the data directory, keeps them apart.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from hearth.core.errors import StartupFailed
from hearth.supervisor.rundir import is_private

LOCKS = Path("/run/hearth-instances")


def locks_of(root: bool, runtime: Path | None) -> Path | None:
    """The folder of these locks: root's, or an ordinary user's in his $XDG_RUNTIME_DIR; None where he has none."""
    if root:
        return LOCKS
    return runtime / "hearth-instances" if runtime is not None and is_private(runtime) else None


def claim(instance: str, data: Path, locks: Path) -> int:
    """Hold an instance on this machine; returns the descriptor whose end gives it free.

    Args:
        instance: id of the data directory, whose own lock is held.
        data: the data directory, for who is told that it is in use.
        locks: folder of the locks; made where it is missing.

    Raises:
        StartupFailed: a platform on another data directory has the same instance.
    """
    locks.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(locks / instance, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        other = os.pread(lock, 4096, 0).decode(errors="replace").strip() or "another data directory"
        os.close(lock)
        raise StartupFailed(
            f"{data} is a copy of {other}, which a hearth runs on: both have the instance id {instance}",
            hint=f"stop that one; or, to run both on this machine, remove {data}/instance: a new id is made",
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{data}\n".encode(), 0)
    return lock
