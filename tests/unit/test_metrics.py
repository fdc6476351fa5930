"""What processes count: histograms, series that are bounded and never go backwards, the page."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from hearth.app.build_figures import BuildFigures
from hearth.app.figures import ShardFigures
from hearth.app.invoke import Recorder
from hearth.app.start_figures import CountedLaunches, StartFigures
from hearth.app.stats import merge
from hearth.core.errors import FunctionLoadFailed, HearthError, NoCapacity
from hearth.core.invocation import Outcome
from hearth.core.metrics import BOUNDS, EXPOSED, METRICS, OTHER, Histogram, ProcessSamples, Sample
from hearth.telemetry.figures import decode, encode
from hearth.telemetry.metrics import render
from hearth.testing.workshop import ListRows
from tests.promtool import promtool
from tests.unit.pool_kit import Kit, function_row, make_kit, version

Value = float | Histogram


def value(samples: Iterator[Sample | None] | list[Sample], name: str, *labels: str) -> Value:
    found = [sample.value for sample in samples if sample is not None and sample[:2] == (name, labels)]
    assert len(found) == 1, (name, labels, found)
    return found[0]


# Histograms.


def test_bounds_rise_and_some_are_published() -> None:
    assert list(BOUNDS) == sorted(set(BOUNDS)) and (BOUNDS[0], BOUNDS[-1]) == (0.0001, 800.0)
    published = [BOUNDS[place] for place in EXPOSED]
    assert published[:4] == [0.00025, 0.0005, 0.001, 0.0025] and len(published) < 30 and 10.0 in published


def test_a_duration_on_a_bound_belongs_below_it() -> None:
    histogram = Histogram()
    for seconds in (0.0, 0.001, 5000.0, -0.1):
        histogram.observe(seconds)
    assert histogram.counts[0] == 2 and histogram.counts[BOUNDS.index(0.001)] == 1
    assert histogram.counts[-1] == 1 and histogram.count == 4


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_quantiles_are_near_the_truth(share: float) -> None:
    histogram = Histogram()
    durations = [0.0002 * 1.01**n for n in range(1000)]
    for seconds in durations:
        histogram.observe(seconds)
    truth = durations[int(share * 1000) - 1]
    found = histogram.quantile(share)
    assert found is not None and abs(found / truth - 1) < 0.05


def test_quantiles_at_the_ends() -> None:
    assert Histogram().quantile(0.5) is None
    high = Histogram()
    high.observe(10_000.0)
    assert high.quantile(0.99) == BOUNDS[-1]
    low = Histogram()
    low.observe(0.00001)
    assert 0.0 <= (low.quantile(0.0) or 0.0) <= BOUNDS[0]


# A shard.


@pytest_asyncio.fixture
async def kit() -> AsyncIterator[Kit]:
    made = make_kit(keep=1)
    yield made
    await made.close()


class Shard:
    """Figures over a real recorder, pool and slots; `most` functions have series of their own."""

    def __init__(self, kit: Kit, most: int = 500) -> None:
        self.recorder = Recorder(ListRows(), kit.clock)
        self.starts = StartFigures(("python",))
        self.figures = ShardFigures(self.recorder, kit.pool, kit.slots, self.starts, lambda: 7, most)

    def call(
        self, name: str, outcome: Outcome = Outcome.SUCCEEDED, error: str | None = None, cold: float = 0.0
    ) -> None:
        self.recorder.note(version(name), b"inv_1", b"r", outcome, 200, error, 1.0, 0.0, cold, 0.010)

    def samples(self, functions: set[str] | None = None) -> list[Sample]:
        return [sample for sample in self.figures.samples(functions) if sample is not None]

    def calls(self) -> dict[str, float]:
        """Succeeded calls by the label `function`."""
        found: dict[str, float] = {}
        for sample in self.samples():
            if sample.name == "hearth_requests_total" and sample.labels[2] == "succeeded":
                assert isinstance(sample.value, int)
                found[sample.labels[1]] = sample.value
        return found


async def test_calls_by_outcome_fault_and_latency(kit: Kit) -> None:
    shard = Shard(kit)
    shard.call("hello")
    shard.call("hello", cold=0.2)
    shard.call("hello", Outcome.CANCELLED, "cancelled")
    for error in (None, "function_timeout", "too_large", "no_capacity", "queue_full", "of_no_class"):
        shard.call("hello", Outcome.FAILED, error)
    told = shard.samples()
    for outcome, count in (("succeeded", 2), ("failed", 6), ("cancelled", 1)):
        assert value(told, "hearth_requests_total", "ann", "hello", outcome) == count
    for source, count in (("function", 2), ("request", 1), ("platform", 3)):
        assert value(told, "hearth_errors_total", "ann", "hello", source) == count
    assert value(told, "hearth_cold_requests_total", "ann", "hello") == 1
    latency = value(told, "hearth_request_duration_seconds", "ann", "hello")
    assert isinstance(latency, Histogram) and latency.count == 9
    assert latency.sum == pytest.approx(9 * 0.010 + 0.2)
    assert latency.counts[BOUNDS.index(0.25)] == 1  # the cold one, as long as its caller waited


async def test_errors_of_the_gateways_own_are_the_requests(kit: Kit) -> None:
    import hearth.gateway.errors  # noqa: F401 - its classes are what is looked at

    shard = Shard(kit)
    shard.call("hello", Outcome.FAILED, "request_timeout")
    assert value(shard.samples(), "hearth_errors_total", "ann", "hello", "request") == 1


async def test_requests_that_came_to_no_function(kit: Kit) -> None:
    shard = Shard(kit)
    shard.recorder.refuse("not_found")
    shard.recorder.refuse("not_found")
    assert value(shard.samples(), "hearth_refused_requests_total", "not_found") == 2
    assert value(shard.samples(), "hearth_functions") == 7


async def test_instances_queue_and_slots(kit: Kit) -> None:
    shard = Shard(kit)
    kit.want()
    await kit.settle()
    assert value(shard.samples(), "hearth_slots", "python", "waiting") == 1
    wanted = version("hello", concurrency=1)
    await kit.up(wanted)
    busy = kit.pool.take(wanted)
    assert busy is not None
    waiting = kit.queue(wanted)
    told = shard.samples()
    assert value(told, "hearth_instances", "ann", "hello", "ready") == 1
    assert value(told, "hearth_requests_in_flight", "ann", "hello") == 1
    assert value(told, "hearth_queue_length", "ann", "hello") == 1
    assert value(told, "hearth_instances", "ann", "hello", "starting") == 1
    waiting.ticket.cancel()
    kit.pool.give_back(busy, kit.clock.monotonic())


async def test_the_page_is_bounded_and_the_rest_is_a_sum(kit: Kit) -> None:
    shard = Shard(kit, most=2)
    for number in range(6):
        for _ in range(number + 1):
            shard.call(f"f{number}")
    assert shard.calls() == {OTHER: 3 + 4 + 5 + 6, "f0": 1, "f1": 2}
    one = shard.samples({"fn_f4"})
    assert value(one, "hearth_requests_total", "ann", "f4", "succeeded") == 5  # asked for, each is itself
    assert {sample.labels[1] for sample in one} == {"f4"}
    lines = render([ProcessSamples("shard-0", shard.samples())]).decode().splitlines()
    assert {found for line in lines for found in re.findall(r'function="(\w+)"', line)} == {"f0", "f1", OTHER}


async def test_no_counter_goes_backwards_when_functions_go(kit: Kit) -> None:
    shard = Shard(kit, most=2)
    for number in range(4):
        shard.call(f"f{number}")
    assert shard.calls() == {OTHER: 2, "f0": 1, "f1": 1}
    shard.recorder.keep_only({"fn_f1", "fn_f3"})  # one with its own series and one of the sum are deleted
    assert shard.calls() == {OTHER: 2, "f1": 1}
    shard.call("f3")
    shard.call("f4")  # takes the place that is free; who is in the sum stays there
    assert shard.calls() == {OTHER: 3, "f1": 1, "f4": 1}
    shard.call("f5")
    shard.recorder.forget("fn_f5")  # came and went between two looks
    assert shard.calls() == {OTHER: 4, "f1": 1, "f4": 1}


async def test_two_functions_of_one_name_are_one_series_and_the_sum(kit: Kit) -> None:
    """A deleted function's last call may end after a new one of its name was called."""
    import dataclasses

    shard = Shard(kit)
    shard.call("hello")
    again = dataclasses.replace(version("hello"), function_id="fn_again")
    shard.recorder.note(again, b"inv_2", b"r", Outcome.SUCCEEDED, 200, None, 1.0, 0.0, 0.0, 0.01)
    assert shard.calls() == {OTHER: 1, "hello": 1}


# Starts and builds.


async def test_starts_by_slot_phase_and_fault() -> None:
    kit = make_kit(keep=0)
    starts = StartFigures(("python", "go"))
    launches = CountedLaunches(kit.launcher, starts)
    fresh = await launches.launch(version())
    told = list(starts.samples({}))
    assert value(told, "hearth_instance_starts_total", "python", "fresh") == 1
    assert value(told, "hearth_instance_starts_total", "go", "warm") == 0
    for phase in ("slot", "attach", "load"):
        found = value(told, "hearth_cold_start_phase_seconds", "python", phase)
        assert isinstance(found, Histogram) and found.count == 1
    await launches.discard(fresh, 0.0)
    await kit.close()

    kit = make_kit(keep=1)
    starts = StartFigures()
    kit.want()
    await kit.settle()
    warm = await CountedLaunches(kit.launcher, starts).launch(version())
    told = list(starts.samples({}))
    assert value(told, "hearth_instance_starts_total", "python", "warm") == 1
    assert not [sample for sample in told if sample.labels == ("python", "slot")]  # nobody waited for it
    await kit.launcher.discard(warm, 0.0)
    await kit.close()


async def test_failed_starts() -> None:
    class Failing:
        def __init__(self, error: HearthError) -> None:
            self.error = error

        async def launch(self, _: object) -> object:
            raise self.error

        async def discard(self, *_: object) -> None: ...

    starts = StartFigures(("python",))
    for error in (FunctionLoadFailed("x"), NoCapacity("x"), NoCapacity("x")):
        with pytest.raises(type(error)):
            await CountedLaunches(Failing(error), starts).launch(version())  # type: ignore[arg-type]
    from hearth.core.errors import sources_by_code

    told = list(starts.samples(sources_by_code()))
    for source, count in (("function", 1), ("platform", 2), ("request", 0)):
        assert value(told, "hearth_instance_start_failures_total", "python", source) == count


def test_builds() -> None:
    builds = BuildFigures(("python", "node"))
    with builds.one():
        assert value(builds.samples(), "hearth_builds_running") == 1
    builds.note("python", "succeeded", 3.0)
    builds.note("python", "cached", 0.0)
    told = list(builds.samples())
    assert value(told, "hearth_builds_running") == 0
    assert value(told, "hearth_builds_total", "python", "cached") == 1
    assert value(told, "hearth_builds_total", "node", "failed") == 0  # there before it happens
    found = value(told, "hearth_build_seconds", "python")
    assert isinstance(found, Histogram) and (found.count, found.sum) == (1, 3.0)


# Told, merged, shown.


async def everything(kit: Kit) -> list[Sample]:
    """A sample at least of each metric that a process tells."""
    shard = Shard(kit)
    kit.want()
    await kit.settle()
    shard.call("hello")
    shard.call("hello", Outcome.FAILED, "too_large")
    shard.recorder.refuse("not_found")
    shard.starts.started("python", {"slot": 0.1, "attach": 0.001, "load": 0.02})
    builds = BuildFigures(("python",))
    builds.note("python", "failed", 700.0)
    plain = [
        Sample(name, ("1",) * len(METRICS[name].labels), 1.0)
        for name in METRICS
        if name.startswith(("hearth_process_", "hearth_build_info")) and name != "hearth_process_up"
    ]
    return [*plain, *shard.samples(), *builds.samples()]


async def test_a_sample_survives_the_way_between_processes(kit: Kit) -> None:
    told = await everything(kit)
    assert [decode(encode(sample)) for sample in told] == told
    assert {sample.name for sample in told} == METRICS.keys() - {"hearth_process_up"}
    for sample in told:
        assert len(sample.labels) == len(METRICS[sample.name].labels)


@pytest.mark.parametrize(
    "line",
    [
        b"[]", b"null", b"{", b'["hearth_nothing", [], 1]', b'["hearth_functions", ["x"], 1]',
        b'["hearth_functions", [], {"sum": 1, "counts": []}]', b'["hearth_build_seconds", ["go"], 3]',
        b'["hearth_build_seconds", ["go"], {"sum": 1, "counts": [[9999, 1]]}]',
    ],
)  # fmt: skip
def test_nonsense_is_not_merged(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode(line)


async def test_the_page_is_what_prometheus_wants(kit: Kit) -> None:
    told = await everything(kit)
    page = render(
        [
            ProcessSamples("shard-0", told),
            ProcessSamples("shard-1", told),
            ProcessSamples("shard-2", (), up=False),
        ]
    )
    promtool("check", "metrics", stdin=page)
    text = page.decode()
    for name in METRICS:
        assert re.search(rf"^# HELP {name} ", text, re.M) and re.search(rf"^# TYPE {name} ", text, re.M)
    assert 'hearth_process_up{process="shard-2"} 0.0' in text
    series = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series))


async def test_an_empty_page_too() -> None:
    promtool("check", "metrics", stdin=render([]))


def test_buckets_are_cumulative() -> None:
    histogram = Histogram()
    for seconds in (0.0001, 0.00025, 0.0003, 0.9, 900.0):
        histogram.observe(seconds)
    told = [Sample("hearth_build_seconds", ("go",), histogram)]
    text = render([ProcessSamples("control", told)]).decode()
    found = dict(re.findall(r'hearth_build_seconds_bucket\{le="([^"]+)".*\} (\S+)', text))
    assert [found[bound] for bound in ("0.00025", "0.0005", "0.5", "1.0", "500.0", "+Inf")] == [
        "2.0", "3.0", "3.0", "4.0", "4.0", "5.0",
    ]  # fmt: skip
    assert len(found) == len(EXPOSED) + 1


async def test_stats_add_up_what_processes_tell(kit: Kit) -> None:
    shard = Shard(kit)
    shard.call("hello")
    shard.call("hello", Outcome.FAILED, "function_crashed")
    shard.call("other")
    told = [
        ProcessSamples("shard-0", shard.samples()),
        ProcessSamples("shard-1", shard.samples()),
        ProcessSamples("shard-2", (), up=False),
    ]
    hello, silent = merge([function_row("hello"), function_row("silent")], told)
    assert hello.outcomes == {"succeeded": 2, "failed": 2, "cancelled": 0}
    assert hello.errors["function"] == 2 and hello.latency.count == 4
    assert (hello.latency.quantile(0.5) or 0) == pytest.approx(0.010, rel=0.26)
    assert (silent.latency.quantile(0.5), sum(silent.outcomes.values())) == (None, 0)
