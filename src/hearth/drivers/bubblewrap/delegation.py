"""Why a control group is not to be had here, and the command by which it is: what systemd hands on, and to whom.

systemd gives a group of its own to a unit or scope with Delegate=yes; an ordinary user's manager can hand on only what it was
given itself (mostly memory and pids), the system's manager everything.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from pathlib import Path

from hearth.core.finding import Finding, not_held
from hearth.linux.commands import by_root, has_systemd

NOT_GIVEN = "the cgroup controller {} is not given to this group"
NOT_OWN = "an ordinary user has no control group of his own here"
_OLD = "this machine's control groups are of version 1, and no part of them can be an ordinary user's"
_OFF = "the cgroup controller {} is switched off in this kernel (cgroup_disable, or cgroup_enable=memory missing at boot)"


def not_given(limits: Iterable[str], unit: bool) -> dict[str, Finding]:
    """Controllers that a group of the v2 tree does not have.

    Args:
        limits: ``memory``, ``cpu``, ``pids``.
        unit: the group is somebody's unit; else the root of the tree.
    """
    lacking = tuple(limits)
    if os.geteuid() != 0:
        mend = own_group(lacking)
    elif unit and has_systemd():
        mend = "systemd-run -p Delegate=yes hearth up"
    else:
        mend = ""
    why = NOT_GIVEN if unit else _OFF
    return {name: not_held(name, why.format(name), mend) for name in lacking}


def nothing_own(old: bool) -> dict[str, Finding]:
    """What an ordinary user who was given no group can't hold; `old`: the controllers are in trees of version 1."""
    limits = ("memory", "cpu")
    mend = by_root("hearth up") if old else own_group(limits)
    return {name: not_held(name, _OLD if old else NOT_OWN, mend) for name in limits}


def own_group(limits: Iterable[str], tree: Path = Path("/sys/fs/cgroup")) -> str:
    """The command that starts a platform of this user's in a group that has these controllers.

    Args:
        limits: ``memory``, ``cpu``.
        tree: where systemd mounts the v2 tree.
    """
    if not has_systemd():
        return by_root("hearth up")
    uid = os.getuid()
    manager = tree / "user.slice" / f"user-{uid}.slice" / f"user@{uid}.service"
    try:
        handed_on = set((manager / "cgroup.controllers").read_text().split())
    except OSError:
        handed_on = set()
    if set(limits) <= handed_on:
        # Who became this user by su or sudo has no XDG_RUNTIME_DIR, by which his manager is found.
        return f"XDG_RUNTIME_DIR=/run/user/{uid} systemd-run --user --scope -p Delegate=yes hearth up"
    return by_root(f"systemd-run --uid={_name(uid)} -p Delegate=yes hearth up")


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
