"""What a platform that was killed has left, as its next `hearth up` finds it. Looked at only: what removes it is each part's own."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from hearth.bootstrap.isolation import docker_run
from hearth.config import environment, runtime_dir
from hearth.core.finding import Finding, note, ok
from hearth.drivers.bubblewrap import cgroup_tree
from hearth.drivers.bubblewrap.cgroups import pids_of
from hearth.drivers.common import loop
from hearth.drivers.common.uids import left_locks
from hearth.egress import leftovers as networks
from hearth.supervisor import rundir
from hearth.supervisor.datadir import is_locked
from hearth.supervisor.group import PlatformGroup

NAME = "leftovers"
_INSTANCE = re.compile(r"hearth-(?:platform-)?([0-9a-f]{8})")


def left(instance: str, data: Path) -> tuple[list[str], set[int]]:
    """What is left of an instance on whose data directory nobody runs, in words, and the processes among it."""
    root = os.geteuid() == 0
    found: list[str] = []
    group = PlatformGroup.of(instance) if root else PlatformGroup.own(instance)
    pids = set() if group is None else pids_of((group.path,))
    if group is not None and group.path.exists():
        found.append(_group(group.path, pids))
    with contextlib.suppress(FileNotFoundError):
        groups = cgroup_tree.detect(instance) if root else cgroup_tree.detect_own(instance)
        inside = groups.existing()
        theirs = {pid for one in inside.values() for pid in one.pids()}
        pids |= theirs
        ours = [path for path in groups.directories if path.exists()]
        for path in ours[:1]:  # v1 has one for each controller
            found.append(f"{_group(path, theirs)} and {len(inside)} below it")
    with contextlib.suppress(OSError):  # there is none
        if not root and is_locked(data / "alive"):
            found.append("processes that are just ending")
    folders = (
        [Path(f"/run/hearth-{instance}"), docker_run(instance)] if root else _own_folders(instance, data)
    )
    found += [f"folder {path}" for path in folders if path.exists()]
    found += [f"mount {point}" for point in _mounts(instance)]
    found += [f"loop device {name}" for name in loop.held_below(data / "disks")]
    if root:
        found += networks.left(instance)
        found += [f"lock {path}" for path in left_locks(instance)]
    return found, pids


def leftovers(found: list[str]) -> Finding:
    if not found:
        return ok(NAME, "none")
    return note(
        NAME, f"of an earlier platform here; the next start removes them: {', '.join(found)}", "hearth up"
    )


def of_others(instance: str | None) -> list[Finding]:
    """Dead platforms of other data directories, as far as root sees them."""
    if os.geteuid() != 0:
        return []
    names = {path.name for path in Path("/run").glob("hearth-*")}
    group = PlatformGroup.of(instance or "00000000")
    if group is not None:
        names |= {path.name for path in group.path.parent.glob("hearth-*")}
    seen = {match[1] for name in names if (match := _INSTANCE.fullmatch(name)) is not None}
    dead = sorted(seen - _alive() - {instance})
    if not dead:
        return []
    says = f"of platforms on other data directories, whose next start removes them: {', '.join(dead)}"
    return [note(f"{NAME} of others", says)]


def _state_of(entry: Path) -> str:
    """Of a process (proc(5), /proc/PID/stat): ``Z`` and ``X`` have ended."""
    return (entry / "stat").read_text().rpartition(")")[2].split()[0]


def _alive() -> set[str]:
    """Instances that have a process, wherever their control groups are. One that has ended and waits for its parent is none."""
    found: set[str] = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and _state_of(entry) not in "ZX":
                groups = re.split(r"[/\n]", (entry / "cgroup").read_text())
                found.update(match[1] for name in groups if (match := _INSTANCE.fullmatch(name)) is not None)
    return found


def _group(path: Path, pids: set[int]) -> str:
    return f"control group {path}" + (f" with {len(pids)} processes" if pids else "")


def _own_folders(instance: str, data: Path) -> list[Path]:
    return rundir.places(instance, data, runtime_dir(environment()))


def _mounts(instance: str) -> list[str]:
    """Mount points of its run directory, where this process sees them (proc(5), /proc/PID/mountinfo)."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split(" ")[4] for line in lines]
    return [point for point in points if f"hearth-{instance}" in point.split("/")]
