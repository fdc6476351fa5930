"""Which version of control groups this machine has."""

from __future__ import annotations

from pathlib import Path

from hearth.drivers.bubblewrap.cgroup_v1 import GroupsV1
from hearth.drivers.bubblewrap.cgroup_v2 import GroupsV2, choose_base
from hearth.drivers.bubblewrap.cgroups import Groups, parse_mounts


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
