"""Pool, slots and launcher over a scripted driver and fake guests, on a clock that a test turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hearth.app.instances import Instance
from hearth.app.launcher import Launcher
from hearth.app.pool import Pool
from hearth.app.sandboxes import SandboxRows
from hearth.app.slot import Workshop
from hearth.app.slots import Room, Slots
from hearth.core.errors import HearthError
from hearth.core.function import FunctionConfig
from hearth.core.launch import SlotKind, Toolchain
from hearth.core.records import FunctionRow, VersionRow
from hearth.core.routing import Deployed, deployed
from hearth.core.version import VersionState
from hearth.ports.secrets import Opener
from hearth.testing.clock import ClockIds, FakeClock
from hearth.testing.driver import NoOutput, ScriptedDriver
from hearth.testing.guest import FakeGuest, FakeGuests
from hearth.testing.workshop import PYTHON, ListLogs, ListRows, PlainRuntime

KIND = SlotKind("scripted", "python", "3.11.2", True)


def version(name: str = "hello", number: int = 1, **config: Any) -> Deployed:
    return deployed(function_row(name), version_row(name, number, **config))


def function_row(name: str) -> FunctionRow:
    return FunctionRow(f"fn_{name}", "ns_ann", "ann", name, 0)


def version_row(
    name: str = "hello", number: int = 1, state: VersionState = VersionState.READY, **config: Any
) -> VersionRow:
    made = FunctionConfig(name=name, runtime="python", **config)
    return VersionRow(
        f"ver_{name}_{number}", f"fn_{name}", number, state, made, "src", f"art_{name}",
        "python-3.11.2", "handler.handler", None, "usr_1", 0, 0,
    )  # fmt: skip


@dataclass
class Kit:
    clock: FakeClock
    driver: ScriptedDriver
    guests: FakeGuests
    rows: ListRows
    logs: ListLogs
    sandboxes: SandboxRows
    slots: Slots
    launcher: Launcher
    pool: Pool
    gone: list[Deployed]
    toolchain: list[Toolchain | None]

    async def settle(self) -> None:
        """Let everything that can go on go on; no time passes."""
        for _ in range(60):
            await asyncio.sleep(0)

    def want(self) -> None:
        self.slots.want({KIND: PYTHON})

    def queue(self, wanted: Deployed, patience: float = 30.0) -> Waiter:
        waiter = Waiter()
        now = self.clock.monotonic()
        waiter.ticket = self.pool.wait(wanted, now, now + patience, waiter.hear)
        return waiter

    async def up(self, wanted: Deployed) -> Instance:
        """One instance that is up, and idle."""
        waiter = self.queue(wanted)
        await self.settle()
        assert waiter.instance is not None, waiter.error
        self.pool.give_back(waiter.instance, self.clock.monotonic())
        return waiter.instance

    async def close(self) -> None:
        if self.driver.gate is not None:
            self.driver.gate.set()
        await self.pool.close()
        await self.slots.close()


class Waiter:
    def __init__(self) -> None:
        self.ticket: Any = None
        self.instance: Instance | None = None
        self.error: HearthError | None = None
        self.cold = 0.0
        self.heard = 0

    def hear(self, instance: Instance | None, error: HearthError | None, cold: float) -> None:
        self.instance, self.error, self.cold = instance, error, cold
        self.heard += 1


def make_kit(
    keep: int = 0,
    room: int = 50,
    guest: Callable[[int], FakeGuest | HearthError] | None = None,
    opener: Opener | None = None,
    networks: bool = True,
) -> Kit:
    clock, driver, rows, logs = FakeClock(), ScriptedDriver(), ListRows(), ListLogs()
    guests = FakeGuests(guest, driver.hung_up)
    sandboxes = SandboxRows(rows, clock)
    shop = Workshop(
        driver=driver, guests=guests, outputs=NoOutput(), runtimes={"python": PlainRuntime()}, rows=sandboxes,
        logs=logs, clock=clock, ids=ClockIds(clock), owner="own_1",
    )  # fmt: skip
    slots = Slots(shop, keep, Room(room), pause=0.0)
    gone: list[Deployed] = []
    toolchain: list[Toolchain | None] = [PYTHON]
    launcher = Launcher(shop, slots, lambda _: toolchain[0], gone.append, opener, networks)
    pool = Pool(launcher, clock)
    return Kit(clock, driver, guests, rows, logs, sandboxes, slots, launcher, pool, gone, toolchain)
