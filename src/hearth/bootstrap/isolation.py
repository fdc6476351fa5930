"""What keeps functions apart, opened: by the keeper for a platform, by `hearth doctor` to see what would hold."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

from hearth.core.errors import StartupFailed
from hearth.core.finding import Finding, State
from hearth.core.launch import Probe
from hearth.core.settings import Settings
from hearth.drivers.bubblewrap import BubblewrapDriver, needs
from hearth.drivers.docker import DockerDriver
from hearth.drivers.docker import needs as docker_needs
from hearth.egress import claim
from hearth.egress.networks import HostNetworks
from hearth.egress.own_networks import OwnNetworks
from hearth.linux import mounts, userns


def enter(own: bool) -> None:
    """Move this process to where what it mounts is seen by nobody else, and goes with it. Before any thread.

    Args:
        own: of an ordinary user: into a user and process namespace of its own too. Returns in another process.

    Raises OSError.
    """
    if os.geteuid() == 0:
        mounts.unshare_mounts()
    elif own:
        userns.enter()


async def open_networks(
    instance: str, stack: AsyncExitStack, lock: Path = claim.LOCK, private: Iterable[str] = ()
) -> HostNetworks | OwnNetworks:
    """Networks of sandboxes, until the stack unwinds; what this machine lacks is no error (see `missing`).

    Args:
        private: CIDRs that functions may reach, if they name targets in them.
    """
    opened = [IPv4Network(network) for network in private]
    networks = HostNetworks(instance, lock=lock, private=opened) if os.geteuid() == 0 else OwnNetworks(opened)
    stack.push_async_callback(networks.stop)  # also of a start that is cancelled half-way
    await networks.start()
    return networks


def decided(settings: Settings) -> Settings:
    """With ``auto`` decided: bubblewrap where this machine can enforce it, else Docker where a daemon answers, else bubblewrap."""
    if settings.isolation != "auto":
        return settings
    held = all(finding.holds for finding in needs.findings(os.geteuid() == 0))
    docker = not held and docker_needs.answers(settings.docker_socket)
    return replace(settings, isolation="docker" if docker else "bubblewrap")


def chosen(settings: Settings) -> Settings:
    """With ``auto`` decided, and all that is needed there.

    Raises StartupFailed: functions can't be isolated here; says what is missing.
    """
    settings = decided(settings)
    if settings.isolation == "docker":
        for finding in docker_findings(settings):
            if not finding.holds:
                raise finding.error("functions can't be isolated by docker: ")
    elif settings.isolation == "bubblewrap":
        needs.check(os.geteuid() == 0)
    return settings


def docker_findings(settings: Settings) -> list[Finding]:
    """What containers need, and what of it is here."""
    return docker_needs.findings(settings.docker_socket, settings.isolation_runtime, dict(settings.images))


def docker_run(instance: str) -> Path:
    """Where the slots of containers are: the daemon sees that too, unlike the platform's own run directory."""
    return Path(f"/run/hearth-docker-{instance}")


async def open_docker(
    stack: AsyncExitStack,
    settings: Settings,
    *,
    instance: str,
    folders: Mapping[str, Path],
    prefixes: tuple[str, ...],
    networks: HostNetworks | OwnNetworks | None,
    max_sandboxes: int,
) -> DockerDriver:
    """A Docker driver that has tried itself, until the stack unwinds.

    Raises StartupFailed: no container can be made here.
    """
    driver = DockerDriver(
        instance=instance,
        run=docker_run(instance),
        data=settings.data_dir,
        folders=folders,
        prefixes=prefixes,
        networks=networks,
        max_sandboxes=max_sandboxes,
        socket=settings.docker_socket,
        images=dict(settings.images),
        runtime=settings.isolation_runtime,
    )
    await driver.open()
    stack.push_async_callback(driver.close)
    probe = await driver.probe()
    for finding in probe.missing:
        if finding.state is State.REFUSED:
            raise finding.error("functions can't be isolated by docker: ")
    return driver


async def open_bubblewrap(
    stack: AsyncExitStack,
    *,
    instance: str,
    run: Path,
    data: Path,
    folders: Mapping[str, Path],
    prefixes: tuple[str, ...],
    networks: HostNetworks | OwnNetworks,
    max_sandboxes: int,
    known: Probe | None = None,
) -> BubblewrapDriver:
    """A driver that has tried itself, until the stack unwinds. Arguments as of `BubblewrapDriver`.

    Raises StartupFailed: no sandbox can be made here.
    """
    driver = BubblewrapDriver(
        instance=instance,
        run=run,
        data=data,
        folders=folders,
        prefixes=prefixes,
        networks=networks,
        max_sandboxes=max_sandboxes,
        known=known,
    )
    await driver.open()
    stack.push_async_callback(driver.close)
    probe = await driver.probe()
    for finding in probe.missing:
        if finding.state is State.REFUSED:
            raise finding.error("functions can't be isolated on this machine: ")
    if not probe.usable:
        raise StartupFailed("functions can't be isolated on this machine", hint="run: hearth doctor")
    return driver
