"""What is removed of the logs: files that are too many, too old, or a deleted function's (ports.logs.LogKeeper)."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Set
from pathlib import Path

from hearth.ports.logs import SOURCES
from hearth.telemetry.segments import Bounds, Segment, folder, segments

FILES_MAX = 512  # of one source of one function, however small: each restart of a process begins new ones


def trim(directory: Path, source: str, room: int) -> int:
    """Remove a function's oldest files of one source until they take at most `room` bytes; returns how many went."""
    found = sorted(segments(directory, {source}), key=lambda file: (file.changed, file.number))
    total, count, removed = sum(file.size for file in found), len(found), 0
    for file in found:
        if total <= room and count <= FILES_MAX:
            break
        if remove(file.path):
            removed += 1
            total -= file.size
            count -= 1
    return removed


def trim_all(root: Path, total: int) -> int:
    """Remove the oldest files of all functions until they take at most `total` bytes; returns how many went."""
    found: list[Segment] = []
    for directory in _folders(root):
        found += segments(directory)
    taken, removed = sum(file.size for file in found), 0
    for file in sorted(found, key=lambda file: file.changed):
        if taken <= total:
            break
        if remove(file.path):
            removed += 1
            taken -= file.size
    return removed


def remove(path: Path) -> bool:
    """Remove a file unless a process writes to it; whether it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


class LogKeeping:
    """`ports.logs.LogKeeper` for the files below `root`, whoever wrote them.

    Args:
        now: seconds since the epoch.
    """

    def __init__(self, root: Path, bounds: Bounds, now: Callable[[], float] = time.time) -> None:
        self._root = root
        self._bounds = bounds
        self._now = now

    def functions(self) -> set[str]:
        """See the port."""
        return {directory.name for directory in _folders(self._root)}

    def sweep(self, gone: Set[str]) -> int:
        """See the port."""
        removed = 0
        for function_id in gone:
            directory = folder(self._root, function_id)
            removed += len(segments(directory))
            shutil.rmtree(directory, ignore_errors=True)
        oldest = self._now() - self._bounds.age
        for directory in _folders(self._root):
            for file in segments(directory):
                if file.changed < oldest and remove(file.path):
                    removed += 1
            for source in SOURCES:
                removed += trim(directory, source, self._bounds.share(source))
        return removed + trim_all(self._root, self._bounds.total)


def _folders(root: Path) -> list[Path]:
    try:
        return [path for path in root.iterdir() if path.is_dir()]
    except FileNotFoundError:
        return []
