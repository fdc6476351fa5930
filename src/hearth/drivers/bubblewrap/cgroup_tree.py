"""Which version of control groups this machine has."""

from __future__ import annotations

from pathlib import Path

from hearth.drivers.bubblewrap.cgroup_v1 import GroupsV1
from hearth.drivers.bubblewrap.cgroup_v2 import GroupsV2, choose_base, delegated_base
from hearth.drivers.bubblewrap.cgroups import Groups, parse_mounts
from hearth.drivers.bubblewrap.own_limits import OwnGroups


def detect(instance: str) -> Groups:
    """The tree of `instance` on this machine.

    Raises FileNotFoundError when no cgroup hierarchy is mounted.
    """
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_text())
    unified = next((mount.point for mount in mounts if mount.version == 2), None)
    old = {name: mount.point for mount in mounts if mount.version == 1 for name in mount.controllers}
    if "memory" in old or "pids" in old or "cpu" in old:
        return GroupsV1(instance, old, unified)
    if unified is None:
        raise FileNotFoundError("no cgroup file system is mounted")
    return GroupsV2(instance, choose_base(unified, Path("/proc/self/cgroup").read_text()))


def detect_own(instance: str) -> OwnGroups:
    """What an ordinary user has: a part of the v2 tree that was delegated to him, and limits of processes."""
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_text())
    unified = next((mount.point for mount in mounts if mount.version == 2), None)
    if unified is None or any(
        mount.version == 1 for mount in mounts
    ):  # a hybrid machine's `unified` holds no limits
        return OwnGroups(None)
    base = delegated_base(unified, Path("/proc/self/cgroup").read_text())
    return OwnGroups(GroupsV2(instance, base) if base is not None else None)
