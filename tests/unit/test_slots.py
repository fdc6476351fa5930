"""Warm slots: kept, refilled, given once, removed; their rows; lines of what runs in them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from hearth.app.reaper import Reaper
from hearth.core.errors import NoCapacity, SandboxFailed, StoreUnavailable
from hearth.core.ids import new_id
from hearth.core.launch import Exit, SlotKind
from hearth.testing.workshop import PYTHON
from tests.unit.pool_kit import KIND, Kit, make_kit, version


@pytest_asyncio.fixture
async def kit() -> AsyncIterator[Kit]:
    made = make_kit(keep=3)
    yield made
    await made.close()


async def test_wanted_kinds_are_filled_and_refilled(kit: Kit) -> None:
    assert kit.slots.take(KIND) is None
    kit.want()
    await kit.settle()
    assert kit.slots.waiting(KIND) == 3
    slot = kit.slots.take(KIND)
    assert slot is not None and slot.guest is kit.guests.opened[0]  # who has waited longest
    assert kit.slots.waiting(KIND) == 2
    await kit.settle()
    assert kit.slots.waiting(KIND) == 3
    await kit.slots.discard(slot, 0.0)


async def test_who_waits_for_them_goes_on_when_all_are_up_or_failed(kit: Kit) -> None:
    await kit.slots.filled()
    kit.driver.gate = asyncio.Event()
    kit.want()
    filled = asyncio.create_task(kit.slots.filled())
    await kit.settle()
    assert not filled.done()
    kit.driver.gate.set()
    await asyncio.wait_for(filled, 5)
    assert kit.slots.waiting(KIND) == 3
    kit.driver.script.start.append(SandboxFailed("no"))
    slot = kit.slots.take(KIND)
    assert slot is not None
    await kit.slots.discard(slot, 0.0)
    kit.want()
    await asyncio.wait_for(kit.slots.filled(), 5)
    assert kit.slots.waiting(KIND) == 2


async def test_few_are_started_at_once(kit: Kit) -> None:
    kit.driver.gate = asyncio.Event()
    kit.want()
    await kit.settle()
    assert kit.slots._refilling == 2


async def test_kinds_no_longer_wanted_are_removed_also_those_on_their_way(kit: Kit) -> None:
    kit.want()
    await kit.settle()
    kit.driver.gate = asyncio.Event()
    taken = kit.slots.take(KIND)
    assert taken is not None
    kit.slots.want({})
    await kit.settle()
    assert kit.slots.waiting(KIND) == 0
    kit.driver.gate.set()
    await kit.settle()
    assert kit.driver.running == [taken.handle]
    await kit.slots.discard(taken, 0.0)


async def test_a_slot_that_dies_is_replaced(kit: Kit) -> None:
    kit.want()
    await kit.settle()
    kit.guests.opened[1].die()
    await kit.settle()
    assert kit.slots.waiting(KIND) == 3
    assert len(kit.driver.running) == 3
    assert not any(kit.slots.take(KIND).guest.closed for _ in range(3))  # type: ignore[union-attr]


async def test_a_refill_that_fails_is_tried_again_later_and_not_at_once(kit: Kit) -> None:
    kit.driver.script.start.extend([SandboxFailed("no")] * 3)
    kit.want()
    await kit.settle()
    assert len(kit.driver.sandboxes) == 0
    for _ in range(6):
        kit.clock.advance(2.0)
        await kit.settle()
    assert kit.slots.waiting(KIND) == 3


async def test_the_node_is_never_overfilled() -> None:
    kit = make_kit(keep=4, room=3)
    kit.want()
    await kit.settle()
    assert kit.slots.waiting(KIND) == 3
    other = SlotKind("scripted", "python", "3.12.1", False)
    slot = await kit.slots.start(other, PYTHON)  # a waiting slot of another kind gives way
    assert len(kit.driver.running) == 3
    for _ in range(2):
        await kit.slots.start(other, PYTHON)
    with pytest.raises(NoCapacity):
        await kit.slots.start(other, PYTHON)
    assert slot.id != ""
    await kit.close()


@pytest.mark.parametrize("step", ["start", "connect"])
async def test_a_start_that_fails_leaves_nothing_behind(kit: Kit, step: str) -> None:
    getattr(kit.driver.script, step).append(SandboxFailed("no"))
    with pytest.raises(SandboxFailed):
        await kit.slots.start(KIND, PYTHON)
    await kit.sandboxes.flush()
    assert not kit.driver.running
    assert kit.rows.sandboxes[-1].state == "gone"
    assert kit.slots._room.used == 0


async def test_a_hello_that_is_nonsense_leaves_nothing_behind() -> None:
    kit = make_kit(guest=lambda fd: SandboxFailed("it speaks in tongues"))
    with pytest.raises(SandboxFailed):
        await kit.slots.start(KIND, PYTHON)
    assert not kit.driver.running and kit.slots._room.used == 0
    await kit.close()


async def test_the_row_comes_first_for_a_start_without_a_slot_and_in_batches_for_slots(kit: Kit) -> None:
    kit.rows.down = StoreUnavailable("down")
    with pytest.raises(StoreUnavailable):
        await kit.slots.start(KIND, PYTHON)
    assert not kit.driver.sandboxes
    kit.want()
    await kit.settle()
    assert kit.slots.waiting(KIND) == 3  # slots need no store
    await kit.sandboxes.flush()
    kit.rows.down = None
    await kit.sandboxes.flush()
    assert [row.state for row in kit.rows.sandboxes] == ["waiting"] * 3
    assert all(row.handle for row in kit.rows.sandboxes)


async def test_close_removes_all(kit: Kit) -> None:
    kit.want()
    await kit.settle()
    await kit.slots.close()
    assert not kit.driver.running and not kit.slots.handles


async def test_lines_belong_to_nobody_and_then_to_the_version(kit: Kit) -> None:
    slot = await kit.slots.start(KIND, PYTHON)
    guest = kit.guests.opened[0]
    guest.log(None, "stderr", 1, "info", "starting")
    assert not kit.logs.lines and list(slot.tail) == ["starting"]
    mine, other = (new_id("invocation", at, bytes(10)) for at in (1, 2))
    slot.belongs_to(version(), lambda: mine)
    guest.log(None, "stdout", 2, "info", "raw")
    guest.log(other, "log", 3, "error", "logged")
    told = [(line.invocation, line.stream, line.text, line.version) for _, line in kit.logs.lines]
    assert told == [(mine, "stdout", "raw", 1), (other, "log", "logged", 1)]
    assert {function for function, _ in kit.logs.lines} == {"fn_hello"}
    await kit.slots.discard(slot, 0.0)


async def test_what_a_guest_says_of_its_lines_is_not_believed(kit: Kit) -> None:
    slot = await kit.slots.start(KIND, PYTHON)
    guest = kit.guests.opened[0]
    slot.belongs_to(version(), lambda: None)
    guest.log("platform \x1b[2J", "log", 1, "platform", "killed")
    ((_, line),) = kit.logs.lines
    assert (line.source, line.level, line.invocation) == ("run", "info", None)
    await kit.slots.discard(slot, 0.0)


async def test_the_reaper_stops_what_nobody_knows(kit: Kit) -> None:
    kit.driver.script.start.append(SandboxFailed("the reply was lost"))
    kit.driver.script.reply_lost = True
    with pytest.raises(SandboxFailed):
        await kit.slots.start(KIND, PYTHON)
    kit.driver.script.reply_lost = False
    known = await kit.slots.start(KIND, PYTHON)
    assert len(kit.driver.running) == 2
    reaper = Reaper(kit.driver, "own_1", lambda: kit.slots.handles, kit.clock)
    assert await reaper.look() == 0  # it may be a start under way
    assert await reaper.look() == 1
    assert kit.driver.running == [known.handle]
    assert await reaper.look() == 0
    await kit.slots.discard(known, 0.0)


async def test_what_ends_by_itself_is_left_to_say_how(kit: Kit) -> None:
    kit.want()
    await kit.settle()
    slot = kit.slots.take(KIND)
    assert slot is not None
    waiting = asyncio.create_task(kit.driver.wait(slot.handle))
    kit.guests.opened[0].on_end = None
    kit.guests.opened[0].die()
    removing = asyncio.create_task(kit.slots.discard(slot, 0.0))
    await asyncio.sleep(0)
    kit.driver.end(slot.handle, Exit(9))  # its exit is known a moment after its connection closed
    await removing
    assert await waiting == Exit(9)
    assert slot.handle not in kit.driver.running
