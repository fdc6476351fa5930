"""A disk that refuses, in the words of the one tree."""

from __future__ import annotations

import errno
import shlex

from hearth.core.errors import NoCapacity, PlatformError
from hearth.core.finding import Finding, not_held, ok
from hearth.core.limits import DISK_FREE_MIN, GIB, format_size

_FULL = (errno.ENOSPC, errno.EDQUOT)


def nearly_full() -> NoCapacity:
    """Nothing new is begun: what is under way needs the rest."""
    return NoCapacity(
        "the server's disk is nearly full",
        hint=f"its operator must make room in the data directory: {format_size(DISK_FREE_MIN)} have to be free",
        retry_after=60.0,
    )


def room(free: int, folder: str) -> Finding:
    """Whether uploads and builds are taken in.

    Args:
        free: bytes that are free where the data directory is.
        folder: it, or where it will be.
    """
    says = f"{free / GIB:.1f} GiB free in {folder}"
    if free >= DISK_FREE_MIN:
        return ok("disk", says)
    return not_held(
        "disk",
        f"{says}: below {format_size(DISK_FREE_MIN)} nothing is uploaded or built",
        f"du -xh -d 2 {shlex.quote(folder)} | sort -h | tail",
    )


def refusal(error: OSError, what: str) -> PlatformError:
    """What an operating system's refusal to write means.

    Args:
        what: what could not be done, such as ``the upload could not be kept``.
    """
    if error.errno in _FULL:
        return NoCapacity(
            f"{what}: the server's disk is full",
            hint="its operator must make room in the data directory",
            retry_after=60.0,
        )
    return PlatformError(f"{what}: {error.strerror}", hint="look at the disk of the data directory")
