"""How many instances: the pure decision, by cases and by properties; and the loop that ticks the pool."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from hearth.app.scaler import Scaler
from hearth.core.function import Scale
from hearth.core.scaling import BURST, Decision, Memory, Policy, Stats, decide, failed, smooth, started
from tests.unit.pool_kit import make_kit, version

POLICY = Policy(min=0, max=10, idle=60.0, concurrency=1)


def start(stats: Stats, policy: Policy = POLICY, memory: Memory | None = None, now: float = 100.0) -> int:
    return decide(policy, stats, now, memory or Memory())[0].start


def test_nothing_to_do() -> None:
    assert decide(POLICY, Stats(), 0.0, Memory())[0] == Decision(0, 0)
    assert decide(POLICY, Stats(ready=3, in_flight=3), 0.0, Memory())[0] == Decision(0, 0)


def test_who_waits_gets_one() -> None:
    assert start(Stats(waiting=1)) == 1
    assert start(Stats(waiting=3)) == 3
    assert start(Stats(waiting=1, starting=1)) == 0
    assert start(Stats(ready=1, in_flight=1, waiting=1)) == 1


def test_a_burst_is_damped_and_grows_with_what_is_up() -> None:
    assert start(Stats(waiting=50)) == BURST
    assert start(Stats(waiting=50, starting=BURST)) == 0
    assert start(Stats(ready=6, in_flight=6, waiting=50), Policy(0, 100, 60.0, 1)) == 6


def test_never_above_max() -> None:
    assert start(Stats(ready=9, in_flight=9, waiting=50)) == 1
    assert start(Stats(ready=10, in_flight=10, waiting=50)) == 0


def test_concurrency_counts() -> None:
    policy = Policy(0, 10, 60.0, 32)
    assert start(Stats(waiting=32), policy) == 1
    assert start(Stats(waiting=33), policy) == 2


def test_min_is_kept_without_anybody_waiting() -> None:
    policy = Policy(2, 10, 60.0, 1)
    assert start(Stats(), policy) == 2
    assert start(Stats(ready=1, starting=1), policy) == 0


def test_quick_functions_are_waited_for_and_slow_ones_not() -> None:
    quick, slow = Memory(service=0.001, cold=0.05), Memory(service=1.0, cold=0.05)
    busy = Stats(ready=1, in_flight=1, waiting=5)
    assert start(busy, memory=quick) == 0
    assert start(busy, memory=slow) > 0
    assert start(Stats(ready=1, in_flight=1, waiting=5, oldest_wait=1.0), memory=quick) > 0  # stuck, it seems


def test_after_a_failure_nothing_starts_for_a_while() -> None:
    memory = failed(Memory(), 100.0)
    assert start(Stats(waiting=1), memory=memory, now=100.4) == 0
    assert start(Stats(waiting=1), memory=memory, now=100.6) == 1
    for _ in range(40):
        memory = failed(memory, 100.0)
    assert memory.not_before == 130.0
    assert started(memory, 0.1).failures == 0


def test_the_longest_idle_go() -> None:
    assert decide(POLICY, Stats(ready=3, idle_for=(70.0, 61.0, 3.0)), 0.0, Memory())[0].stop == 2
    policy = Policy(2, 10, 60.0, 1)
    assert decide(policy, Stats(ready=3, idle_for=(70.0, 65.0, 61.0)), 0.0, Memory())[0].stop == 1


def test_averages() -> None:
    assert smooth(None, 5.0) == 5.0
    assert 1.0 < smooth(1.0, 2.0) < 2.0


@given(
    st.integers(0, 5), st.integers(1, 20), st.integers(1, 64), st.integers(0, 30), st.integers(0, 30),
    st.integers(0, 200), st.integers(0, 500), st.lists(st.floats(0, 500), max_size=30),
    st.floats(0, 200), st.none() | st.floats(0, 10),
)  # fmt: skip
def test_a_decision_keeps_the_bounds(
    least: int, most: int, concurrency: int, ready: int, starting: int, in_flight: int, waiting: int,
    idle: list[float], now: float, service: float | None,
) -> None:  # fmt: skip
    policy = Policy(least, max(least, most), 60.0, concurrency)
    idle = sorted(idle, reverse=True)[:ready]
    stats = Stats(ready, starting, in_flight, waiting, 0.0, tuple(idle))
    decision, _ = decide(policy, stats, now, Memory(service=service))
    assert decision.start >= 0 and decision.stop >= 0
    assert not (decision.start and decision.stop)
    assert decision.start == 0 or ready + starting + decision.start <= policy.max
    assert decision.stop <= len(idle)
    assert decision.stop == 0 or ready + starting - decision.stop >= least


async def test_the_loop_ticks_and_looks_closer_while_somebody_waits() -> None:
    kit = make_kit()
    scaler = asyncio.create_task(Scaler(kit.pool, kit.clock).run())
    kit.pool.serve_only([version(scale=Scale(min=1))])
    for _ in range(3):
        await kit.settle()
        kit.clock.advance(0.5)
    await kit.settle()
    assert len(kit.pool.instances) == 1
    busy = kit.pool.take(version(scale=Scale(min=1)))
    assert busy is not None
    kit.driver.gate = asyncio.Event()
    waiter = kit.queue(version(scale=Scale(min=1)), patience=0.1)
    for _ in range(4):
        await kit.settle()
        kit.clock.advance(0.05)
    await kit.settle()
    assert waiter.error is not None
    scaler.cancel()
    await asyncio.gather(scaler, return_exceptions=True)
    kit.pool.give_back(busy, 0.0)
    await kit.close()
