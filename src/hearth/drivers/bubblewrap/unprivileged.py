"""What an ordinary user may do on this machine, found out by trying, and the command that mends what he may not."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from hearth.core.errors import StartupFailed
from hearth.core.finding import Finding
from hearth.drivers.bubblewrap import cgroup_tree
from hearth.drivers.bubblewrap.machine import find_tools

_TRIAL = "from hearth.linux.userns import enter; enter()"  # what the keeper does first
_TIMEOUT = 30.0  # seconds
# (kernel setting, value that forbids, value that allows, who has it)
_SWITCHES = (
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0", "Ubuntu since 23.10"),
    ("kernel.unprivileged_userns_clone", "0", "1", "Debian"),
    ("user.max_user_namespaces", "0", "28633", "every Linux"),
)


def user_namespaces(sysctl: Path = Path("/proc/sys")) -> Finding:
    """Whether this user may make a user namespace and mount in it: tried in a process of its own.

    Args:
        sysctl: where the kernel's settings are, which say why when he may not.
    """
    name = "user namespaces"
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _TRIAL],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(name, False, f"they could not be tried: {error}", needed=True)
    if done.returncode == 0:
        return Finding(name, True, "an ordinary user may make them")
    said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1].removeprefix(
        "OSError: "
    )
    return Finding(
        name, False, f"an ordinary user may not make them here: {said}", _mend(sysctl), needed=True
    )


def _mend(sysctl: Path) -> str:
    for setting, forbids, allows, _ in _SWITCHES:
        try:
            value = (sysctl / setting.replace(".", "/", 1)).read_text().strip()
        except OSError:
            continue
        if value == forbids:
            return f"echo {setting}={allows} | sudo tee /etc/sysctl.d/60-hearth.conf && sudo sysctl --system"
    return (
        "run hearth as root; in a container, start that with --security-opt seccomp=unconfined "
        "--security-opt apparmor=unconfined --security-opt systempaths=unconfined"
    )


def programs() -> Finding:
    """bubblewrap and what it is started by."""
    try:
        found = find_tools()
    except StartupFailed as error:
        return Finding("bubblewrap", False, error.message, f"sudo {error.hint}", needed=True)
    return Finding("bubblewrap", True, found["bwrap"])


def seccomp() -> Finding:
    """The library that makes the filters of system calls."""
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return Finding(
            "seccomp", False, "libseccomp2 is not there", "sudo apt-get install libseccomp2", needed=True
        )
    return Finding("seccomp", True, "libseccomp.so.2")


def control_groups() -> list[Finding]:
    """Which limits an ordinary user's platform, started as this process was, would hold."""
    groups = cgroup_tree.detect_own("doctor")
    mend = "systemd-run --user --scope -p Delegate=yes hearth up"
    unit = "sudo systemd-run --uid=$USER -p Delegate=yes hearth up"
    found = [Finding("pids", True, "held by RLIMIT_NPROC in a user namespace of each sandbox's own")]
    offered = groups.offered()
    for limit in ("memory", "cpu"):
        if limit in offered:
            found.append(Finding(limit, True, f"held by {groups.version}"))
        else:
            how = unit if limit == "cpu" and offered else mend
            found.append(Finding(limit, False, groups.why_not(limit), how))
    return found


def findings() -> list[Finding]:
    """All that decides what an ordinary user's sandboxes are held to. Takes about half a second: it tries things."""
    found = [programs(), seccomp(), user_namespaces(), *control_groups()]
    who = f"functions run as user {os.getuid()}, as the platform does; namespaces and filters keep them apart"
    found.append(
        Finding("host uids", False, who, "run hearth as root: each sandbox then has a user of its own")
    )
    return found


def check_unprivileged() -> None:
    """Raise StartupFailed when an ordinary user's functions can't be isolated on this machine."""
    for finding in (programs(), seccomp(), user_namespaces()):
        if not finding.holds:
            raise StartupFailed(
                f"functions can't be isolated on this machine: {finding.says}",
                hint=f"{finding.mend}; or, for development only and without any isolation: --isolation process",
            )
