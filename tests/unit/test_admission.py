"""The line before an instance, and what is kept of invocations."""

from __future__ import annotations

import pytest

from hearth.app.admission import Line
from hearth.app.invoke import HELD_MAX, Recorder
from hearth.core.errors import QueueFull, StoreUnavailable
from hearth.core.invocation import SAMPLED_PER_SECOND, SLOW_AFTER, Outcome, Sampler
from hearth.core.metrics import BOUNDS, Histogram
from hearth.testing.clock import FakeClock
from hearth.testing.workshop import ListRows
from tests.unit.pool_kit import version


def nobody(*_: object) -> None: ...


def test_first_come_first_served_and_who_left_is_skipped() -> None:
    line = Line()
    tickets = [line.join(float(n), 10.0, nobody, 5, None) for n in range(3)]
    tickets[0].cancel()
    assert line.waiting == 2
    assert line.oldest() is tickets[1]
    assert [line.pop(), line.pop(), line.pop()] == [tickets[1], tickets[2], None]
    assert line.waiting == 0


def test_the_bound_counts_who_is_there() -> None:
    line = Line()
    first = line.join(0.0, 10.0, nobody, 1, None)
    with pytest.raises(QueueFull) as caught:
        line.join(0.0, 10.0, nobody, 1, 90.0)
    assert caught.value.retry_after == 30.0
    first.cancel()
    line.join(0.0, 10.0, nobody, 1, None)


def test_expired_tickets_are_out_of_the_line() -> None:
    line = Line()
    early, late = line.join(0.0, 1.0, nobody, 9, None), line.join(0.0, 5.0, nobody, 9, None)
    assert line.expired(1.0) == [early]
    assert line.expired(1.0) == []
    assert [line.pop(), line.waiting] == [late, 0]


def counted(calls: int) -> Histogram:
    return Histogram([calls, *[0] * len(BOUNDS)])


def test_failed_cold_and_cancelled_calls_are_always_kept_and_the_rest_sampled() -> None:
    sampler, many = Sampler(), counted(2000)
    kept = sum(sampler.keep(0.01, 5.0, False, counted(call)) for call in range(1000))
    assert kept == SAMPLED_PER_SECOND
    assert all(sampler.keep(0.001, 5.5, True, many) for _ in range(200))
    assert sampler.keep(0.001, 6.0, False, many)


def test_the_mark_of_slowness_finds_the_slowest_hundredth() -> None:
    import random

    chance, sampler, many = random.Random(1), Sampler(), counted(20_000)
    for _ in range(20_000):
        sampler.keep(chance.uniform(0.010, 0.020), 1.0, False, many)
    assert 0.017 < sampler.mark < 0.025
    assert not sampler.keep(1.0, 1.0, False, counted(SLOW_AFTER))
    assert sampler.keep(1.0, 1.0, False, counted(SLOW_AFTER + 1))
    assert not sampler.keep(0.012, 1.0, False, many)


def note(
    recorder: Recorder, outcome: Outcome = Outcome.SUCCEEDED, status: int = 200, cold: float = 0.0
) -> None:
    recorder.note(version(), b"inv_1", b"req", outcome, status, None, 1.0, 0.001, cold, 0.01)


async def test_a_warm_call_is_noted_as_any_other() -> None:
    store, clock = ListRows(), FakeClock()
    one, other = Recorder(store, clock), Recorder(store, clock)
    calls = [(200, 0.01, 1.0), (404, 0.2, 1.0)] * 150 + [
        (200, 0.5, 1.5),
        (200, 0.001, 1.6),
        (200, 0.001, 2.0),
    ]
    for number, (status, seconds, now) in enumerate(calls):
        invocation = b"inv_%d" % number
        one.note(version(), invocation, b"req", Outcome.SUCCEEDED, status, None, now, 0.0, 0.0, seconds)
        other.warm(version(), invocation, b"req", status, now, seconds)
    assert one.figures() == other.figures()
    assert one._rows == other._rows
    kept = [int(row.id.removeprefix("inv_")) for row in one._rows]
    assert kept[:SAMPLED_PER_SECOND] == list(range(SAMPLED_PER_SECOND))
    assert {300, 302} < set(kept)  # a slow one, and one of the next second
    assert 301 not in kept


async def test_rows_wait_for_a_store_that_is_down_and_are_bounded() -> None:
    store, clock = ListRows(), FakeClock()
    recorder = Recorder(store, clock)
    note(recorder)
    store.down = StoreUnavailable("down")
    await recorder.flush()
    assert store.invocations == []
    store.down = None
    await recorder.flush()
    (row,) = store.invocations
    assert (row.id, row.queue_ms, row.function_ms, row.cold) == ("inv_1", 1.0, 10.0, False)
    assert row.started_ms == clock.now_ms() - 11
    for _ in range(HELD_MAX + 7):
        note(recorder, Outcome.FAILED, 502)
    assert recorder.dropped == 7
    await recorder.flush()
    assert len(store.invocations) == HELD_MAX + 1


async def test_figures_count_what_rows_leave_out() -> None:
    recorder = Recorder(ListRows(), FakeClock())
    for _ in range(100):
        note(recorder)
    note(recorder, Outcome.FAILED, 500)
    note(recorder, Outcome.CANCELLED, 499, cold=0.2)
    figures = recorder.figures()["fn_hello"]
    assert (figures.calls, figures.failed, figures.cancelled, figures.cold) == (102, 1, 1, 1)
    recorder.forget("fn_hello")
    assert recorder.figures() == {}
