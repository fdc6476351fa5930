"""A gateway shard, wired: the data path, its pool and slots, the prover."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import socket
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

from hearth.app.figures import ShardFigures
from hearth.app.instances import Instance
from hearth.app.invoke import Recorder
from hearth.app.launcher import Launcher
from hearth.app.pool import Pool
from hearth.app.prove import Prover
from hearth.app.reaper import Reaper
from hearth.app.refusals import RefusalLog
from hearth.app.routes import Routes
from hearth.app.sandboxes import SandboxRows
from hearth.app.scaler import Scaler
from hearth.app.slot import Workshop
from hearth.app.slots import Room, Slots
from hearth.app.start_figures import CountedLaunches, StartFigures
from hearth.bootstrap import child
from hearth.bootstrap.child import Context, RandomIds, SystemClock
from hearth.bootstrap.parts import log_bounds, open_store, runtimes
from hearth.build.shelf import Shelf
from hearth.build.toolchains import places_of
from hearth.bus.local import BusClient
from hearth.core.errors import FunctionCrashed
from hearth.core.launch import SlotKind, Toolchain, without_network
from hearth.core.routing import Deployed
from hearth.drivers.remote import RemoteDriver
from hearth.gateway.door import Door
from hearth.gateway.inner import InnerDoors
from hearth.gateway.upstream import Upstream
from hearth.guest.factory import StreamGuests
from hearth.security.tokens import AccessTokens
from hearth.security.vault import Vault, read_key
from hearth.security.verifier import CredentialVerifier
from hearth.telemetry.logs import LogFiles
from hearth.telemetry.pipes import PipeReader

log = logging.getLogger(__name__)


async def _body(context: Context, ready: Callable[[dict[str, Any]], None], stopping: asyncio.Event) -> None:
    settings, clock, ids = context.settings, SystemClock(), RandomIds()
    async with AsyncExitStack() as stack:
        bus = BusClient(context.bus_socket)
        await bus.start()
        stack.push_async_callback(bus.close)
        store = await open_store(settings, durable=False, publish=bus.publish)
        stack.push_async_callback(store.close)
        await child.begin(store, context, "shard")
        driver = RemoteDriver(context.keeper_socket, context.owner)
        await driver.dial()
        stack.callback(driver.close)
        logs = LogFiles(settings.data_dir / "logs", context.owner, log_bounds(settings))
        stack.callback(logs.close)
        verifier = CredentialVerifier(
            store, AccessTokens([bytes.fromhex(context.extra["token_key"])]), clock, bus
        )
        await verifier.start()
        stack.push_async_callback(verifier.close)
        probe = await driver.probe()
        shelf = Shelf(settings.data_dir / "toolchains", places_of(probe))
        await asyncio.to_thread(shelf.refresh)

        routes = Routes(store, store, bus, clock)
        rows, recorder = SandboxRows(store, clock), Recorder(store, clock)
        doors = InnerDoors()
        workshop = Workshop(
            driver=driver,
            guests=StreamGuests(clock),
            outputs=PipeReader(clock),
            runtimes=runtimes(),
            rows=rows,
            logs=logs,
            clock=clock,
            ids=ids,
            owner=context.owner,
            doors=doors,
        )
        slots = Slots(workshop, settings.slots, Room(settings.max_instances))
        rebuild: list[Callable[[Deployed], None]] = []
        launcher = Launcher(
            workshop,
            slots,
            lambda version: shelf.get(version.toolchain),
            lambda version: rebuild[0](version),
            Vault([read_key(context.fds.pop("secrets"))]),
            "network" in probe.enforces or probe.driver == "process",
            without_network(probe, settings.isolation_runtime),
        )
        starts = StartFigures(tuple(workshop.runtimes))
        launches = CountedLaunches(launcher, starts)
        pool = Pool(launches, clock)
        prover = Prover(store, launches, pool, bus, clock, context.owner, workshop.story)
        rebuild.append(prover.rebuild)

        def routes_changed() -> None:
            served = routes.served
            pool.serve_only(served)
            kinds: dict[SlotKind, Toolchain] = dict(filter(None, map(launcher.kind_of, served)))
            slots.want(kinds)
            recorder.keep_only({route.function.id for route in routes.entries.values()})

        async def cause_of_death(instance: Instance) -> FunctionCrashed:
            return await launcher.cause_of_death(instance.slot)

        routes.on_change = routes_changed
        door = Door(
            routes=routes,
            pool=pool,
            verifier=verifier,
            recorder=recorder,
            upstream=Upstream(context.api_socket),
            clock=clock,
            ids=ids,
            chance=random.random,
            cause_of_death=cause_of_death,
            ready=lambda: None if routes.loaded else "the routes are not read yet",
            max_body=settings.max_body,
            trusted_proxies=settings.trusted_proxies,
        )
        doors.door = door
        figures = ShardFigures(recorder, pool, slots, starts, lambda: len(routes.entries))
        await child.tell_figures(context, stack, figures.samples)
        works: dict[str, Coroutine[Any, Any, None]] = {
            "routes": routes.run(),
            "scaler": Scaler(pool, clock).run(),
            "prover": prover.run(),
            "rows": rows.run(),
            "recorder": recorder.run(),
            "reaper": Reaper(driver, context.owner, lambda: slots.handles, clock).run(),
            "refusals": RefusalLog(
                driver, slots.find, workshop.story, settings.private_networks, clock
            ).run(),
            "heartbeat": child.heartbeat(store, context.owner),
        }
        await routes.load()
        tasks = [asyncio.create_task(work, name=name) for name, work in works.items()]
        tasks.append(asyncio.create_task(_until(stopping), name="stopping"))
        if (
            context.successor
        ):  # who comes before us serves meanwhile; else waiting would only add to what people wait
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(slots.filled(), WARM)
        gc.freeze()  # what lives as long as the process is not looked at again
        await door.serve(socket.socket(fileno=context.fds.pop("listener")))
        ready({})
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.is_set():  # something of ours has failed: a successor takes over while we drain
            ready({"draining": True})
        tasks[list(works).index("prover")].cancel()  # what it is at is given back, for another to prove
        unused = asyncio.create_task(slots.close())  # nothing new is started from them here
        routes.on_change = lambda: None
        leaving = asyncio.create_task(_leave(pool, clock))
        left = await child.unless_hurried(context, door.drain(settings.drain_grace, context.closing))
        if left != 0:
            log.warning("requests did not end within the grace and are cut")
        leaving.cancel()
        await door.close()
        await unused
        await pool.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await child.end(store, context.owner)
        for task in done:
            if not task.cancelled() and task.exception() is not None:
                raise RuntimeError(f"{task.get_name()} failed") from task.exception()


WARM = 3.0  # seconds that a successor waits for its slots before it takes requests
LEAVE = 1.0  # seconds that clients which call on and on have to go, before instances that are idle here end


async def _leave(pool: Pool, clock: SystemClock) -> None:
    """Make room for the successor's instances: a drain may last, on a connection that somebody only keeps."""
    await clock.sleep(LEAVE)
    pool.leave()


async def _until(event: asyncio.Event) -> None:
    await event.wait()


def main() -> None:
    child.main(_body)


if __name__ == "__main__":
    main()
