"""The pool: who gets which instance, who waits, what starts and what stops."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from hearth.core import scaling
from hearth.core.errors import (
    FunctionCrashed,
    FunctionLoadFailed,
    FunctionTimeout,
    KeeperUnavailable,
    NoCapacity,
    QueueFull,
)
from hearth.core.function import Scale
from hearth.core.instance import InstanceState
from hearth.testing.guest import FakeGuest
from tests.unit.pool_kit import Kit, make_kit, version


@pytest_asyncio.fixture
async def kit() -> AsyncIterator[Kit]:
    made = make_kit()
    yield made
    await made.close()


async def test_nothing_is_up_at_first(kit: Kit) -> None:
    assert kit.pool.take(version()) is None
    assert not kit.pool.is_up(version())


async def test_who_waits_gets_the_instance_that_was_started_for_him(kit: Kit) -> None:
    waiter = kit.queue(version())
    assert waiter.instance is None
    await kit.settle()
    assert waiter.instance is not None and waiter.instance.in_flight == 1
    assert kit.pool.take(version()) is None  # one at a time
    kit.pool.give_back(waiter.instance, kit.clock.monotonic())
    assert kit.pool.take(version()) is waiter.instance


async def test_room_by_concurrency(kit: Kit) -> None:
    wanted = version(concurrency=3)
    instance = await kit.up(wanted)
    assert [kit.pool.take(wanted) for _ in range(4)] == [instance, instance, instance, None]
    kit.pool.give_back(instance, 0.0)
    assert kit.pool.take(wanted) is instance
    assert kit.pool.take(wanted) is None


async def test_a_quick_function_that_fills_for_the_first_time_starts_no_other(kit: Kit) -> None:
    wanted = version(concurrency=3, scale=Scale(max=4))
    instance = await kit.up(wanted)
    group = kit.pool._groups[wanted.id]
    group.memory = scaling.started(group.memory, 0.5)  # here a start takes no time
    for _ in range(5):  # what it takes is known from calls that left it room
        assert kit.pool.take(wanted) is instance
        kit.pool.give_back(instance, kit.clock.monotonic(), 0.001)
    assert [kit.pool.take(wanted) for _ in range(3)] == [instance] * 3
    waiter = kit.queue(wanted)
    await kit.settle()
    assert (len(kit.pool.instances), waiter.heard) == (1, 0)
    kit.pool.give_back(instance, kit.clock.monotonic(), 0.001)
    assert waiter.instance is instance


async def test_load_gathers_on_the_instance_used_last(kit: Kit) -> None:
    wanted = version()
    waiters = [kit.queue(wanted), kit.queue(wanted)]
    await kit.settle()
    first, second = (waiter.instance for waiter in waiters)
    assert first is not None and second is not None and first is not second
    kit.pool.give_back(first, 1.0)
    kit.pool.give_back(second, 2.0)
    for _ in range(3):
        assert kit.pool.take(wanted) is second
        kit.pool.give_back(second, 3.0)


async def test_first_come_first_served_whoever_launched(kit: Kit) -> None:
    wanted = version(scale=Scale(max=1))
    waiters = [kit.queue(wanted) for _ in range(3)]
    await kit.settle()
    assert [waiter.heard for waiter in waiters] == [1, 0, 0]
    instance = waiters[0].instance
    assert instance is not None
    kit.pool.give_back(instance, 0.0)
    assert [waiter.heard for waiter in waiters] == [1, 1, 0]
    kit.pool.give_back(instance, 0.0)
    assert waiters[2].instance is instance


async def test_who_leaves_is_passed_over_and_leaves_a_warm_instance(kit: Kit) -> None:
    wanted = version()
    waiter = kit.queue(wanted)
    waiter.ticket.cancel()
    waiter.ticket.cancel()
    assert kit.pool.waiting == 0
    await kit.settle()
    assert waiter.heard == 0
    assert kit.pool.take(wanted) is not None


async def test_at_most_max_are_started(kit: Kit) -> None:
    wanted = version(scale=Scale(max=3))
    waiters = [kit.queue(wanted) for _ in range(10)]
    await kit.settle()
    assert len(kit.pool.instances) == 3
    assert sum(waiter.heard for waiter in waiters) == 3


async def test_a_rush_does_not_start_them_all_at_once(kit: Kit) -> None:
    kit.driver.gate = asyncio.Event()
    wanted = version(scale=Scale(max=20))
    for _ in range(20):
        kit.queue(wanted)
    await kit.settle()
    assert kit.pool._groups[wanted.id].starting == 4


async def test_the_queue_is_bounded_beyond_what_max_will_hold(kit: Kit) -> None:
    wanted = version(concurrency=2, scale=Scale(max=2, queue=3))
    for _ in range(2 * 2 + 3):
        kit.queue(wanted)
    with pytest.raises(QueueFull) as caught:
        kit.queue(wanted)
    assert caught.value.retry_after is not None and caught.value.retry_after >= 1


async def test_a_late_ticket_hears_why(kit: Kit) -> None:
    kit.driver.gate = asyncio.Event()
    cold = kit.queue(version(), patience=2.0)
    kit.clock.advance(2.5)
    kit.pool.tick(kit.clock.monotonic())
    assert isinstance(cold.error, FunctionTimeout)
    kit.driver.gate.set()
    await kit.settle()
    busy = version("busy", scale=Scale(max=1))
    await kit.up(busy)
    assert kit.pool.take(busy)
    late = kit.queue(busy, patience=2.0)
    kit.clock.advance(2.5)
    kit.pool.tick(kit.clock.monotonic())
    assert isinstance(late.error, QueueFull)
    assert kit.pool.waiting == 0


async def test_idle_instances_go_after_their_time_but_min_stays(kit: Kit) -> None:
    wanted = version(scale=Scale(min=1, idle=10.0))
    waiters = [kit.queue(wanted) for _ in range(3)]
    await kit.settle()
    for waiter in waiters:
        assert waiter.instance is not None
        kit.pool.give_back(waiter.instance, kit.clock.monotonic())
    kit.clock.advance(9.0)
    kit.pool.tick(kit.clock.monotonic())
    assert len(kit.pool.instances) == 3
    kit.clock.advance(2.0)
    kit.pool.tick(kit.clock.monotonic())
    await kit.settle()
    assert len(kit.pool.instances) == 1
    assert len(kit.driver.running) == 1


async def test_scale_to_zero_leaves_nothing_behind(kit: Kit) -> None:
    await kit.up(version())
    kit.clock.advance(61.0)
    kit.pool.tick(kit.clock.monotonic())
    await kit.settle()
    assert not kit.pool.instances and not kit.driver.running and not kit.pool._groups


async def test_min_is_started_without_a_request(kit: Kit) -> None:
    kit.pool.serve_only([version(scale=Scale(min=2))])
    kit.pool.tick(kit.clock.monotonic())
    await kit.settle()
    assert len(kit.pool.instances) == 2


async def test_a_busy_instance_is_not_idle(kit: Kit) -> None:
    wanted = version(scale=Scale(idle=1.0))
    instance = await kit.up(wanted)
    assert kit.pool.take(wanted) is instance
    kit.clock.advance(100.0)
    kit.pool.tick(kit.clock.monotonic())
    assert instance.state is InstanceState.READY


async def test_a_retired_instance_takes_nothing_new_and_goes_when_it_is_empty(kit: Kit) -> None:
    wanted = version(concurrency=4)
    instance = await kit.up(wanted)
    assert kit.pool.take(wanted) is instance
    kit.pool.retire(instance)
    assert kit.pool.take(wanted) is None
    await kit.settle()
    assert kit.driver.running
    kit.pool.give_back(instance, 0.0)
    await kit.settle()
    assert not kit.driver.running
    assert instance.state is InstanceState.GONE


async def test_a_dead_instance_is_never_given_out(kit: Kit) -> None:
    wanted = version()
    await kit.up(wanted)
    kit.guests.opened[0].die()
    await kit.settle()
    assert kit.pool.take(wanted) is None
    assert not kit.driver.running
    again = kit.queue(wanted)
    await kit.settle()
    assert again.instance is not None


async def test_a_death_with_somebody_waiting_starts_another(kit: Kit) -> None:
    wanted = version(scale=Scale(max=1))
    await kit.up(wanted)
    instance = kit.pool.take(wanted)
    assert instance is not None
    waiter = kit.queue(wanted)
    kit.guests.opened[0].die()
    kit.pool.give_back(instance, 0.0)
    await kit.settle()
    assert waiter.instance is not None and waiter.instance is not instance


async def test_a_load_error_is_told_at_once_to_all_who_wait_and_then_kept_for_a_while() -> None:
    error = FunctionLoadFailed("ImportError: nope", details={"line": 3})
    kit = make_kit(guest=lambda fd: FakeGuest(ready=error))
    wanted = version()
    waiters = [kit.queue(wanted) for _ in range(3)]
    await kit.settle()
    assert [type(waiter.error) for waiter in waiters] == [FunctionLoadFailed] * 3
    started = len(kit.driver.sandboxes)
    with pytest.raises(FunctionLoadFailed) as caught:
        kit.queue(wanted)
    assert caught.value.details["line"] == 3
    assert len(kit.driver.sandboxes) == started
    kit.clock.advance(60.0)
    kit.queue(wanted)  # another try is due
    await kit.settle()
    assert len(kit.driver.sandboxes) > started
    assert not kit.driver.running
    await kit.close()


async def test_requests_wait_through_a_keeper_that_restarts(kit: Kit) -> None:
    kit.driver.script.start.extend([KeeperUnavailable("gone")] * 2)
    waiter = kit.queue(version())
    for _ in range(10):
        await kit.settle()
        kit.clock.advance(0.1)
        kit.pool.tick(kit.clock.monotonic())
    await kit.settle()
    assert waiter.error is None and waiter.instance is not None


async def test_requests_hear_of_a_keeper_that_does_not_come_back(kit: Kit) -> None:
    kit.driver.script.start.extend([KeeperUnavailable("gone")] * 100)
    waiter = kit.queue(version())
    for _ in range(60):
        await kit.settle()
        kit.clock.advance(0.2)
        kit.pool.tick(kit.clock.monotonic())
    assert isinstance(waiter.error, KeeperUnavailable)


async def test_a_full_node_gives_up_an_idle_instance_of_another_function() -> None:
    kit = make_kit(room=2)
    await kit.up(version("one"))
    kit.clock.advance(1.0)
    await kit.up(version("two"))
    third = await kit.up(version("three"))
    assert {instance.group.version.name for instance in kit.pool.instances} == {"two", "three"}
    assert kit.pool.take(version("three")) is third
    assert kit.pool.take(version("two")) is not None
    fourth = kit.queue(version("four"))
    await kit.settle()
    assert isinstance(fourth.error, NoCapacity)
    await kit.close()


async def test_versions_without_a_route_finish_and_end(kit: Kit) -> None:
    old, new = version("hello", 1, concurrency=2), version("hello", 2)
    instance = await kit.up(old)
    assert kit.pool.take(old) is instance
    kit.pool.serve_only([new])
    assert instance.state is InstanceState.READY
    late = kit.pool.take(old)  # was routed a moment before
    assert late is instance
    kit.pool.give_back(instance, 0.0)
    kit.pool.give_back(instance, 0.0)
    await kit.settle()
    assert not kit.pool.instances and old.id not in kit.pool._groups


async def test_a_lease_gives_back_also_when_its_waiter_is_cancelled(kit: Kit) -> None:
    wanted = version()
    async with kit.pool.lease(wanted, kit.clock.monotonic() + 5) as instance:
        assert instance.in_flight == 1

        async def wait() -> None:
            async with kit.pool.lease(version(scale=Scale(max=1)), kit.clock.monotonic() + 5):
                pass

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert instance.in_flight == 0
    await kit.settle()
    assert sum(i.in_flight for i in kit.pool.instances) == 0


async def test_close_stops_everything_and_tells_who_waits(kit: Kit) -> None:
    await kit.up(version("one"))
    kit.driver.gate = asyncio.Event()
    waiter = kit.queue(version("two"))
    await kit.settle()
    closing = asyncio.create_task(kit.pool.close())
    await kit.settle()
    assert isinstance(waiter.error, NoCapacity)
    kit.driver.gate.set()
    await closing
    assert not kit.driver.running


async def test_the_counts_add_up_whatever_happens(kit: Kit) -> None:
    """A long random walk; after each step `free` holds exactly the READY instances with room."""
    chance = random.Random(7)
    wanted = version(concurrency=3, scale=Scale(max=4, queue=5, idle=5.0))
    taken: list[object] = []
    waiters: list[object] = []
    for _ in range(600):
        what = chance.random()
        if what < 0.35:
            instance = kit.pool.take(wanted)
            if instance is not None:
                taken.append(instance)
        elif what < 0.6 and taken:
            kit.pool.give_back(taken.pop(chance.randrange(len(taken))), kit.clock.monotonic(), 0.01)  # type: ignore[arg-type]
        elif what < 0.75:
            instance = kit.pool.take(wanted)  # nobody queues without asking first
            if instance is not None:
                taken.append(instance)
            else:
                with contextlib.suppress(QueueFull, FunctionCrashed):  # one may have died while it loaded
                    waiters.append(kit.queue(wanted, 3.0))
        elif what < 0.8 and kit.pool.instances:
            kit.pool.retire(chance.choice(kit.pool.instances))
        elif what < 0.85 and kit.guests.opened:
            chance.choice(kit.guests.opened).die()
        elif what < 0.9:
            kit.clock.advance(chance.random() * 2)
            kit.pool.tick(kit.clock.monotonic())
        else:
            await asyncio.sleep(0)
        for waiter in list(waiters):
            if waiter.heard:  # type: ignore[attr-defined]
                waiters.remove(waiter)
                if waiter.instance is not None:  # type: ignore[attr-defined]
                    taken.append(waiter.instance)  # type: ignore[attr-defined]
        group = kit.pool._groups.get(wanted.id)
        if group is not None:
            room = [i for i in group.instances if i.state is InstanceState.READY and i.in_flight < i.limit]
            assert set(room) == set(group.free) and len(group.free) == len(set(group.free))
            assert group.ready == sum(i.state is InstanceState.READY for i in group.instances)
            assert group.in_flight == len([i for i in taken if i in group.instances])
            assert group.ready + group.starting <= 4 + 4
            assert not (group.line.waiting and group.free)
    for instance in taken:
        kit.pool.give_back(instance, kit.clock.monotonic())  # type: ignore[arg-type]


async def test_a_process_that_leaves_serves_on_and_keeps_nothing_idle(kit: Kit) -> None:
    wanted = version()
    waiters = [kit.queue(wanted), kit.queue(wanted)]
    await kit.settle()
    taken, other = waiters[0].instance, waiters[1].instance
    assert taken is not None and other is not None
    kit.pool.give_back(other, kit.clock.monotonic())
    kit.pool.leave()
    await kit.settle()
    assert kit.pool.instances == [taken]
    assert other.state is InstanceState.GONE
    waiter = kit.queue(wanted)
    kit.pool.give_back(taken, kit.clock.monotonic())
    assert waiter.instance is taken
    kit.pool.give_back(taken, kit.clock.monotonic())
    await kit.settle()
    assert kit.pool.instances == []
    late = kit.queue(wanted)  # on a connection that was kept
    await kit.settle()
    assert late.instance is not None
    kit.pool.give_back(late.instance, kit.clock.monotonic())
    await kit.settle()
    assert kit.pool.instances == []
