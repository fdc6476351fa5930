"""From a slot to an instance: attach, load, and the true reason when it does not work."""

from __future__ import annotations

import asyncio

import pytest

from hearth.app.launcher import PartsGone, crash
from hearth.core.errors import (
    FunctionCrashed,
    FunctionLoadFailed,
    FunctionTimeout,
    HearthError,
    NotFound,
    SandboxFailed,
)
from hearth.core.launch import Exit, Network
from hearth.testing.guest import FakeGuest
from tests.unit.pool_kit import KIND, Kit, make_kit, version


async def test_a_warm_slot_is_attached_and_loaded() -> None:
    kit = make_kit(keep=1)
    kit.want()
    await kit.settle()
    wanted = version(memory=64 << 20, network="internet", concurrency=4)
    slot = await kit.launcher.launch(wanted)
    attachment = kit.driver.sandboxes[slot.handle].attachment
    assert attachment is not None
    assert (attachment.artifact, attachment.limits.memory, attachment.network.mode) == (
        "art_hello",
        64 << 20,
        "internet",
    )
    assert kit.guests.opened[0].loaded == {
        "function": "hello", "namespace": "ann", "version": "1", "handler": "handler.handler", "concurrency": 4,
    }  # fmt: skip
    assert slot.handler == "handler.handler"
    assert set(slot.phases) == {"attach", "load"}  # nobody waited for the slot
    await kit.sandboxes.flush()
    assert any(row.version_id == wanted.id and row.state == "attached" for row in kit.rows.sandboxes)
    await kit.launcher.discard(slot, 0.0)
    await kit.close()


async def test_without_a_slot_one_is_made() -> None:
    kit = make_kit()
    slot = await kit.launcher.launch(version())
    assert kit.rows.sandboxes[0].state == "starting"  # the row came first
    assert set(slot.phases) == {"slot", "attach", "load"}
    await kit.launcher.discard(slot, 0.0)
    await kit.close()


async def test_a_slot_without_the_network_for_a_function_without_one() -> None:
    kit = make_kit()
    slot = await kit.launcher.launch(version(network="none"))
    assert slot.kind.networked is False
    assert kit.driver.sandboxes[slot.handle].spec.networked is False
    await kit.launcher.discard(slot, 0.0)
    await kit.close()


async def test_where_no_network_is_held_a_function_gets_none() -> None:
    kit = make_kit(networks=False)
    slot = await kit.launcher.launch(version())
    assert slot.kind.networked is False
    assert kit.driver.sandboxes[slot.handle].attachment.network == Network("none")
    await kit.launcher.discard(slot, 0.0)
    await kit.close()


async def test_a_slot_that_has_rotted_costs_nothing() -> None:
    kit = make_kit(keep=1)
    kit.want()
    await kit.settle()
    kit.driver.script.attach.append(SandboxFailed("its mount is gone"))
    slot = await kit.launcher.launch(version())
    assert slot.guest is not kit.guests.opened[0]
    await kit.launcher.discard(slot, 0.0)
    await kit.close()


async def fails(kit: Kit, **config: object) -> HearthError:
    with pytest.raises(HearthError) as caught:
        await kit.launcher.launch(version(**config))
    assert not kit.driver.running
    assert kit.slots._room.used == 0
    await kit.close()
    return caught.value


async def test_an_import_error_with_its_place_and_what_was_printed() -> None:
    def guest(fd: int) -> FakeGuest:
        made = FakeGuest(
            ready=FunctionLoadFailed(
                "ImportError: x", details={"file": "handler.py", "line": 3, "traceback": "T"}
            )
        )
        made_load = made.load

        async def load(payload: dict[str, object], deadline: float) -> dict[str, object]:
            made.log(None, "stdout", 1, "info", "printed first")
            return await made_load(payload, deadline)

        made.load = load  # type: ignore[method-assign]
        return made

    error = await fails(make_kit(guest=guest))
    assert isinstance(error, FunctionLoadFailed)
    assert error.details == {"file": "handler.py", "line": 3, "traceback": "T", "tail": "printed first"}


async def test_init_timeout_names_the_setting() -> None:
    error = await fails(make_kit(guest=lambda fd: FakeGuest(ready=FunctionTimeout("late"))), init_timeout=2.5)
    assert isinstance(error, FunctionLoadFailed)
    assert "2.5 s" in error.message and "init_timeout" in (error.hint or "")


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (Exit(3), "exited with code 3"),
        (Exit(None, 11), "SIGSEGV"),
        (Exit(None, 9, oom=True), "64MiB"),
        (Exit(None, 250), "signal 250"),
    ],
)
async def test_an_exit_while_loading_is_told_at_once(end: Exit, words: str) -> None:
    gate = asyncio.Event()

    def guest(fd: int) -> FakeGuest:
        made = FakeGuest()
        made.load_gate = gate  # it never answers: the exit must be enough
        return made

    kit = make_kit(guest=guest)
    launching = asyncio.create_task(kit.launcher.launch(version(memory=64 << 20)))
    while not kit.guests.opened or kit.guests.opened[0].loaded is None:
        await asyncio.sleep(0)
    kit.driver.end(kit.driver.running[0], end)
    with pytest.raises(FunctionCrashed) as caught:
        await launching
    assert words in caught.value.message
    assert not kit.driver.running
    await kit.close()


async def test_a_missing_artifact_or_toolchain_is_built_again() -> None:
    kit = make_kit()
    kit.driver.script.attach.append(NotFound("no such artifact"))
    gone = kit.gone
    error = await fails(kit)
    assert isinstance(error, PartsGone) and len(gone) == 1
    kit = make_kit()
    kit.toolchain[0] = None
    error = await fails(kit)
    assert isinstance(error, PartsGone) and len(kit.gone) == 1
    assert not kit.driver.sandboxes


async def test_the_cause_of_death_when_the_driver_does_not_know() -> None:
    kit = make_kit()
    slot = await kit.launcher.launch(version())
    slot.tail.append("last words")
    kit.driver.end(slot.handle, Exit(None))
    error = await kit.launcher.cause_of_death(slot)
    assert error.details == {"tail": "last words"}
    assert "crashed" in crash(Exit(1), slot).message
    assert kit.launcher.kind_of(version()) is not None and slot.kind == KIND
    await kit.launcher.discard(slot, 0.0)
    await kit.close()
