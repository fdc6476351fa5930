"""What sandboxes need of this machine, found out by trying, and the command that mends what is missing."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from hearth.core.finding import Finding, note, ok, refused
from hearth.drivers.bubblewrap import cgroup_tree
from hearth.linux.commands import by_root, install
from hearth.linux.libc import libc

_SEARCH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
_PACKAGES = {"sh": "dash", "setpriv": "util-linux", "unshare": "util-linux", "bwrap": "bubblewrap"}
_TRIAL = "from hearth.linux.userns import enter; enter()"  # what the keeper of an ordinary user does first
_NOBODY = 65534
_TIMEOUT = 30.0  # seconds
# (kernel setting, value that forbids, value that allows): Ubuntu has the first since 23.10, Debian the second
_SWITCHES = (
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("user.max_user_namespaces", "0", "28633"),
)
_SYSCTL_FILE = "/etc/sysctl.d/60-hearth.conf"
_IN_CONTAINER = (
    "in a container, start that with --security-opt seccomp=unconfined "
    "--security-opt apparmor=unconfined --security-opt systempaths=unconfined"
)
_MOUNT_SETATTR, _MOUNT_SETATTR_SINCE = 442, "5.12"
# linux/capability.h; what root's keeper and supervisor use
_CAPABILITIES = {0: "CHOWN", 1: "DAC_OVERRIDE", 5: "KILL", 6: "SETGID", 7: "SETUID", 21: "SYS_ADMIN"}


def findings(root: bool) -> list[Finding]:
    """All without which no sandbox can be made. Takes some ten milliseconds: a user namespace is tried.

    Args:
        root: what root's platform needs; else an ordinary user's.
    """
    found = [kernel(), *([privileges()] if root else []), programs(), seccomp()]
    return [*found, user_namespaces(root), cgroup_tree.control_groups(root)]


def check(root: bool) -> None:
    """Raise StartupFailed when functions can't be isolated on this machine, with the command that mends it."""
    for finding in findings(root):
        if not finding.holds:
            raise finding.error(
                "functions can't be isolated on this machine: ",
                "or, for development only and without any isolation: --isolation process",
            )


def kernel() -> Finding:
    """Whether it has the system calls that mounts of sandboxes are made by."""
    name, release = "kernel", os.uname().release
    call = libc().syscall
    call.restype = ctypes.c_long
    arguments = (ctypes.c_long(_MOUNT_SETATTR), ctypes.c_long(-1), b"", *(ctypes.c_long(0),) * 3)
    if call(*arguments) < 0 and ctypes.get_errno() == errno.ENOSYS:
        return refused(
            name, f"{release}: it has no mount_setattr; Linux {_MOUNT_SETATTR_SINCE} or newer does"
        )
    return ok(name, release)


def privileges(status: Path = Path("/proc/self/status")) -> Finding:
    """Whether root has what makes it root: in containers it often lacks some."""
    name = "privileges"
    line = next(line for line in status.read_text().splitlines() if line.startswith("CapEff:"))
    have = int(line.split()[1], 16)
    lacking = [word for number, word in _CAPABILITIES.items() if not have >> number & 1]
    if lacking:
        says = (
            f"root lacks {', '.join(f'CAP_{word}' for word in lacking)} here (a container needs --privileged)"
        )
        return refused(name, says)
    return ok(name, "root")


def programs() -> Finding:
    """bubblewrap and what it is started by."""
    found = _search()
    missing = sorted({_PACKAGES[name] for name, path in found.items() if path is None})
    if missing:
        return refused("bubblewrap", f"sandboxes need {', '.join(missing)}", install(*missing))
    return ok("bubblewrap", found["bwrap"] or "")


def find_tools() -> dict[str, str]:
    """Paths of sh, setpriv, unshare and bwrap. Raises StartupFailed when one is missing."""
    finding = programs()
    if not finding.holds:
        raise finding.error()
    return {name: path for name, path in _search().items() if path is not None}


def _search() -> dict[str, str | None]:
    return {name: shutil.which(name, path=_SEARCH) for name in _PACKAGES}


def seccomp() -> Finding:
    """The library that makes the filters of system calls."""
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return refused("libseccomp", "libseccomp2 is not there", install("libseccomp2"))
    return ok("libseccomp", "libseccomp.so.2")


def user_namespaces(root: bool, sysctl: Path = Path("/proc/sys")) -> Finding:
    """Whether a sandbox's uid may make a user namespace and mount in it: tried in a process of its own.

    Root's sandboxes are ordinary users too: bubblewrap is started as one.

    Args:
        root: try it as root's sandboxes are started; else as an ordinary user's keeper.
        sysctl: where the kernel's settings are, which say why when it may not.
    """
    name = "user namespaces"
    command = _as_nobody() if root else [sys.executable, "-I", "-c", _TRIAL]
    if not command:
        return note(name, "not tried: bubblewrap is not there")
    try:
        done = subprocess.run(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return refused(name, f"they could not be tried: {error}")
    if done.returncode == 0:
        return ok(name, "sandboxes may make them")
    said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    said = re.sub(r"^(OSError|PermissionError|bwrap): (\[Errno \d+\] )?", "", said)
    says = f"ordinary users may not make them here: {said}"
    mend = _allow(sysctl)
    return refused(name, says if mend else f"{says}; {_IN_CONTAINER}", mend)


def _as_nobody() -> list[str]:
    """bubblewrap as root's sandboxes have it, as a user who owns nothing; empty where there is none."""
    tools = _search()
    bwrap, setpriv, shell = tools["bwrap"], tools["setpriv"], tools["sh"]
    if bwrap is None or setpriv is None or shell is None:
        return []
    become = [setpriv, f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--"]
    inside = ["--unshare-user", "--uid", "1000", "--gid", "1000", "--ro-bind", "/", "/", "--"]
    return [*become, bwrap, *inside, shell, "-c", "exit 0"]


def _allow(sysctl: Path) -> str:
    """The command that changes the settings of the kernel that forbid it; empty where none does."""
    lines = []
    for setting, forbids, allows in _SWITCHES:
        try:
            value = (sysctl / setting.replace(".", "/", 1)).read_text().strip()
        except OSError:
            continue
        if value == forbids:
            lines.append(f"{setting}={allows}")
    if not lines:
        return ""
    kept = [f"echo {line} >> {_SYSCTL_FILE}" for line in lines]
    return by_root(" && ".join([*kept, f"sysctl -p {_SYSCTL_FILE}"]))
