"""cgroup v1: one directory per controller, and one in the `unified` tree of a hybrid machine for its cgroup.kill.

Facts from Documentation/admin-guide/cgroup-v1 and from trying: memory.failcnt stays 0 when tmpfs pages are what
is too much, so `oom_kill` in memory.oom_control is what tells of a kill; memory.memsw must be raised before and
lowered after memory.limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hearth.core.finding import Finding, not_held
from hearth.core.launch import Limits, Usage
from hearth.drivers.bubblewrap import cgroups, files
from hearth.linux.commands import by_root

_LIMITS = ("memory", "cpu", "pids")
_EXTRA = ("cpuacct", "freezer")


class GroupV1(cgroups.DirectoryGroup):
    """One sandbox on v1.

    Args:
        of: controller to this sandbox's directory; ``unified`` is the v2 tree's, where there is one.
    """

    def __init__(self, of: Mapping[str, Path]) -> None:
        self._of = dict(of)
        self.directories = tuple(dict.fromkeys(self._of.values()))
        self.joins = tuple(str(directory / "cgroup.procs") for directory in self.directories)

    def set_limits(self, limits: Limits) -> None:
        memory = self._of.get("memory")
        if memory is not None:
            self._set_memory(memory, limits.memory)
        cpu = self._of.get("cpu")
        if cpu is not None:
            files.write(cpu / "cpu.cfs_period_us", str(cgroups.PERIOD))
            files.write(cpu / "cpu.cfs_quota_us", str(cgroups.quota(limits.cpu)))
        pids = self._of.get("pids")
        if pids is not None:
            files.write(pids / "pids.max", str(limits.pids + cgroups.OWN_PIDS))

    def _set_memory(self, group: Path, size: int) -> None:
        limit, both = group / "memory.limit_in_bytes", group / "memory.memsw.limit_in_bytes"
        raising = size > files.number(limit)
        swap = both.exists()
        if swap and raising and size > files.number(both):
            files.write(both, str(size))
        files.write(limit, str(size))
        if swap:
            files.write(both, str(size))  # memory and swap together: so no swap
        else:
            files.write_if_there(group / "memory.swappiness", "0")

    def kill(self) -> None:
        unified = self._of.get("unified")
        if unified is not None and files.write_if_there(unified / "cgroup.kill", "1"):
            return
        freezer = self._of.get("freezer")
        frozen = freezer is not None and files.write_if_there(freezer / "freezer.state", "FROZEN")
        cgroups.kill_each(self.directories)
        if frozen and freezer is not None:
            files.write_if_there(freezer / "freezer.state", "THAWED")

    def usage(self) -> Usage:
        none = Path("/nonexistent")
        memory, pids = self._of.get("memory", none), self._of.get("pids", none)
        cpu = self._of.get("cpuacct", none)
        return Usage(
            memory=files.number(memory / "memory.usage_in_bytes"),
            memory_peak=files.number(memory / "memory.max_usage_in_bytes"),
            cpu_seconds=files.number(cpu / "cpuacct.usage") / 1e9,
            pids=files.number(pids / "pids.current"),
            oom_kills=files.field(memory / "memory.oom_control", "oom_kill"),
        )


class GroupsV1:
    """``/sys/fs/cgroup/<controller>/hearth-<instance>/<sandbox>``.

    Args:
        instance: of the data directory.
        mounted: controller to its mount point.
        unified: mount point of a hybrid machine's v2 tree, or None. It holds no limits there.
    """

    def __init__(self, instance: str, mounted: Mapping[str, Path], unified: Path | None) -> None:
        wanted = {name: mounted[name] for name in (*_LIMITS, *_EXTRA) if name in mounted}
        if unified is not None:
            wanted["unified"] = unified
        self._roots = {name: point / f"hearth-{instance}" for name, point in wanted.items()}
        self.version = "v1+unified" if unified is not None else "v1"
        self.missing = {name: _not_mounted(name) for name in _LIMITS if name not in mounted}

    def open(self) -> None:
        for name, root in self._roots.items():
            root.mkdir(mode=0o755, exist_ok=True)
            if name == "memory":
                files.write_if_there(root / "memory.use_hierarchy", "1")  # always so since Linux 5.11
        memory = self._roots.get("memory")
        if memory is not None and not (memory / "memory.memsw.limit_in_bytes").exists() and _swap_is_on():
            self.missing["swap"] = not_held(
                "swap",
                "swap is on, and this kernel doesn't count it unless it is booted with swapaccount=1",
                by_root("swapoff -a"),
            )

    def offered(self) -> frozenset[str]:
        """The limits that could be held here. Changes nothing."""
        return frozenset(_LIMITS) & frozenset(self._roots)

    @property
    def directories(self) -> tuple[Path, ...]:
        """The instance's own, whether or not they are there."""
        return tuple(dict.fromkeys(self._roots.values()))

    @property
    def parents(self) -> tuple[Path, ...]:
        """The directories in which the instance's own stand."""
        return tuple(directory.parent for directory in self.directories)

    def create(self, name: str, limits: Limits) -> GroupV1:
        group = self._group(name)
        try:
            for directory in group.directories:
                directory.mkdir(mode=0o755)
            group.set_limits(limits)
        except OSError:
            cgroups.remove(group.directories)
            raise
        return group

    def existing(self) -> dict[str, cgroups.Group]:
        names = {
            entry.name
            for root in self._roots.values()
            if root.is_dir()
            for entry in root.iterdir()
            if entry.is_dir()
        }
        return {name: self._group(name) for name in sorted(names)}

    def close(self) -> None:
        cgroups.remove(self.directories)

    def _group(self, name: str) -> GroupV1:
        return GroupV1({controller: root / name for controller, root in self._roots.items()})


def _not_mounted(name: str) -> Finding:
    place = f"/sys/fs/cgroup/{name}"
    mend = by_root(f"mkdir -p {place} && mount -t cgroup -o {name} none {place}")
    return not_held(name, f"the cgroup controller {name} is not mounted", mend)


def _swap_is_on() -> bool:
    return len(Path("/proc/swaps").read_text().splitlines()) > 1
