"""Which version of control groups this machine has."""

from __future__ import annotations

import os
from pathlib import Path

from hearth.core.finding import Finding, note, ok, refused
from hearth.drivers.bubblewrap import delegation
from hearth.drivers.bubblewrap.cgroup_v1 import GroupsV1
from hearth.drivers.bubblewrap.cgroup_v2 import GroupsV2, choose_base, delegated_base
from hearth.drivers.bubblewrap.cgroups import CgroupMount, Groups, parse_mounts
from hearth.drivers.bubblewrap.own_limits import OwnGroups
from hearth.linux.commands import by_root

_MOUNT = "mkdir -p /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup"
_ANY = "any"  # an instance for a look at what does not depend on it


def detect(instance: str) -> Groups:
    """The tree of `instance` on this machine.

    Raises FileNotFoundError when no cgroup hierarchy is mounted.
    """
    mounts = _mounts()
    unified = next((mount.point for mount in mounts if mount.version == 2), None)
    old = {name: mount.point for mount in mounts if mount.version == 1 for name in mount.controllers}
    if "memory" in old or "pids" in old or "cpu" in old:
        return GroupsV1(instance, old, unified)
    if unified is None:
        raise FileNotFoundError("no cgroup file system is mounted")
    return GroupsV2(instance, choose_base(unified, Path("/proc/self/cgroup").read_text()))


def detect_own(instance: str) -> OwnGroups:
    """What an ordinary user has: a part of the v2 tree that was delegated to him, and limits of processes."""
    mounts = _mounts()
    unified = next((mount.point for mount in mounts if mount.version == 2), None)
    old = any(mount.version == 1 for mount in mounts)  # a hybrid machine's `unified` holds no limits
    base = None
    if unified is not None and not old:
        base = delegated_base(unified, Path("/proc/self/cgroup").read_text())
    inner = GroupsV2(instance, base) if base is not None else None
    return OwnGroups(inner, {} if inner is not None else delegation.nothing_own(old))


def control_groups(root: bool) -> Finding:
    """Which control groups a platform that is started as this process was would have. Changes nothing."""
    name = "control groups"
    if not root:
        own = detect_own(_ANY)
        given = ", ".join(sorted(own.offered())) if own.directories else ""
        return ok(name, f"{own.version}: {given}") if given else note(name, "none of this user's own")
    try:
        groups = detect(_ANY)
    except FileNotFoundError as error:
        return refused(name, str(error), by_root(_MOUNT))
    for parent in groups.parents:
        if not os.access(parent, os.W_OK):
            return refused(name, f"{parent} can't be written", by_root(f"mount -o remount,rw {parent}"))
    return ok(name, f"{groups.version}: {', '.join(sorted(groups.offered()))}")


def _mounts() -> list[CgroupMount]:
    return parse_mounts(Path("/proc/self/mountinfo").read_text())
