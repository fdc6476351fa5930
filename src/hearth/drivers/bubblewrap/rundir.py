"""The keeper's run directory: the slots' tmpfs, and what must be readable whoever installed Hearth.

Nothing of the data directory is bound here: a sandbox's mounts are made from descriptors that root opened, so the folders on
the way may be 0700. Only what they contain must be readable for all, and Hearth's own guest code in a clone made with a strict umask
is not: so it is copied, which is some hundred kilobytes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from hearth.drivers.common import slots

_SHIMS = "shims"


def prepare_run_directory(run: Path, shims: Path | None) -> Path | None:
    """Make what the driver needs below `run`; what an earlier keeper left there is removed.

    Args:
        run: must be reachable for every uid (0711 and its parents), in the keeper's own mount namespace.
        shims: folder with one folder of guest code per runtime, or None.

    Returns the folder that takes the place of `shims`. Raises OSError.
    """
    run.mkdir(parents=True, exist_ok=True)
    slots.open_root(run / "slots")
    if shims is None or not shims.is_dir():
        return shims
    copy = run / _SHIMS
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(shims, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    return copy


def remove_run_directory(run: Path) -> None:
    """Take away what `prepare_run_directory` made."""
    slots.close_root(run / "slots")
    shutil.rmtree(run / "slots", ignore_errors=True)
    shutil.rmtree(run / _SHIMS, ignore_errors=True)
