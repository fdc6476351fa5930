"""The keeper, wired: the real driver behind the keeper's socket."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import hearth
from hearth.bootstrap import child
from hearth.bootstrap.child import Context
from hearth.core.errors import StartupFailed
from hearth.core.launch import Probe
from hearth.core.settings import Settings
from hearth.drivers.bubblewrap import BubblewrapDriver
from hearth.drivers.process import ProcessDriver
from hearth.drivers.safe import safe
from hearth.egress.networks import HostNetworks
from hearth.egress.own_networks import OwnNetworks
from hearth.keeper.server import KeeperServer, Role
from hearth.linux import mounts, userns
from hearth.ports.driver import Driver
from hearth.ports.egress import Networks
from hearth.protocol.keeper import probe_from_data, probe_to_data

log = logging.getLogger(__name__)


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
        networks: HostNetworks | OwnNetworks | None = None
        if context.settings.isolation != "process":
            networks = HostNetworks(context.instance) if os.geteuid() == 0 else OwnNetworks()
            await networks.start()
            stack.push_async_callback(networks.stop)
        driver = await _driver(context, networks, stack)
        server = KeeperServer(safe(driver), networks)
        server.listen(context.keeper_socket, context.uid, Role.PLATFORM)
        server.listen(context.resolver_socket, context.extra["resolver_uid"], Role.RESOLVER)
        stack.push_async_callback(server.close)
        probe = await driver.probe()
        ready({**_facts(probe, networks, context), "probe": probe_to_data(probe)})
        await stopping.wait()


async def _driver(context: Context, networks: Networks | None, stack: AsyncExitStack) -> Driver:
    settings = context.settings
    if settings.isolation == "process":
        process = ProcessDriver(
            run=context.run_dir / "slots",
            folders=folders(settings.data_dir),
            prefixes=tuple(context.extra["prefixes"]),
            max_sandboxes=_room(settings),
        )
        await process.open()
        stack.push_async_callback(process.close)
        return process
    driver = BubblewrapDriver(
        instance=context.instance,
        run=context.run_dir,
        data=settings.data_dir,
        folders=folders(settings.data_dir),
        prefixes=tuple(context.extra["prefixes"]),
        networks=networks,
        max_sandboxes=_room(settings),
        known=probe_from_data(context.said["probe"]) if "probe" in context.said else None,
    )
    await driver.open()
    stack.push_async_callback(driver.close)
    probe = await driver.probe()
    if not probe.usable:
        what, why = probe.missing[0] if probe.missing else ("bubblewrap", "it does not work here")
        raise StartupFailed(
            f"functions can't be isolated on this machine: {what}: {why}", hint="run: hearth doctor"
        )
    return driver


def _room(settings: Settings) -> int:
    """How many sandboxes there may be: builds, and what a shard and the successor that takes over from it may have."""
    return 2 * settings.max_instances + settings.build_workers


def _facts(probe: Probe, networks: Networks | None, context: Context) -> dict[str, Any]:
    """What `hearth up` prints of it."""
    enforces = [
        name for name in ("memory", "cpu", "pids", "tmp", "network", "seccomp") if name in probe.enforces
    ]
    facts = ", ".join(f"{name} {value}" for name, value in probe.facts if name == "cgroup")
    reasons: dict[str, dict[str, None]] = {}  # the driver's probe asks the networks too: each name once
    for what, why in (*probe.missing, *(networks.missing() if networks is not None else ())):
        reasons.setdefault(why, {})[what] = None
    warnings = [f"not held: {', '.join(names)}: {why}" for why, names in reasons.items()]
    if context.settings.isolation == "process":
        warnings = [
            "functions run WITHOUT ANY ISOLATION (--isolation process): for development only, never for others' code"
        ]
    held = f"holds {', '.join(enforces)}" if enforces else "holds nothing"
    return {"isolation": f"{probe.driver} ({'; '.join(filter(None, (facts, held)))})", "warnings": warnings}


def main() -> None:
    # Before any thread: what the keeper mounts is seen by nobody else, and goes with it.
    if os.geteuid() == 0:
        mounts.unshare_mounts()
    elif userns.OWN_NAMESPACES in sys.argv:
        userns.enter()
    child.main(_body, courtesy=False, fast_loop=False)


if __name__ == "__main__":
    main()
