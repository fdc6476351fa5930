"""`hearth doctor`: all that `hearth up` would find on this machine, and on a data directory, without a platform."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

import hearth
from hearth.bootstrap import isolation, leftovers, trial
from hearth.build import look as toolchains
from hearth.build.toolchains import machine_places, places_of
from hearth.core import disk
from hearth.core.finding import Finding, not_held, note, ok
from hearth.core.launch import LIMITS, Probe, Toolchain, without_network
from hearth.core.settings import Settings
from hearth.drivers.bubblewrap import needs
from hearth.drivers.common.disk import disks_of_builds
from hearth.drivers.process.driver import NOTHING_HELD
from hearth.egress import machine, own_machine
from hearth.security import rootkey
from hearth.store import look as database
from hearth.supervisor import ports
from hearth.supervisor.group import limits_of
from hearth.supervisor.look import Place, look

_HELD = {
    "memory": "tried: a sandbox that took more was killed",
    "cpu": "tried: a busy sandbox got what it was allowed",
    "pids": "tried: a sandbox could start no more processes than it was allowed",
    "tmp": "tried: /tmp could not be filled beyond its size",
    "network": "tried: the rules are in force",
    "seccomp": "tried: system calls are filtered",
}


def examine(settings: Settings) -> list[Finding]:
    """Look at everything, in the order in which it is told. Takes some seconds: sandboxes are made, and removed again.

    Args:
        settings: as `hearth up` would have them.
    """
    signal.signal(signal.SIGTERM, _end)  # as Ctrl-C: what is being tried is tidied up first
    settings = isolation.decided(settings)
    place = look(settings.data_dir)
    fetched = settings.data_dir / "toolchains" if place.finding.holds else None
    if settings.isolation == "docker":
        isolated, probe = _docker(settings, place)
        languages, _ = toolchains.look(places_of(probe) if probe is not None else machine_places(), fetched)
    else:
        languages, python = toolchains.look(machine_places(), fetched)
        isolated = [NOTHING_HELD] if settings.isolation == "process" else _bubblewrap(place, python)
    version = ".".join(str(part) for part in sys.version_info[:3])
    return [
        ok("hearth", f"{hearth.__version__} on Python {version} ({sys.executable})"),
        *isolated,
        *languages,
        *_platform(settings, place),
    ]


def _end(*_: int | FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _docker(settings: Settings, place: Place) -> tuple[list[Finding], Probe | None]:
    """Looked at, and tried by containers of a driver of its own, which it removes again."""
    needed = isolation.docker_findings(settings)
    if not all(finding.holds for finding in needed):
        return [*needed, note(trial.NAME, "not tried: what is needed comes first")], None
    probe, found = trial.docker_tried(settings)
    limits = _limits(probe, place) if probe is not None else []
    parts = [*machine.network_findings(), *machine.firewalls()] if os.geteuid() == 0 else []
    told = probe is None or "" in without_network(probe, settings.isolation_runtime) or not parts
    limits = [limit for limit in limits if told or limit.name != "network"]  # its parts say how it stands
    return [*needed, *limits, *found, *parts], probe


def _bubblewrap(place: Place, python: Toolchain | None) -> list[Finding]:
    root = os.geteuid() == 0
    needed = needs.findings(root)
    parts = [*machine.network_findings(), *machine.firewalls()] if root else own_machine.network_findings()
    if not all(finding.holds for finding in needed):
        return [*needed, note(trial.NAME, "not tried: what is needed comes first"), *parts]
    run = Path("/run")
    probe, found = trial.tried(python, run if root and run.is_dir() else None)
    limits = _limits(probe, place) if probe is not None else []
    if root:
        limits.append(disks_of_builds(_nearest(place.data)))
    return [*needed, *limits, *found, *parts]


def _limits(probe: Probe, place: Place) -> list[Finding]:
    """What was tried, and what could not be: for memory and cpu of an ordinary user the running platform's own word counts."""
    missing = {finding.name: finding for finding in probe.missing}
    missing.pop("build disks", None)  # of the folder in which it was tried
    running = limits_of(place.supervisor) if place.supervisor is not None else frozenset()
    found = []
    for name in LIMITS:
        finding = missing.pop(name, None)
        if name in probe.enforces:
            found.append(ok(name, _HELD[name]))
        elif name in running:
            found.append(ok(name, "held by the platform that runs; one that is started from here would not"))
        else:
            found.append(finding or not_held(name, "not held here"))
    if "uids" in probe.enforces:
        found.append(ok("uids", f"each sandbox has one of its own: {dict(probe.facts)['uids']}"))
    return [*found, *missing.values()]


def _platform(settings: Settings, place: Place) -> list[Finding]:
    data, own = place.data, [place.supervisor] if place.supervisor is not None else []
    found = [place.finding]
    left: list[str] = []
    pids: set[int] = set()
    if place.running:
        found.append(ok("platform", _running(place)))
    elif place.instance is not None:
        left, pids = leftovers.left(place.instance, data)
    if place.finding.holds:
        key, fingerprint = rootkey.look(settings.key_file or data / "key", create=settings.key_file is None)
        found.append(key)
        if settings.database_url:
            found.append(database.look_at_server(settings.database_url, fingerprint))
        elif not place.running:
            found.append(database.look(data / "hearth.db", fingerprint))
        near = _nearest(data)
        found.append(disk.room(shutil.disk_usage(near).free, str(near)))
    found.append(ports.port_finding(settings.host, settings.port, own, pids))
    if not place.running:
        found.append(leftovers.leftovers(left))
    return [*found, *leftovers.of_others(place.instance)]


def _running(place: Place) -> str:
    if place.supervisor is None:
        return "running"
    sockets = ports.sockets_of(place.supervisor)
    at = [f"{found.address} port {found.port}" for found in ports.listeners() if found.inode in sockets]
    where = f", at {', '.join(at)}" if at else ""
    return f"running (process {place.supervisor}){where}"


def _nearest(path: Path) -> Path:
    """It, or the folder above it that is there."""
    return next(folder for folder in (path, *path.parents) if os.access(folder, os.F_OK))
