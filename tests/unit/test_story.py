"""What the platform says in a function's log of its own doings."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from hearth.core.errors import FunctionLoadFailed
from hearth.core.ids import new_id
from hearth.core.launch import Exit
from hearth.testing.guest import FakeGuest
from tests.unit.pool_kit import Kit, make_kit, version


@pytest.fixture
async def kit() -> AsyncIterator[Kit]:
    kit = make_kit()
    yield kit
    await kit.close()


def told(kit: Kit) -> list[str]:
    assert all(line.source == "platform" for _, line in kit.logs.lines)
    return [line.text for _, line in kit.logs.lines]


async def test_an_instance_that_starts_and_is_idle(kit: Kit) -> None:
    wanted = version()
    instance = await kit.up(wanted)
    kit.clock.advance(61)
    kit.pool.tick(kit.clock.monotonic())
    await kit.settle()
    assert told(kit) == ["instance started in 0 ms, 0 of them loading", "instance stopped: idle for 60 s"]
    (_, started), (_, stopped) = kit.logs.lines
    assert started.instance == stopped.instance == instance.id and started.version == 1


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (Exit(None, None, oom=True), "it used more than its 256MiB of memory and was killed"),
        (Exit(None, 11), "it was ended by SIGSEGV"),
        (Exit(3), "it exited with code 3"),
    ],
)
async def test_an_instance_that_crashes(kit: Kit, end: Exit, text: str) -> None:
    instance = await kit.up(version())
    kit.driver.end(instance.slot.handle, end)
    kit.guests.opened[0].die()
    await kit.settle()
    assert told(kit)[1:] == [f"instance crashed: {text}"]
    assert kit.logs.lines[-1][1].level == "error"


async def test_a_request_that_takes_too_long_is_named(kit: Kit) -> None:
    instance = await kit.up(version(timeout=2.5))
    invocation = new_id("invocation", 1, bytes(10))
    instance.current = invocation.encode()
    kit.pool.kill(instance)
    kit.pool.lost(instance)  # what follows is no crash
    await kit.settle()
    assert told(kit)[1:] == ["instance killed: a request ran longer than 2.5 s"]
    assert kit.logs.lines[-1][1].invocation == invocation


async def test_one_that_serves_others_too_finishes_first(kit: Kit) -> None:
    instance = await kit.up(version(concurrency=4))
    assert kit.pool.take(instance.group.version) is instance
    kit.pool.retire(instance)
    await kit.settle()
    assert len(told(kit)) == 1
    kit.pool.give_back(instance, kit.clock.monotonic())
    await kit.settle()
    assert told(kit)[1:] == ["instance stopped: a request ran longer than 30 s"]


async def test_a_version_without_traffic(kit: Kit) -> None:
    await kit.up(version())
    kit.pool.serve_only([version(number=2)])
    await kit.settle()
    assert told(kit)[1:] == ["instance stopped: version 1 serves no traffic"]


async def test_the_platform_stops() -> None:
    kit = make_kit()
    await kit.up(version())
    await kit.close()
    assert told(kit)[1:] == ["instance stopped: the platform is stopping"]


async def test_room_for_another_function() -> None:
    kit = make_kit(room=1)
    await kit.up(version())
    await kit.up(version("other"))
    assert "instance stopped: its room was needed for another function" in told(kit)
    await kit.close()


async def test_an_instance_that_can_not_start() -> None:
    kit = make_kit(guest=lambda number: FakeGuest(ready=FunctionLoadFailed("no module named nothing")))
    waiter = kit.queue(version())
    await kit.settle()
    assert waiter.error is not None and waiter.instance is None
    assert told(kit) == ["an instance could not start: no module named nothing"]
    await kit.close()
