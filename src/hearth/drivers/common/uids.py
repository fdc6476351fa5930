"""Host uids for sandboxes: every sandbox has one of its own, and no two Hearths on one machine share any.

A Hearth holds one block of numbers, by an flock on a file below /run that lives as long as its process. The
blocks lie in the range that systemd's table of uids leaves unused (1879048192 to 2147483647; systemd, UIDS-GIDS.md), and
those that touch /etc/subuid or /etc/subgid are left out. Which block is tried first follows from the instance id, so an
instance mostly gets the one it had, and with it the owner of its disks.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from hearth.core.errors import NoCapacity, StartupFailed

FIRST = 1_946_157_056
BLOCK = 4096
BLOCKS = 256
DISKS = 2048  # the upper half of a block belongs to disks
LOCKS = Path("/run/hearth-uids")


def parse_ranges(*tables: str) -> list[range]:
    """The ranges in /etc/subuid-like tables (``name:first:count``); broken lines are left out."""
    found = []
    for line in "\n".join(tables).splitlines():
        parts = line.strip().split(":")
        if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
            found.append(range(int(parts[1]), int(parts[1]) + int(parts[2])))
    return found


def parse_map(*maps: str) -> list[range]:
    """The ids that exist here, from /proc/self/uid_map and gid_map (inside id, outside id, count)."""
    found = []
    for line in "\n".join(maps).splitlines():
        inside, _, count = (int(part) for part in line.split())
        found.append(range(inside, inside + count))
    return found


def order(instance: str) -> list[range]:
    """All blocks, the instance's favourite first."""
    start = int.from_bytes(hashlib.sha256(instance.encode()).digest()[:4], "big") % BLOCKS
    return [
        range(first, first + BLOCK)
        for first in (FIRST + (start + step) % BLOCKS * BLOCK for step in range(BLOCKS))
    ]


def overlaps(block: range, others: Iterable[range]) -> bool:
    return any(block.start < other.stop and other.start < block.stop for other in others)


class Uids(Protocol):
    """Who sandboxes run as."""

    range: range
    shared: bool  # every sandbox is the same user, who is also the platform's

    def gid(self, uid: int) -> int:
        """The group that goes with a uid."""
        ...

    def take(self) -> int:
        """A uid for a sandbox. Raises NoCapacity."""
        ...

    def give_back(self, uid: int) -> None:
        """Only when no process has it any more."""
        ...

    def take_disk(self, wanted: int | None = None) -> int:
        """A uid that owns a disk: the wanted one when it is free, else another. Raises NoCapacity."""
        ...

    def free_disk(self, uid: int) -> None:
        """The disk that had it is no more."""
        ...

    def close(self) -> None: ...


class OwnUid:
    """An ordinary user has no uid but his own."""

    shared = True

    def __init__(self) -> None:
        self.range = range(os.getuid(), os.getuid() + 1)

    def gid(self, uid: int) -> int:
        return os.getgid()

    def take(self) -> int:
        return self.range.start

    def give_back(self, uid: int) -> None:
        """Nothing: it is everybody's."""

    def take_disk(self, wanted: int | None = None) -> int:
        return self.range.start

    def free_disk(self, uid: int) -> None:
        """Nothing: it is everybody's."""

    def close(self) -> None:
        """Nothing is held."""


class UidBlock:
    """A held block. Uids go round, so that one which was just freed is taken last."""

    shared = False

    def __init__(self, block: range, lock: int, path: Path) -> None:
        self.range = block
        self._lock = lock
        self._path = path
        self._free = deque(range(block.start, block.start + DISKS))
        self._free_disks = set(range(block.start + DISKS, block.stop))

    def gid(self, uid: int) -> int:
        return uid

    def take(self) -> int:
        """A uid for a sandbox. Raises NoCapacity."""
        if not self._free:
            raise NoCapacity("no user id is left for another sandbox", retry_after=1)
        return self._free.popleft()

    def give_back(self, uid: int) -> None:
        """Only when no process has it any more."""
        if uid in self.range and uid < self.range.start + DISKS:
            self._free.append(uid)

    def take_disk(self, wanted: int | None = None) -> int:
        """A uid that owns a disk: the wanted one when it is free, else another. Raises NoCapacity."""
        uid = wanted if wanted in self._free_disks else max(self._free_disks, default=None)
        if uid is None:
            raise NoCapacity("no user id is left for another disk")
        self._free_disks.discard(uid)
        return uid

    def free_disk(self, uid: int) -> None:
        """The disk that had it is no more."""
        if uid in self.range:
            self._free_disks.add(uid)

    def close(self) -> None:
        """Let go of it; the file that tells of it goes first, while nobody else can hold it."""
        self._path.unlink(missing_ok=True)
        os.close(self._lock)
        with contextlib.suppress(OSError):  # other Hearths have theirs there
            self._path.parent.rmdir()


def used_uids() -> set[int]:
    """Real and effective uids of all processes but those that have ended (proc(5), /proc/PID/status)."""
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "status").read_text()
        except OSError:  # it has just ended
            continue
        if "\nState:\tZ" in status:  # it waits for its parent, which may take its time
            continue
        line = next((line for line in status.splitlines() if line.startswith("Uid:")), "Uid:")
        found.update(int(uid) for uid in line.split()[1:])
    return found


def take_block(instance: str, locks: Path = LOCKS) -> UidBlock:
    """Hold a block that nobody holds and no process uses.

    Raises StartupFailed when there is none.
    """
    taken = parse_ranges(*(_read(Path(name)) for name in ("/etc/subuid", "/etc/subgid")))
    uids, gids = (parse_map(_read(Path(f"/proc/self/{kind}_map"))) for kind in ("uid", "gid"))
    used = used_uids()
    for block in order(instance):
        mapped = all(any(block.start in ids and block[-1] in ids for ids in kind) for kind in (uids, gids))
        if not mapped or overlaps(block, taken) or any(uid in block for uid in used):
            continue
        path = locks / str(block.start)
        lock = _lock(path)
        if lock is not None:
            return UidBlock(block, lock, path)
    raise StartupFailed(
        "no block of user ids is free for sandboxes",
        hint=f"{BLOCKS} blocks of {BLOCK} from {FIRST} are tried: see {locks}, /etc/subuid and /proc/self/uid_map",
    )


def _lock(path: Path) -> int | None:
    """The descriptor of a file that this process alone holds; None where somebody else does."""
    while True:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # the folder went with its last file
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        if os.fstat(lock).st_nlink:
            return lock
        os.close(lock)  # its holder took it away while we came: nobody else would see that we hold it


def left_locks(instance: str, locks: Path = LOCKS) -> list[Path]:
    """The file of an instance's favourite block, where it is there and nobody holds it: its keeper was killed."""
    path = locks / str(order(instance)[0].start)
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return []
    finally:
        os.close(lock)
    return [path]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
