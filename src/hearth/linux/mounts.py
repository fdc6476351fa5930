"""Mounts by mount(2), umount2(2) and the mount namespace of this process."""

from __future__ import annotations

import os
from pathlib import Path

from hearth.linux.libc import CLONE_NEWNS, check, libc, unshare

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_MOVE, MS_REC = 2, 4, 8, 4096, 8192, 16384
MS_PRIVATE, MS_SLAVE = 1 << 18, 1 << 19
MNT_DETACH = 2


def mount(source: str, target: Path, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2). Raises OSError."""
    check(
        libc().mount(
            source.encode(),
            os.fsencode(target),
            kind.encode() if kind is not None else None,
            flags,
            data.encode() if data is not None else None,
        ),
        f"mount {target}",
    )


def unshare_mounts() -> None:
    """Give this process a mount namespace of its own; mounts of the host still arrive, none leave."""
    unshare(CLONE_NEWNS)
    mount("none", Path("/"), None, MS_REC | MS_SLAVE)


def tmpfs(target: Path, *, size: str, mode: str) -> None:
    mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},mode={mode}")


def bind(source: Path, target: Path) -> None:
    """Recursive, so that what is mounted below comes along."""
    mount(str(source), target, None, MS_BIND | MS_REC)


def move(source: Path, target: Path) -> None:
    """The parent of `source` must not be a shared mount."""
    mount(str(source), target, None, MS_MOVE)


def unmount(target: Path) -> None:
    """Lazily: gone at once for everybody who looks it up. Raises OSError."""
    check(libc().umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")
