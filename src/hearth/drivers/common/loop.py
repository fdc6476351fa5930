"""Loop devices: an image file as a block device, for as long as something mounted from it is in use (loop(4))."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from pathlib import Path

from hearth.drivers.common import mounts

# include/uapi/linux/loop.h; LOOP_CONFIGURE is there since Linux 5.8
_LOOP_CTL_GET_FREE, _LOOP_CTL_REMOVE, _LOOP_CONFIGURE, _LOOP_CLR_FD = 0x4C82, 0x4C81, 0x4C0A, 0x4C01
_LO_FLAGS_AUTOCLEAR = 4
_REMOVE_TRIES, _REMOVE_PAUSE = 20, 0.005  # seconds
_LOOP_CONFIG_SIZE, _FLAGS_OFFSET = 304, 8 + 52


def backing_file(device: str) -> str | None:
    """The image behind ``loopN``, or None."""
    try:
        return Path(f"/sys/block/{device}/loop/backing_file").read_text().rstrip("\n")
    except OSError:
        return None


def works(folder: Path) -> bool:
    """Whether loop devices can be made here, found out by making one: in containers they often can't. Leaves nothing."""
    before = {path.name for path in _devices()}
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, 1 << 20)
            device, held = _configure_loop(fd)
            os.close(held)  # nothing is mounted from it: so it is let go of at once
        finally:
            os.close(fd)
    except OSError:
        return False
    name = device.removeprefix("/dev/")
    if name not in before:  # the kernel has made another one, because all were in use
        _remove(int(name.removeprefix("loop")))
    return True


def _remove(number: int) -> None:
    """Take a device away that was made for a moment; one that somebody has taken meanwhile stays."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_REMOVE_TRIES):  # the kernel lets go of the image by a worker of its own
            with contextlib.suppress(OSError):
                fcntl.ioctl(control, _LOOP_CTL_REMOVE, number)
                return
            time.sleep(_REMOVE_PAUSE)
    finally:
        os.close(control)


def mount(image: Path) -> tuple[int, str]:
    """A detached mount of an image and its loop device, which goes when the last mount of it goes."""
    file = os.open(image, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        device, held = _configure_loop(file)
    finally:
        os.close(file)
    try:
        return mounts.new_mount("ext4", device, mounts.NOSUID | mounts.NODEV), device
    finally:
        os.close(held)


def _configure_loop(file: int) -> tuple[str, int]:
    config = bytearray(_LOOP_CONFIG_SIZE)
    struct.pack_into("<II", config, 0, file, 0)
    struct.pack_into("<I", config, _FLAGS_OFFSET, _LO_FLAGS_AUTOCLEAR)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for attempt in range(32):
            device = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            held = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(held, _LOOP_CONFIGURE, bytes(config))
                return device, held
            except OSError as error:
                os.close(held)
                if error.errno != 16 or attempt == 31:  # EBUSY: somebody else took this one first
                    raise
    finally:
        os.close(control)
    raise AssertionError("the loop above returns or raises")


def held_below(folder: Path) -> list[str]:
    """Names of devices whose images are (or were, when unlinked) in a folder."""
    names = [device.name for device in _devices()]
    return [name for name in names if (backing_file(name) or "").startswith(f"{folder}/")]


def detach_below(folder: Path) -> list[str]:
    """Let go of the devices that `held_below` names; returns their names."""
    found = held_below(folder)
    for name in found:
        with contextlib.suppress(OSError):  # somebody else was quicker
            fd = os.open(f"/dev/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(fd, _LOOP_CLR_FD)
            finally:
                os.close(fd)
    return found


def _devices() -> list[Path]:
    return sorted(Path("/sys/block").glob("loop*"))
