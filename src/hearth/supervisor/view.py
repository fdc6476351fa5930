"""The mount namespace in which the platform's processes live.

Control and shards run as an unprivileged user, which can't enter a 0700 folder: a clone in /root, an interpreter
in somebody's home. So, in a mount namespace of the platform's own, an empty folder (a tmpfs) covers the
nearest folder that bars the way, and what they need is bound below it, at its usual path. Nothing else
of that home is visible to them. The folders on the way can be listed: Python finds a module by listing the
folders of its path, and a clone's `src` is one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from hearth.linux import mounts


def barred_by(path: Path) -> Path | None:
    """The topmost folder on the way to `path` (itself excluded) that others may not enter."""
    for parent in reversed(path.parents):
        if not parent.stat().st_mode & 0o001:
            return parent
    return None


def enter(run_dir: Path, needed: Iterable[Path]) -> None:
    """Move this process into the platform's mount namespace and make `needed` reachable in it.

    Args:
        run_dir: becomes an empty 0711 tmpfs, for sockets and slots; goes with the namespace.
        needed: files and folders (absolute, resolved) that must be reachable at their own paths.

    Needs root. Raises OSError.
    """
    mounts.unshare_mounts()
    before = os.umask(0o022)  # whatever this process was started with
    try:
        _cover(run_dir, needed)
    finally:
        os.umask(before)


def _cover(run_dir: Path, needed: Iterable[Path]) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    mounts.tmpfs(run_dir, size="64m", mode="0711")
    covered: dict[Path, list[Path]] = {}
    for path in _outermost(needed):
        bar = barred_by(path)
        if bar is not None:
            covered.setdefault(bar, []).append(path)
    for bar, paths in covered.items():
        kept = []
        for number, path in enumerate(paths):
            stash = run_dir / f"stash{number}"
            stash.mkdir() if path.is_dir() else stash.touch()
            mounts.bind(path, stash)
            kept.append((path, stash))
        mounts.tmpfs(bar, size="1m", mode="0755")
        for path, stash in kept:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if stash.is_dir() else path.touch()
            mounts.move(stash, path)
            stash.rmdir() if stash.is_dir() else stash.unlink()


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """Without what lies below another one."""
    found: list[Path] = []
    for path in sorted(set(paths), key=lambda p: len(p.parts)):
        if not any(path.is_relative_to(other) for other in found):
            found.append(path)
    return found
