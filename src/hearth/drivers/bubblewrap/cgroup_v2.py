"""cgroup v2: one directory per sandbox (Documentation/admin-guide/cgroup-v2.rst).

A group that hands controllers to its children may hold no process itself, except the root of the whole tree. So where
systemd delegated a group to us, everything in it first moves into a leaf, and back when the last platform there ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hearth.core.finding import Finding
from hearth.core.launch import Limits, Usage
from hearth.drivers.bubblewrap import cgroups, delegation, files

_LIMITS = ("memory", "cpu", "pids")
LEAF = "hearth-platform"  # whoever was in the group; a platform's own processes are in LEAF-<instance>
_PATIENCE = 5.0  # seconds for processes that are just leaving
_DELEGATED = ("trusted.delegate", "user.delegate")  # set by systemd for Delegate=yes


@dataclass(frozen=True, slots=True)
class Base:
    """Below which directory the instance's own stands.

    Args:
        path: an existing group.
        leaf: its own processes must first move into a leaf below it.
    """

    path: Path
    leaf: bool


def choose_base(mount: Path, self_cgroup: str) -> Base:
    """Where this process may make groups.

    Args:
        mount: where the tree is mounted.
        self_cgroup: content of /proc/self/cgroup; its line ``0::/path`` counts.

    The delegated group of a systemd unit; else, as root, the root of the machine's tree (it alone has no cgroup.type); else,
    as in a container, the own group.
    """
    own = next((line[3:] for line in self_cgroup.splitlines() if line.startswith("0::")), "/")
    group = mount / own.lstrip("/")
    if _is_leaf(group):  # what a keeper moved, or what a supervisor started
        group = group.parent
    if group != mount and _delegated(group):
        return Base(group, leaf=True)
    if not (mount / "cgroup.type").exists():
        return Base(mount, leaf=False)
    return Base(group, leaf=True)


def delegated_base(mount: Path, self_cgroup: str) -> Base | None:
    """Where an ordinary user may make groups: his own group, when it was delegated to him; else None.

    Newer systemd says so in an attribute (user.delegate). Where it is silent, a group that he may write and in which there
    is nobody but this process and what it was started from is taken for one: nobody else is moved out of his place then.
    The leaf of a platform is below a group that its supervisor has judged so.

    Args:
        mount: where the tree is mounted.
        self_cgroup: content of /proc/self/cgroup.
    """
    own = next((line[3:] for line in self_cgroup.splitlines() if line.startswith("0::")), "/")
    group = mount / own.lstrip("/")
    judged = _is_leaf(group)
    if judged:
        group = group.parent
    controls = (group, group / "cgroup.procs", group / "cgroup.subtree_control")
    if group == mount or not all(os.access(path, os.W_OK) for path in controls):
        return None
    if judged or _delegated(group) or cgroups.pids_of((group,)) <= _ancestry():
        return Base(group, leaf=True)
    return None


def vacate(base: Base) -> None:
    """Move everybody in a group that is to hand controllers down into a leaf below it. Raises OSError.

    For a supervisor: the keeper of an ordinary user is in a process namespace, and can't name those outside.
    """
    with _locked(base.path):
        (base.path / LEAF).mkdir(mode=0o755, exist_ok=True)
        _move_all(base.path, base.path / LEAF)


def move_back(base: Base) -> None:
    """The opposite of `vacate`, when no platform is left there. What can't be moved stays: the next one uses it."""
    with _locked(base.path), contextlib.suppress(OSError):
        if all(child.name == LEAF for child in _children(base.path)):
            for name in _LIMITS:
                files.write_if_there(base.path / "cgroup.subtree_control", f"-{name}")
            _move_all(base.path / LEAF, base.path)
            cgroups.remove((base.path / LEAF,))


def _ancestry() -> set[int]:
    """This process and those that it comes from."""
    found, pid = set(), os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
    return found


def _is_leaf(group: Path) -> bool:
    return group.name == LEAF or group.name.startswith(f"{LEAF}-")


def _delegated(group: Path) -> bool:
    for name in _DELEGATED:
        with contextlib.suppress(OSError):
            if os.getxattr(group, name) == b"1":
                return True
    return False


class GroupV2(cgroups.DirectoryGroup):
    """One sandbox on v2."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.directories = (path,)
        self.joins = (str(path / "cgroup.procs"),)

    def set_limits(self, limits: Limits) -> None:
        if (self._path / "memory.max").exists():
            self._set_memory(limits.memory)
        if (self._path / "cpu.max").exists():
            files.write(self._path / "cpu.max", f"{cgroups.quota(limits.cpu)} {cgroups.PERIOD}")
        if (self._path / "pids.max").exists():
            files.write(self._path / "pids.max", str(limits.pids + cgroups.OWN_PIDS))

    def _set_memory(self, size: int) -> None:
        # A limit below what is used is taken by v2, and then kills. Refuse it as v1's kernel does.
        used = files.number(self._path / "memory.current")
        if size < used and files.number(self._path / "memory.max", used) > size:
            self._reclaim(used - size)
            if files.number(self._path / "memory.current") > size:
                raise OSError(errno.EBUSY, "more memory is used already", str(self._path))
        files.write(self._path / "memory.max", str(size))
        files.write_if_there(self._path / "memory.swap.max", "0")
        files.write_if_there(self._path / "memory.oom.group", "1")

    def _reclaim(self, amount: int) -> None:
        files.write_if_there(self._path / "memory.reclaim", str(amount))  # Linux 5.19

    def kill(self) -> None:
        if files.write_if_there(self._path / "cgroup.kill", "1"):  # Linux 5.14
            return
        frozen = files.write_if_there(self._path / "cgroup.freeze", "1")
        cgroups.kill_each(self.directories)
        if frozen:
            files.write_if_there(self._path / "cgroup.freeze", "0")

    def usage(self) -> Usage:
        current = files.number(self._path / "memory.current")
        return Usage(
            memory=current,
            memory_peak=files.number(self._path / "memory.peak", current),  # Linux 5.19
            cpu_seconds=files.field(self._path / "cpu.stat", "usage_usec") / 1e6,
            pids=files.number(self._path / "pids.current"),
            oom_kills=files.field(self._path / "memory.events", "oom_kill"),
        )


class GroupsV2:
    """``<base>/hearth-<instance>/<sandbox>``."""

    version = "v2"

    def __init__(self, instance: str, base: Base) -> None:
        self._base = base
        self._root = base.path / f"hearth-{instance}"
        self._added: frozenset[str] = frozenset()  # controllers that nobody had switched on before
        self.missing: dict[str, Finding] = {}

    def open(self) -> None:
        with _locked(self._base.path):
            before = _handed_down(self._base.path)
            self._enable(self._base.path)
            self._added = _handed_down(self._base.path) - before
            self._root.mkdir(mode=0o755, exist_ok=True)
        self._enable(self._root)
        there = _handed_down(self._root)
        lacking = [name for name in _LIMITS if name not in there]
        self.missing = delegation.not_given(lacking, self._base.leaf)

    def _enable(self, group: Path) -> None:
        if group == self._base.path and self._base.leaf:
            (group / LEAF).mkdir(mode=0o755, exist_ok=True)
            _move_all(group, group / LEAF)
        offered = set((group / "cgroup.controllers").read_text().split())
        for name in _LIMITS:  # one by one: one that is refused must not take the others with it
            if name in offered:
                files.write_if_there(group / "cgroup.subtree_control", f"+{name}")

    def offered(self) -> frozenset[str]:
        """Controllers that could be had here. Changes nothing."""
        have = (self._base.path / "cgroup.controllers").read_text().split()
        return frozenset(_LIMITS) & frozenset(have)

    @property
    def directories(self) -> tuple[Path, ...]:
        """The instance's own, whether or not it is there."""
        return (self._root,)

    @property
    def parents(self) -> tuple[Path, ...]:
        """The directory in which the instance's own stands."""
        return (self._base.path,)

    def create(self, name: str, limits: Limits) -> GroupV2:
        group = GroupV2(self._root / name)
        group.directories[0].mkdir(mode=0o755)
        try:
            group.set_limits(limits)
        except OSError:
            cgroups.remove(group.directories)
            raise
        return group

    def existing(self) -> dict[str, cgroups.Group]:
        if not self._root.is_dir():
            return {}
        return {entry.name: GroupV2(entry) for entry in sorted(self._root.iterdir()) if entry.is_dir()}

    def close(self) -> None:
        with _locked(self._base.path):
            if not cgroups.remove((self._root,)):
                return
            if self._base.leaf:
                if all(_is_leaf(child) for child in _children(self._base.path)):
                    with contextlib.suppress(
                        OSError
                    ):  # a leaf that stays does no harm: the next keeper uses it
                        self._give_back()
            elif not any(_has_sandboxes(child) for child in _children(self._base.path)):
                for name in self._added:
                    files.write_if_there(self._base.path / "cgroup.subtree_control", f"-{name}")

    def _give_back(self) -> None:
        """No sandboxes are here any more, of nobody: the group as it was found."""
        for name in _LIMITS:
            files.write_if_there(self._base.path / "cgroup.subtree_control", f"-{name}")
        _move_all(self._base.path / LEAF, self._base.path)
        cgroups.remove((self._base.path / LEAF,))


def _handed_down(group: Path) -> frozenset[str]:
    return frozenset((group / "cgroup.subtree_control").read_text().split())


def _has_sandboxes(group: Path) -> bool:
    """Whether it is an instance's (of any platform), whose sandboxes need what its parent hands down."""
    return group.name.startswith("hearth-") and not _is_leaf(group)


def _children(group: Path) -> list[Path]:
    return [entry for entry in group.iterdir() if entry.is_dir()]


def _move_all(group: Path, to: Path) -> None:
    """Until none is left: one that forked meanwhile has put its child where it was itself. Raises OSError."""
    deadline = time.monotonic() + _PATIENCE
    while pids := cgroups.pids_of((group,)) - {0}:  # 0: a process outside of this container
        if time.monotonic() > deadline:
            raise OSError(
                errno.EBUSY, f"processes {sorted(pids)[:5]} can't be moved to {to.name}", str(group)
            )
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                files.write(to / "cgroup.procs", str(pid))


@contextlib.contextmanager
def _locked(group: Path) -> Iterator[None]:
    """One keeper at a time changes a group that several may share."""
    fd = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
