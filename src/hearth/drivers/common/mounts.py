"""System calls about mounts that Python lacks, by ctypes.

The numbers of open_tree and everything after it are the same on all Linux architectures but alpha
(include/uapi/asm-generic/unistd.h). Flags: include/uapi/linux/mount.h,
openat2.h. What is older stands in `hearth.linux`. Every function raises OSError with the kernel's errno.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path

from hearth.linux import mounts as linux
from hearth.linux.libc import PR_SET_CHILD_SUBREAPER, check, libc, prctl
from hearth.linux.mounts import MS_BIND, MS_PRIVATE, MS_REC

_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _FSPICK = 428, 429, 430, 431, 432, 433
_OPENAT2, _MOUNT_SETATTR = 437, 442

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE, _FSCONFIG_CMD_RECONFIGURE = 1, 6, 7
_FSPICK_EMPTY_PATH = 8
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS = 0x02, 0x04
_MS_SHARED = 1 << 20

RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8


def _syscall(what: str, number: int, *arguments: int | bytes | ctypes.c_void_p | None) -> int:
    # syscall(2) is variadic: everything must be passed in full register width.
    passed = [
        ctypes.c_long(value) if isinstance(value, int) else value if value is not None else ctypes.c_void_p(0)
        for value in arguments
    ]
    function = libc().syscall
    function.restype = ctypes.c_long
    return check(int(function(ctypes.c_long(number), *passed)), what)


def clone_mount(fd: int) -> int:
    """A detached bind mount of the folder that `fd` (O_PATH will do) stands for; mounts below it are left out."""
    return _syscall("open_tree", _OPEN_TREE, fd, b"", _OPEN_TREE_CLONE | _AT_EMPTY_PATH | os.O_CLOEXEC)


def set_attributes(mount_fd: int, attributes: int) -> None:
    """Add attributes (RDONLY, NOSUID, …) to a detached mount and make it private."""
    values = (ctypes.c_uint64 * 4)(attributes, 0, MS_PRIVATE, 0)
    _syscall(
        "mount_setattr",
        _MOUNT_SETATTR,
        mount_fd,
        b"",
        _AT_EMPTY_PATH,
        ctypes.cast(values, ctypes.c_void_p),
        ctypes.sizeof(values),
    )


def move_mount(mount_fd: int, target: Path) -> None:
    """Put a detached mount onto a folder."""
    _syscall(
        "move_mount", _MOVE_MOUNT, mount_fd, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH
    )


def new_tmpfs(options: Mapping[str, str], attributes: int) -> int:
    """A detached tmpfs; the descriptor serves as a folder (`dir_fd`) as well as for `move_mount` and `reconfigure`."""
    return _new_mount("tmpfs", "hearth", options, attributes)


def new_mount(kind: str, device: str, attributes: int) -> int:
    """A detached mount of a block device's file system."""
    return _new_mount(kind, device, {}, attributes)


def _new_mount(kind: str, source: str, options: Mapping[str, str], attributes: int) -> int:
    context = _syscall("fsopen", _FSOPEN, kind.encode(), 1)
    try:
        for key, value in {"source": source, **options}.items():
            _syscall(
                f"{kind} {key}={value}",
                _FSCONFIG,
                context,
                _FSCONFIG_SET_STRING,
                key.encode(),
                value.encode(),
                0,
            )
        _syscall(f"create {kind}", _FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _syscall("fsmount", _FSMOUNT, context, 1, attributes)
    finally:
        os.close(context)


def reconfigure(mount_fd: int, options: Mapping[str, str]) -> None:
    """Change a file system's options from outside, wherever it is mounted by now (fspick)."""
    context = _syscall("fspick", _FSPICK, mount_fd, b"", _FSPICK_EMPTY_PATH | 1)
    try:
        for key, value in options.items():
            _syscall(
                f"{key}={value}", _FSCONFIG, context, _FSCONFIG_SET_STRING, key.encode(), value.encode(), 0
            )
        _syscall("reconfigure", _FSCONFIG, context, _FSCONFIG_CMD_RECONFIGURE, None, None, 0)
    finally:
        os.close(context)


def mount_tmpfs(target: Path, *, size: str, mode: str) -> None:
    """Mount a private tmpfs (nosuid, nodev) that others can't see into."""
    linux.tmpfs(target, size=size, mode=mode)
    make_private(target)


def bind_to_itself(path: Path) -> None:
    """Make a folder a mount of its own."""
    linux.mount(str(path), path, None, MS_BIND)


def make_private(path: Path, *, recursive: bool = False) -> None:
    linux.mount("none", path, None, MS_PRIVATE | (MS_REC if recursive else 0))


def make_shared(path: Path) -> None:
    linux.mount("none", path, None, _MS_SHARED)


def unmount(path: Path) -> None:
    """Take a mount and all below it away; who still uses it keeps it (MNT_DETACH)."""
    linux.unmount(path)


def become_subreaper() -> None:
    """Orphans below this process become its children, so that it can wait for them (prctl(2))."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def open_folder(path: Path) -> int:
    """An O_PATH descriptor of a folder, refusing a symbolic link in *any* part of the path (openat2)."""
    how = (ctypes.c_uint64 * 3)(
        os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS
    )
    return _syscall(
        f"open {path}",
        _OPENAT2,
        _AT_FDCWD,
        os.fsencode(path),
        ctypes.cast(how, ctypes.c_void_p),
        ctypes.sizeof(how),
    )


def mount_points(below: Path) -> list[Path]:
    """Mount points at or below a path in this mount namespace, deepest and latest first."""
    prefix = str(below)
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split(" ")[4].encode().decode("unicode_escape")
        if point == prefix or point.startswith(prefix + "/"):
            found.append(Path(point))
    return found[::-1]
