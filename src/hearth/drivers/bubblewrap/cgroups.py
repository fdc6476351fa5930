"""Limits on memory, cpu and processes: one control group per sandbox, on cgroup v1, v2, and v1 with a `unified` tree.

What differs between the versions is in `cgroup_v1` and `cgroup_v2`; what both do is here. A sandbox's processes join their group
before bubblewrap is started, so nothing of it is ever outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hearth.core.errors import LimitUnenforceable, SandboxFailed
from hearth.core.finding import Finding
from hearth.core.launch import Limits, Usage

PERIOD = 100_000  # microseconds in which the cpu quota is counted
_RETRY = 0.002  # seconds between attempts: nothing tells of the moment in which the kernel lets go
OWN_PIDS = 3  # the outer bubblewrap, its inner reaper, and one while they change places


class Group(Protocol):
    """One sandbox's group."""

    @property
    def joins(self) -> tuple[str, ...]:
        """The cgroup.procs files to which a process writes itself to be inside."""
        ...

    @property
    def directories(self) -> tuple[Path, ...]: ...

    def follow(self, pid: int) -> None:
        """Told of the sandbox's first process, which becomes the outer bubblewrap, as soon as it is started."""
        ...

    def hold(self, pid: int, limits: Limits, final: bool) -> None:
        """Set on that process what is a process's own to hold. Called where `held_first` says so, while it waits.

        Args:
            final: no `set_limits` comes after it.
        """
        ...

    def pids(self) -> set[int]:
        """Who is alive of it."""
        ...

    def set_limits(self, limits: Limits) -> None:
        """Hold these limits from now on. Raises OSError, EBUSY when more memory is used than the new limit."""
        ...

    def kill(self) -> None:
        """Send SIGKILL to everything inside; new ones may appear until `pids` is empty, so it is called again."""
        ...

    def usage(self) -> Usage: ...

    def close(self) -> None:
        """Let go of descriptors; when nothing of it is alive any more. Idempotent."""
        ...


class DirectoryGroup:
    """What a group that is nothing but directories answers to all that is not about limits."""

    directories: tuple[Path, ...]

    def follow(self, pid: int) -> None:
        """Nothing: it joins by itself."""

    def hold(self, pid: int, limits: Limits, final: bool) -> None:
        """Nothing: the directories hold."""

    def pids(self) -> set[int]:
        return pids_of(self.directories)

    def close(self) -> None:
        """Nothing is open."""


class Groups(Protocol):
    """The tree of one Hearth instance."""

    version: str  # v1, v1+unified or v2
    missing: dict[str, Finding]  # limit ("memory", "cpu", "pids"): why it can't be held here

    def open(self) -> None:
        """Make the instance's own directories. Raises OSError."""
        ...

    def offered(self) -> frozenset[str]:
        """The limits that could be held here. Changes nothing."""
        ...

    def create(self, name: str, limits: Limits) -> Group:
        """Make a sandbox's group with its limits. Raises OSError; then nothing is left."""
        ...

    def existing(self) -> dict[str, Group]:
        """Groups that exist now, by sandbox, whoever made them."""
        ...

    @property
    def parents(self) -> tuple[Path, ...]:
        """The directories in which the instance's own stand."""
        ...

    @property
    def directories(self) -> tuple[Path, ...]:
        """The instance's own directories, whether or not they are there."""
        ...

    def close(self) -> None:
        """Remove the instance's own directories when they are empty, and give back what `open` switched on for them."""
        ...


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """One mounted hierarchy: where, and its controllers (empty for v2)."""

    point: Path
    version: int
    controllers: frozenset[str]


def parse_mounts(mountinfo: str) -> list[CgroupMount]:
    """The cgroup hierarchies in a /proc/PID/mountinfo (proc(5)): fields after ``-`` are type, source, super options."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, rest = right.partition(" ")
        point = Path(left.split(" ")[4])
        if kind == "cgroup2":
            found.append(CgroupMount(point, 2, frozenset()))
        elif kind == "cgroup":
            options = rest.split(" ")[-1].split(",")
            found.append(CgroupMount(point, 1, frozenset(options) - {"rw", "ro"}))
    return found


def quota(cpu: float) -> int:
    """Microseconds of CPU per period; the kernel takes no less than 1000."""
    return max(1000, int(cpu * PERIOD))


def pids_of(directories: tuple[Path, ...]) -> set[int]:
    """Who is in any of these directories. Threads that are leaving are not listed: see `remove`."""
    found: set[int] = set()
    for directory in directories:
        with contextlib.suppress(FileNotFoundError, OSError):
            found.update(int(pid) for pid in (directory / "cgroup.procs").read_text().split())
    return found


def set_open_files(pids: Iterable[int], count: int) -> None:
    """Change RLIMIT_NOFILE of all these. Raises LimitUnenforceable: raising it takes CAP_SYS_RESOURCE (prlimit(2))."""
    for pid in pids:
        try:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, count))
        except ProcessLookupError:
            continue
        except PermissionError as error:
            raise LimitUnenforceable(
                "the open files of a running sandbox can't be changed here",
                hint="give the keeper CAP_SYS_RESOURCE, or keep open files as the slot was started with",
            ) from error


def kill_each(directories: tuple[Path, ...]) -> None:
    """SIGKILL to each process inside, by its number read this moment."""
    for pid in pids_of(directories):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def remove(directories: tuple[Path, ...]) -> bool:
    """Remove a group's directories; False when the kernel still holds one (call again a little later)."""
    gone = True
    for directory in directories:
        try:
            directory.rmdir()
        except FileNotFoundError:
            continue
        except OSError:  # EBUSY: a process is still leaving
            gone = False
    return gone


async def remove_soon(directories: tuple[Path, ...], timeout: float) -> None:
    """Remove a group whose processes are all killed. Raises SandboxFailed when that takes longer than `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not remove(directories):
        if time.monotonic() > deadline:
            raise SandboxFailed(f"the control group {directories[0]} can't be removed")
        await asyncio.sleep(_RETRY)
