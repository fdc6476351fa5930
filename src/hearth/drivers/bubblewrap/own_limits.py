"""Limits of an ordinary user's sandboxes: what cgroup v2 delegation gives, and resource limits of processes for the rest.

RLIMIT_NPROC is counted per user *and user namespace* (since Linux 5.14), and what is set inside a new one binds all that
happens below it (kernel/ucount.c). So each sandbox has a user namespace around it, and the limit that its first process gets there
is a real one. RLIMIT_DATA is counted per process, leaves out shared memory and /tmp, and counts what is mapped, not what is
used: it stops the runaway heap and holds nothing, so it has room to spare.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterable, Mapping
from pathlib import Path

from hearth.core.errors import LimitUnenforceable
from hearth.core.finding import Finding
from hearth.core.launch import Limits, Usage
from hearth.drivers.bubblewrap import cgroups
from hearth.drivers.bubblewrap.cgroup_v2 import GroupsV2
from hearth.drivers.bubblewrap.cgroups import Group
from hearth.drivers.bubblewrap.kin import Kin

# Bytes. Stacks of threads and what a runtime maps ahead count as data, though nothing is in them: an empty Node 24 has
# 573 MiB of it and uses 40.
DATA_SLACK = 1 << 30
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class OwnGroup:
    """One sandbox of an ordinary user.

    Args:
        inner: its control group, where there is one.
        heap: RLIMIT_DATA stands in for a memory limit.
    """

    def __init__(self, inner: Group | None, heap: bool) -> None:
        self._inner = inner
        self._heap = heap
        self._kin: Kin | None = None
        self._peak = 0

    @property
    def joins(self) -> tuple[str, ...]:
        return () if self._inner is None else self._inner.joins

    @property
    def directories(self) -> tuple[Path, ...]:
        return () if self._inner is None else self._inner.directories

    def follow(self, pid: int) -> None:
        """See `cgroups.Group`."""
        self._kin = Kin(pid)

    def hold(self, pid: int, limits: Limits, final: bool) -> None:
        """See `cgroups.Group`."""
        count = limits.pids + cgroups.OWN_PIDS
        resource.prlimit(pid, resource.RLIMIT_NPROC, (count, count))
        if self._heap and final:  # who has lowered it can't raise it again, so a slot's comes at attach
            _set_data([pid], limits.memory)

    def set_limits(self, limits: Limits) -> None:
        if self._inner is not None:
            self._inner.set_limits(limits)
        pids = self.pids()
        if self._heap:
            _set_data(pids, limits.memory)
        _set_count(pids, limits.pids + cgroups.OWN_PIDS)

    def pids(self) -> set[int]:
        inner = set() if self._inner is None else self._inner.pids()
        return inner if self._kin is None else inner | self._kin.pids()

    def kill(self) -> None:
        if self._kin is not None:
            self._kin.kill()
        if self._inner is not None:
            self._inner.kill()

    def close(self) -> None:
        if self._kin is not None:
            self._kin.close()
            self._kin = None

    def usage(self) -> Usage:
        """Without a control group: what its living processes have now, shared pages counted for each."""
        if self._inner is not None:
            return self._inner.usage()
        pids = self.pids()
        memory = sum(map(_resident, pids))
        self._peak = max(self._peak, memory)
        return Usage(memory, self._peak, sum(map(_cpu_seconds, pids)), len(pids))


class OwnGroups:
    """Groups of an ordinary user.

    Args:
        inner: a delegated part of the cgroup v2 tree, or None.
        without: what is missing where there is none.
    """

    def __init__(self, inner: GroupsV2 | None, without: Mapping[str, Finding]) -> None:
        self._inner = inner
        self._without = dict(without)
        self.version = "v2, delegated" if inner is not None else "none"
        self.missing: dict[str, Finding] = {}
        self._heap = True

    def open(self) -> None:
        if self._inner is not None:
            self._inner.open()
            self.missing = {name: why for name, why in self._inner.missing.items() if name != "pids"}
        else:
            self.missing = self._without
        self._heap = "memory" in self.missing

    def offered(self) -> frozenset[str]:
        """The limits that could be held here. Changes nothing."""
        return frozenset({"pids"}) | (frozenset() if self._inner is None else self._inner.offered())

    @property
    def directories(self) -> tuple[Path, ...]:
        """The instance's own, whether or not they are there."""
        return () if self._inner is None else self._inner.directories

    @property
    def parents(self) -> tuple[Path, ...]:
        """The directories in which the instance's own stand."""
        return () if self._inner is None else self._inner.parents

    def create(self, name: str, limits: Limits) -> OwnGroup:
        return OwnGroup(None if self._inner is None else self._inner.create(name, limits), self._heap)

    def existing(self) -> dict[str, Group]:
        return {} if self._inner is None else self._inner.existing()

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()


def _set_data(pids: Iterable[int], memory: int) -> None:
    size = memory + DATA_SLACK
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            hard = resource.prlimit(pid, resource.RLIMIT_DATA)[1]
            size = size if hard == resource.RLIM_INFINITY else min(size, hard)
            resource.prlimit(pid, resource.RLIMIT_DATA, (size, size))


def _set_count(pids: Iterable[int], count: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            if resource.prlimit(pid, resource.RLIMIT_NPROC)[1] < count:
                raise LimitUnenforceable(
                    "an ordinary user's sandbox can't be given more processes than it was started with"
                )
            resource.prlimit(pid, resource.RLIMIT_NPROC, (count, count))


def _resident(pid: int) -> int:
    """Bytes (proc(5), /proc/PID/statm, field 2)."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0


def _cpu_seconds(pid: int) -> float:
    """Of a process and its children that have ended.

    proc(5), /proc/PID/stat, fields 14 to 17, in hundredths; /proc/PID/schedstat is finer, but of one thread only.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = sum(map(int, fields[11:15])) / _TICKS
        return max(ticks, int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9)
    except (OSError, ValueError, IndexError):
        return 0.0
