"""Loop devices: an image file as a block device, for as long as something mounted from it is in use (loop(4))."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from pathlib import Path

from hearth.drivers.bubblewrap import mounts

# include/uapi/linux/loop.h; LOOP_CONFIGURE is there since Linux 5.8
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE, _LOOP_CLR_FD = 0x4C82, 0x4C0A, 0x4C01
_LO_FLAGS_AUTOCLEAR = 4
_LOOP_CONFIG_SIZE, _FLAGS_OFFSET = 304, 8 + 52


def backing_file(device: str) -> str | None:
    """The image behind ``loopN``, or None."""
    try:
        return Path(f"/sys/block/{device}/loop/backing_file").read_text().rstrip("\n")
    except OSError:
        return None


def works(folder: Path) -> bool:
    """Whether loop devices can be made here, found out by making one: in containers they often can't."""
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, 1 << 20)
            _, held = _configure_loop(fd)
            os.close(held)  # nothing is mounted from it: so it is let go of at once
        finally:
            os.close(fd)
    except OSError:
        return False
    return True


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


def detach_below(folder: Path) -> list[str]:
    """Let go of devices whose images are (or were, when unlinked) in a folder; returns their names."""
    found = []
    for device in Path("/sys/block").glob("loop*"):
        backing = backing_file(device.name)
        if backing is None or not backing.startswith(f"{folder}/"):
            continue
        with contextlib.suppress(OSError):  # somebody else was quicker
            fd = os.open(f"/dev/{device.name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(fd, _LOOP_CLR_FD)
            finally:
                os.close(fd)
        found.append(device.name)
    return found
