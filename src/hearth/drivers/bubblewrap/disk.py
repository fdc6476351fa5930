"""Writable disks of fixed size: sparse ext4 images below the data directory, mounted through loop devices.

A disk is a cache: it is made anew when its size or owner doesn't fit any more, or when it wasn't unmounted cleanly. One
sandbox uses it at a time; another at once gets a fresh image that is thrown away. The image file belongs to root
with the owner uid of the disk's content as its group number, so that no table of its own is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from hearth.core.errors import SandboxFailed
from hearth.core.launch import Disk
from hearth.drivers.bubblewrap import mounts, watch
from hearth.drivers.bubblewrap.uids import UidBlock

# include/uapi/linux/loop.h; LOOP_CONFIGURE is there since Linux 5.8
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE, _LOOP_CLR_FD = 0x4C82, 0x4C0A, 0x4C01
_LO_FLAGS_AUTOCLEAR = 4
_LOOP_CONFIG_SIZE, _FLAGS_OFFSET = 304, 8 + 52
_MKFS_TIMEOUT, _GONE_TIMEOUT = 60.0, 5.0
_EXT4_STATE, _EXT4_CLEAN = 1024 + 0x3A, 1  # s_state of the superblock (ext4 disk layout)


@dataclass(slots=True)
class Mounted:
    """A disk in use.

    Args:
        mount: its detached mount's descriptor.
        uid: who owns its content; the sandbox must run as this uid.
        device: the loop device, or "" for a tmpfs.
        name: of the kept disk, or None for one that is thrown away.
        kept: the uid belongs to the disk rather than to the sandbox.
    """

    mount: int
    uid: int
    device: str
    name: str | None

    @property
    def kept(self) -> bool:
        return self.name is not None

    def detach(self) -> None:
        """The sandbox has it now. Idempotent."""
        if self.mount >= 0:
            os.close(self.mount)
            self.mount = -1


class Disks:
    """The disks of one data directory.

    Args:
        folder: where the images are; made here, root's alone.
        block: where owners' uids come from.
    """

    def __init__(self, folder: Path, block: UidBlock) -> None:
        self._folder = folder
        self._block = block
        self._in_use: set[str] = set()
        self._mkfs = shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin:/bin")

    def open(self) -> None:
        """Make the folder, throw away what an earlier keeper left, reserve the uids of the disks that are kept.

        Raises SandboxFailed when the folder is not root's alone: a hostile image must not get there.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        status = self._folder.lstat()
        if self._folder.is_symlink() or status.st_uid != os.geteuid():
            raise SandboxFailed(
                f"{self._folder} does not belong to the keeper", hint="remove it: disks are only caches"
            )
        self._folder.chmod(0o700)
        for image in self._folder.iterdir():
            owner = image.lstat().st_gid
            if image.suffix == ".img" and image.is_file() and not image.is_symlink():
                if self._block.take_disk(owner) == owner:
                    continue
                self._block.free_disk(owner)
            image.unlink()

    @property
    def backing(self) -> str:
        """``loop`` where images can be mounted here, else ``tmpfs``: its pages count as the sandbox's memory."""
        return "loop" if self._mkfs and Path("/dev/loop-control").exists() else "tmpfs"

    async def take(self, disk: Disk, spare_uid: int) -> Mounted:
        """Mount a disk.

        Args:
            disk: whose, how large.
            spare_uid: of the sandbox; owns a disk that is thrown away.

        Raises SandboxFailed, NoCapacity, OSError; then nothing is left.
        """
        if self.backing == "tmpfs" or self._mkfs is None:
            options = {"size": str(disk.bytes), "mode": "755", "uid": str(spare_uid), "gid": str(spare_uid)}
            return Mounted(mounts.new_tmpfs(options, mounts.NOSUID | mounts.NODEV), spare_uid, "", None)
        if disk.name in self._in_use:
            return await self._fresh(disk, spare_uid)
        self._in_use.add(disk.name)
        try:
            return await self._kept(disk)
        except BaseException:
            self._in_use.discard(disk.name)
            raise

    async def _fresh(self, disk: Disk, uid: int) -> Mounted:
        image = self._folder / f"{uid}.once"
        try:
            await self._make(image, disk.bytes, uid)
            mount, device = _mount(image)
        finally:
            image.unlink(missing_ok=True)  # a mounted one lives on until it is unmounted
        return Mounted(mount, uid, device, None)

    async def _kept(self, disk: Disk) -> Mounted:
        image = self._folder / f"{disk.name}.img"
        uid = self._owner(image)
        if uid is None or image.stat().st_size != disk.bytes or not _is_clean(image):
            uid = await self._make_kept(image, disk.bytes, uid)
        try:
            mount, device = _mount(image)
        except OSError:
            uid = await self._make_kept(image, disk.bytes, uid)  # a damaged cache is no cache
            mount, device = _mount(image)
        return Mounted(mount, uid, device, disk.name)

    def _owner(self, image: Path) -> int | None:
        with contextlib.suppress(FileNotFoundError):
            return image.lstat().st_gid
        return None

    async def _make_kept(self, image: Path, size: int, uid: int | None) -> int:
        image.unlink(missing_ok=True)
        uid = self._block.take_disk() if uid is None else uid
        try:
            await self._make(image, size, uid)
        except BaseException:
            image.unlink(missing_ok=True)
            self._block.free_disk(uid)
            raise
        return uid

    async def _make(self, image: Path, size: int, uid: int) -> None:
        fd = os.open(image, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.fchown(fd, 0, uid)
            os.ftruncate(fd, size)
        finally:
            os.close(fd)
        # No journal: after a crash the image isn't clean and is made anew.
        features = "^has_journal,^metadata_csum,sparse_super2"
        options = f"root_owner={uid}:{uid},lazy_itable_init=1,nodiscard"
        command = [
            str(self._mkfs),
            "-q",
            "-F",
            "-m",
            "0",
            "-O",
            features,
            "-E",
            options,
            "-i",
            "8192",
            str(image),
        ]
        await watch.run(command, _MKFS_TIMEOUT)

    async def give_back(self, mounted: Mounted) -> None:
        """After the sandbox is gone: wait until the kernel has let go of the image.

        Raises SandboxFailed when it doesn't in some seconds; the name then stays in use, and its next user gets a fresh image.
        """
        mounted.detach()
        if mounted.device:
            deadline = time.monotonic() + _GONE_TIMEOUT
            while _backing_file(Path(mounted.device).name) is not None:
                if time.monotonic() > deadline:
                    raise SandboxFailed(f"{mounted.device} is still in use after its sandbox has ended")
                await asyncio.sleep(0.005)  # no event tells of a loop device's end
        if mounted.name is not None:
            self._in_use.discard(mounted.name)

    def leftovers(self) -> list[str]:
        """Let go of loop devices that an earlier keeper's images still hold; returns their names."""
        found = []
        for device in Path("/sys/block").glob("loop*"):
            backing = _backing_file(device.name)
            if backing is not None and backing.startswith(f"{self._folder}/"):
                with contextlib.suppress(OSError):
                    fd = os.open(f"/dev/{device.name}", os.O_RDONLY | os.O_CLOEXEC)
                    try:
                        fcntl.ioctl(fd, _LOOP_CLR_FD)
                    finally:
                        os.close(fd)
                found.append(device.name)
        return found


def _backing_file(device: str) -> str | None:
    try:
        return Path(f"/sys/block/{device}/loop/backing_file").read_text().rstrip("\n")
    except OSError:
        return None


def _is_clean(image: Path) -> bool:
    with image.open("rb") as file:
        file.seek(_EXT4_STATE)
        return file.read(2) == struct.pack("<H", _EXT4_CLEAN)


def _mount(image: Path) -> tuple[int, str]:
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
