"""The folder of the platform's sockets. As root it is below /run (see `view`); an ordinary user's is made here."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from hearth.core.errors import StartupFailed
from hearth.linux import mounts

_LONGEST = 107 - len("/control/api.sock")  # bytes of a Unix socket's path (unix(7)), less what is put below


def make_own(instance: str, data: Path, runtime: Path | None) -> Path:
    """An empty folder that only this user may enter; what an earlier life left in its place is removed.

    Args:
        instance: id of the data directory, which is locked: nobody else's platform has this folder.
        data: the data directory.
        runtime: $XDG_RUNTIME_DIR.

    Raises StartupFailed when there is no place for it.
    """
    for path in places(instance, data, runtime):
        if len(os.fsencode(path)) > _LONGEST:
            continue
        try:
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(mode=0o700)
        except OSError:
            continue
        return path
    raise StartupFailed(
        f"there is no place for sockets: {data / 'run'} can't be made, or is longer than {_LONGEST} bytes",
        hint="choose a shorter --data-dir, or set XDG_RUNTIME_DIR to a folder of your own (mode 0700)",
    )


def places(instance: str, data: Path, runtime: Path | None) -> list[Path]:
    """Where `make_own` makes it, the best place first."""
    first = [runtime / f"hearth-{instance}"] if runtime is not None and is_private(runtime) else []
    return [*first, data / "run"]


def remove(path: Path, root: bool) -> None:
    """Take away what `make_own`, or `view.enter` for root, has made."""
    if root:
        mounts.unmount(path)
        path.rmdir()
    else:
        shutil.rmtree(path, ignore_errors=True)


def is_private(folder: Path) -> bool:
    """A folder that this user alone may enter: others can't put anything in the way."""
    try:
        have = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(have.st_mode) and have.st_uid == os.geteuid() and not have.st_mode & 0o077
