"""Writable disks of fixed size: sparse ext4 images below the data directory, mounted through loop devices.

A disk is a cache: it is made anew when its size or owner doesn't fit any more, or when it wasn't unmounted cleanly. One
sandbox uses it at a time; another at once gets a fresh image that is thrown away. The image file belongs to root
with the owner uid of the disk's content as its group number, so that no table of its own is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from hearth.core.errors import NoCapacity, SandboxFailed
from hearth.core.finding import Finding, not_held, ok
from hearth.core.launch import Disk
from hearth.drivers.common import loop, mounts, watch
from hearth.drivers.common.uids import Uids
from hearth.linux.commands import by_root, install

_MKFS_TIMEOUT, _GONE_TIMEOUT = 60.0, 5.0
_AS_MEMORY = "a build's disk counts as its memory"
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

    def __init__(self, folder: Path, block: Uids) -> None:
        self._folder = folder
        self._block = block
        self._in_use: set[str] = set()
        self.finding = not_held("build disks", "not open")
        self._mkfs = _find_mkfs()

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
                granted = self._block.take_disk(owner)
                if granted == owner:
                    continue
                self._block.free_disk(granted)  # it is of another block of uids, or a copy
            image.unlink()
        self.finding = disks_of_builds(self._folder)

    @property
    def backing(self) -> str:
        """``loop`` where images can be mounted here, else ``tmpfs``: its pages count as the sandbox's memory."""
        return "loop" if self.finding.holds else "tmpfs"

    async def take(self, disk: Disk, spare_uid: int) -> Mounted:
        """Mount a disk.

        Args:
            disk: whose, how large.
            spare_uid: of the sandbox; owns a disk that is thrown away.

        Raises SandboxFailed, NoCapacity, OSError; then nothing is left.
        """
        if not self.finding.holds:
            size, gid = min(disk.bytes, _half_of_memory()), self._block.gid(spare_uid)
            options = {"size": str(size), "mode": "755", "uid": str(spare_uid), "gid": str(gid)}
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
            mount, device = loop.mount(image)
        finally:
            image.unlink(missing_ok=True)  # a mounted one lives on until it is unmounted
        return Mounted(mount, uid, device, None)

    async def _kept(self, disk: Disk) -> Mounted:
        image = self._folder / f"{disk.name}.img"
        uid = self._owner(image)
        if uid is None or image.stat().st_size != disk.bytes or not _is_clean(image):
            uid = await self._make_kept(image, disk.bytes, uid)
        try:
            mount, device = loop.mount(image)
        except OSError:
            uid = await self._make_kept(image, disk.bytes, uid)  # a damaged cache is no cache
            mount, device = loop.mount(image)
        return Mounted(mount, uid, device, disk.name)

    def _owner(self, image: Path) -> int | None:
        with contextlib.suppress(FileNotFoundError):
            return image.lstat().st_gid
        return None

    async def _make_kept(self, image: Path, size: int, uid: int | None) -> int:
        image.unlink(missing_ok=True)
        uid = self._new_owner() if uid is None else uid
        try:
            await self._make(image, size, uid)
        except BaseException:
            image.unlink(missing_ok=True)
            self._block.free_disk(uid)
            raise
        return uid

    def _new_owner(self) -> int:
        """A uid for another disk; when all are taken, that of the disk which was used longest ago. Raises NoCapacity."""
        try:
            return self._block.take_disk()
        except NoCapacity:
            unused = [image for image in self._folder.glob("*.img") if image.stem not in self._in_use]
            if not unused:
                raise
            oldest = min(unused, key=lambda image: image.stat().st_mtime)
            uid = oldest.stat().st_gid
            oldest.unlink()
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
            while loop.backing_file(Path(mounted.device).name) is not None:
                if time.monotonic() > deadline:
                    raise SandboxFailed(f"{mounted.device} is still in use after its sandbox has ended")
                await asyncio.sleep(0.005)  # no event tells of a loop device's end
        if mounted.name is not None:
            self._in_use.discard(mounted.name)

    def leftovers(self) -> list[str]:
        """Let go of loop devices that an earlier keeper's images still hold; returns their names."""
        return loop.detach_below(self._folder)


def disks_of_builds(folder: Path) -> Finding:
    """Whether images in a folder can be mounted. A loop device is made and let go of; nothing of it is left."""
    name = "build disks"
    if _find_mkfs() is None:
        return not_held(name, f"there is no mkfs.ext4: {_AS_MEMORY}", install("e2fsprogs"))
    if not loop.works(folder):
        return not_held(name, f"loop devices can't be made here: {_AS_MEMORY}", by_root("modprobe loop"))
    return ok(name, "builds have disks of their own: ext4 images on loop devices")


def _find_mkfs() -> str | None:
    return shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin:/bin")


def _half_of_memory() -> int:
    """Bytes: as much as the kernel gives a tmpfs by itself (tmpfs(5)); no build shall fill the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _is_clean(image: Path) -> bool:
    with image.open("rb") as file:
        file.seek(_EXT4_STATE)
        return file.read(2) == struct.pack("<H", _EXT4_CLEAN)
