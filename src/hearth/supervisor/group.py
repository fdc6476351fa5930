"""The control group of the platform's own processes: whoever is in it belongs to this platform, and nobody else.

The supervisor joins it before it starts anything, so all that it starts is inside; sandboxes move on into groups of their
own. A supervisor that was killed leaves its group behind, and the next one kills what is still in it: membership,
not a list of process numbers, says what that is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from hearth.core.errors import StartupFailed
from hearth.drivers.bubblewrap.cgroup_v2 import LEAF, Base, choose_base, delegated_base, move_back, vacate
from hearth.drivers.bubblewrap.cgroups import parse_mounts, pids_of, remove

_PATIENCE = 10.0  # seconds for killed processes to go


class PlatformGroup:
    """Made from the instance's id; needs root, or a delegated group.

    Args:
        path: the group's directory.
        home: the group in which this process was before.
        base: of an ordinary user: the group that was delegated to him.
    """

    def __init__(self, path: Path, home: Path, base: Base | None = None) -> None:
        self.path = path
        self._home = home
        self._base = base

    @classmethod
    def of(cls, instance: str) -> PlatformGroup | None:
        """The group of an instance on this machine; None where there is no tree to put it in."""
        mounts = parse_mounts(Path("/proc/self/mountinfo").read_text())
        own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
        unified = next((mount.point for mount in mounts if mount.version == 2), None)
        if unified is not None:
            base, home = unified, unified / own.get("", "/").lstrip("/")
            if not any(mount.version == 1 for mount in mounts):
                base = choose_base(unified, Path("/proc/self/cgroup").read_text()).path
            return cls(base / f"{LEAF}-{instance}", home)
        pids = next((mount.point for mount in mounts if "pids" in mount.controllers), None)
        if pids is None:
            return None
        return cls(pids / f"{LEAF}-{instance}", pids / own.get("pids", "/").lstrip("/"))

    @classmethod
    def own(cls, instance: str) -> PlatformGroup | None:
        """The group of an ordinary user's instance; None where no part of the cgroup v2 tree was delegated to him."""
        mounts = parse_mounts(Path("/proc/self/mountinfo").read_text())
        unified = next((mount.point for mount in mounts if mount.version == 2), None)
        if unified is None or any(mount.version == 1 for mount in mounts):
            return None
        groups = Path("/proc/self/cgroup").read_text()
        base = delegated_base(unified, groups)
        if base is None:
            return None
        home = next((line[3:] for line in groups.splitlines() if line.startswith("0::")), "/")
        return cls(base.path / f"{LEAF}-{instance}", unified / home.lstrip("/"), base)

    def clear(self) -> int:
        """Kill whatever an earlier life left inside; returns how many processes that was.

        Raises:
            StartupFailed: something in it can't be killed.
        """
        mine = os.getpid()
        found = pids_of((self.path,)) - {mine}
        deadline = time.monotonic() + _PATIENCE
        while left := pids_of((self.path,)) - {mine}:
            if time.monotonic() > deadline:
                raise StartupFailed(
                    f"processes of an earlier hearth don't end: {sorted(left)}", hint="look at them with ps"
                )
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)  # before the platform runs: there is nothing else to do
        return len(found)

    def enter(self) -> None:
        """Make it and move this process into it. Raises OSError."""
        if self._base is not None:
            vacate(self._base)
        self.path.mkdir(mode=0o755, exist_ok=True)
        _move(self.path)

    def leave(self) -> None:
        """Move back and remove it; at the very end, when all others have gone."""
        # The old group may be gone, or hand controllers down by now and so hold no processes itself.
        for group in (self._home, self.path.parent, self.path.parent / LEAF):
            try:
                _move(group)
            except OSError:
                continue
            break
        deadline = time.monotonic() + _PATIENCE
        while not remove((self.path,)) and time.monotonic() < deadline:
            time.sleep(0.01)
        if self._base is not None:
            move_back(self._base)


def limits_of(pid: int, proc: Path = Path("/proc")) -> frozenset[str]:
    """The limits that a running platform's group of cgroup v2 gives to its sandboxes; none where it has no such group.

    Args:
        pid: any process of the platform's own.
    """
    mounts = parse_mounts((proc / "self/mountinfo").read_text())
    unified = next((mount.point for mount in mounts if mount.version == 2), None)
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
        group = next((line[3:] for line in lines if line.startswith("0::")), "/")
        if unified is None or not group.rpartition("/")[2].startswith(f"{LEAF}-"):
            return frozenset()
        home = (unified / group.lstrip("/")).parent
        return frozenset((home / "cgroup.subtree_control").read_text().split())
    except OSError:
        return frozenset()


def _move(group: Path) -> None:
    fd = os.open(group / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(os.getpid()).encode())
    finally:
        os.close(fd)
