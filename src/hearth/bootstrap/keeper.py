"""The keeper, wired: the real driver behind the keeper's socket."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import hearth
from hearth.bootstrap import child, isolation
from hearth.bootstrap.child import Context
from hearth.core.finding import warnings_of
from hearth.core.launch import LIMITS, Probe
from hearth.core.settings import Settings
from hearth.drivers.docker.machine import enter_mounts_of
from hearth.drivers.process import ProcessDriver
from hearth.drivers.safe import safe
from hearth.egress.networks import HostNetworks
from hearth.egress.own_networks import OwnNetworks
from hearth.keeper.server import KeeperServer, Role
from hearth.linux import userns
from hearth.ports.driver import Driver
from hearth.ports.egress import Networks
from hearth.protocol.keeper import probe_from_data, probe_to_data


def folders(data_dir: Path) -> dict[str, Path]:
    """Where the things are that a sandbox may see, by kind of `core.launch.Mount`."""
    return {
        "shim": Path(hearth.__file__).resolve().parent / "runtimes" / "shims",
        "toolchain": data_dir / "toolchains",
        "seed": data_dir / "toolchains",
        "source": data_dir / "sources",
        "artifact": data_dir / "artifacts",
    }


async def _body(context: Context, ready: Callable[[dict[str, Any]], None], stopping: asyncio.Event) -> None:
    async with AsyncExitStack() as stack:
        sockets, rooted = context.run_dir, os.geteuid() == 0
        if context.settings.isolation == "docker" and rooted:
            # What is mounted for containers must be seen by the daemon, so this process goes to where that is; its sockets are for
            # the platform, in whose mount namespace the run directory stays within reach by a descriptor. Before any thread.
            folder = os.open(context.run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, folder)
            sockets = Path(f"/proc/self/fd/{folder}")
            enter_mounts_of(context.settings.docker_socket)
        networks: HostNetworks | OwnNetworks | None = None
        if context.settings.isolation == "bubblewrap" or (context.settings.isolation == "docker" and rooted):
            networks = await isolation.open_networks(
                context.instance, stack, private=context.settings.private_networks
            )
        driver = await _driver(context, networks, stack)
        server = KeeperServer(safe(driver), networks)
        server.listen(sockets / context.keeper_socket.name, context.uid, Role.PLATFORM)
        server.listen(sockets / context.resolver_socket.name, context.extra["resolver_uid"], Role.RESOLVER)
        stack.push_async_callback(server.close)
        probe = await driver.probe()
        ready({**_facts(probe, networks), "probe": probe_to_data(probe)})
        await stopping.wait()


async def _driver(
    context: Context, networks: HostNetworks | OwnNetworks | None, stack: AsyncExitStack
) -> Driver:
    settings = context.settings
    if settings.isolation == "docker":
        return await isolation.open_docker(
            stack,
            settings,
            instance=context.instance,
            folders=folders(settings.data_dir),
            prefixes=tuple(context.extra["prefixes"]),
            networks=networks,
            max_sandboxes=_room(settings),
        )
    if networks is None:
        process = ProcessDriver(
            run=context.run_dir / "slots",
            folders=folders(settings.data_dir),
            prefixes=tuple(context.extra["prefixes"]),
            max_sandboxes=_room(settings),
        )
        await process.open()
        stack.push_async_callback(process.close)
        return process
    return await isolation.open_bubblewrap(
        stack,
        instance=context.instance,
        run=context.run_dir,
        data=settings.data_dir,
        folders=folders(settings.data_dir),
        prefixes=tuple(context.extra["prefixes"]),
        networks=networks,
        max_sandboxes=_room(settings),
        known=probe_from_data(context.said["probe"]) if "probe" in context.said else None,
    )


def _room(settings: Settings) -> int:
    """How many sandboxes there may be: builds, and what a shard and the successor that takes over from it may have."""
    return 2 * settings.max_instances + settings.build_workers


def _facts(probe: Probe, networks: Networks | None) -> dict[str, Any]:
    """What `hearth up` prints of it."""
    enforces = [name for name in LIMITS if name in probe.enforces]
    facts = ", ".join(f"{name} {value}" for name, value in probe.facts if name == "cgroup")
    warnings = warnings_of((*probe.missing, *(networks.missing() if networks is not None else ())))
    held = f"holds {', '.join(enforces)}" if enforces else "holds nothing"
    return {"isolation": f"{probe.driver} ({'; '.join(filter(None, (facts, held)))})", "warnings": warnings}


def main() -> None:
    isolation.enter(own=userns.OWN_NAMESPACES in sys.argv)
    child.main(_body, courtesy=False, fast_loop=False)


if __name__ == "__main__":
    main()
