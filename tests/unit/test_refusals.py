"""Refusals on their way from the resolver to the log of the function whose sandbox it is, and to no other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from hearth.app.refusals import PAUSE, RefusalLog
from hearth.app.slot import Slot
from hearth.app.story import Story
from hearth.core.errors import Forbidden, KeeperUnavailable, ProtocolViolation
from hearth.core.launch import SandboxSpec
from hearth.core.refusals import Refusal, Rights
from hearth.drivers.remote import RemoteDriver
from hearth.keeper.server import KeeperServer, Role
from hearth.protocol.keeper import refusal_from_data
from hearth.testing.driver import ScriptedDriver
from tests.unit.pool_kit import make_kit, version


class FakeNetworks:
    """Knows one sandbox by its address."""

    def __init__(self) -> None:
        self.learns: list[tuple[str, str, tuple[str, ...], float]] = []

    def resolver_sockets(self) -> None:
        return None

    def look_ups(self) -> None:
        return None

    def rights(self, source: str) -> Rights | None:
        return Rights(False, frozenset({"a.example"})) if source == "10.1.0.2" else None

    async def learned(self, source: str, name: str, addresses: Sequence[str], ttl: float) -> tuple[str, ...]:
        self.learns.append((source, name, tuple(addresses), ttl))
        return tuple(addresses[:1])

    def sandbox_of(self, source: str) -> str | None:
        return "sb_1" if source == "10.1.0.2" else None


async def test_only_the_owner_of_a_sandbox_hears_what_it_was_refused() -> None:
    folder = Path(tempfile.mkdtemp(prefix="hearth-keeper-"))
    networks = FakeNetworks()
    server = KeeperServer(ScriptedDriver(), networks)
    server.listen(folder / "keeper.sock", os.getuid(), Role.PLATFORM)
    server.listen(folder / "resolver.sock", os.getuid(), Role.RESOLVER)
    mine, other = (RemoteDriver(folder / "keeper.sock", f"own_{name}") for name in "ab")
    resolver = RemoteDriver(folder / "resolver.sock", "own_r")
    refusal = Refusal("10.1.0.2", "tcp", "10.0.0.5", 443)
    try:
        await other.dial()
        loop = asyncio.get_running_loop()
        await mine.start(SandboxSpec("sb_1", "own_a", ("x",)), loop.time() + 10)
        hearing, others = asyncio.create_task(mine.refusal()), asyncio.create_task(other.refusal())
        await resolver.refused(Refusal("10.1.0.9", "tcp", "10.0.0.5", 443))  # of nobody's
        await resolver.refused(refusal)
        assert await hearing == Refusal("sb_1", "tcp", "10.0.0.5", 443)
        assert not others.done()
        assert await resolver.rights("10.1.0.2") == Rights(False, frozenset({"a.example"}))
        assert await resolver.rights("10.1.0.9") is None
        assert await resolver.learned("10.1.0.2", "a.example", ["1.1.1.1", "2.2.2.2"], 60) == ("1.1.1.1",)
        assert networks.learns == [("10.1.0.2", "a.example", ("1.1.1.1", "2.2.2.2"), 60.0)]
        for _ in range(1000):  # nobody asks for them: they are dropped, not gathered
            await resolver.refused(refusal)
        kept = 0
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(0.5):
                    await mine.refusal()
                kept += 1
        assert 0 < kept <= 256
        for asked in (
            mine.refused(refusal),
            mine.learned("10.1.0.2", "a.example", [], 1),
            resolver.refusal(),
        ):
            with pytest.raises(Forbidden):
                await asked
        others.cancel()
    finally:
        for driver in (mine, other, resolver):
            driver.close()
        await server.close()


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"sandbox": "s", "protocol": "tcp", "target": 1, "port": 1, "address": ""},
        {"sandbox": "s", "protocol": "tcp", "target": "x", "port": "a", "address": ""},
    ],
)
def test_nonsense_is_no_refusal(data: dict[str, object]) -> None:
    with pytest.raises(ProtocolViolation):
        refusal_from_data(data)


async def test_the_line_is_the_functions_own() -> None:
    kit = make_kit()
    slot = await kit.launcher.launch(version(network="internet"))
    slots: dict[str, Slot] = {slot.id: slot}

    said = [
        Refusal("sb_gone", "tcp", "10.0.0.5", 1),
        None,
        Refusal(slot.id, "tcp", "169.254.169.254", 80),
    ]

    class Source:
        async def refusal(self) -> Refusal:
            if not said:
                await asyncio.Event().wait()
            one = said.pop(0)
            if one is None:
                raise KeeperUnavailable("the keeper has gone")
            return one

    log = RefusalLog(Source(), slots.get, Story(kit.logs, kit.clock), (), kit.clock)
    running = asyncio.create_task(log.run())
    await kit.settle()
    kit.clock.advance(PAUSE)
    await kit.settle()
    running.cancel()
    told = [line for _, line in kit.logs.lines if line.stream == "network"]
    assert [(line.level, line.instance, line.source) for line in told] == [("warning", slot.id, "platform")]
    assert "tcp to 169.254.169.254 port 80 was refused" in told[0].text
