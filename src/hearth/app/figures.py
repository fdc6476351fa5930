"""What a shard and control count, told as samples when somebody asks. Nothing here is met by a warm call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from hearth.app.invoke import Figures, Recorder
from hearth.app.pool import Launches, Pool
from hearth.app.slot import Slot
from hearth.app.slots import Slots
from hearth.core.errors import HearthError, Source, sources_by_code
from hearth.core.instance import InstanceState
from hearth.core.metrics import LABELLED_MAX, OTHER, Histogram, Sample
from hearth.core.routing import Deployed, Route

OUTCOMES = ("succeeded", "failed", "cancelled")
SOURCES: tuple[Source, ...] = ("function", "request", "platform")
STATES = tuple(state.value for state in InstanceState if state is not InstanceState.GONE)


@dataclass(slots=True)
class StartFigures:
    """Starts of instances since this process began: by runtime and slot, phase, error code."""

    starts: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    phases: dict[tuple[str, str], Histogram] = field(default_factory=dict)

    def started(self, runtime: str, phases: Mapping[str, float]) -> None:
        """An instance is up. `phases`: seconds by name; ``slot`` is there only where one had to be made for it."""
        self.starts[runtime, "fresh" if "slot" in phases else "warm"] += 1
        for phase, seconds in phases.items():
            self.phases.setdefault((runtime, phase), Histogram()).observe(seconds)

    def failed(self, runtime: str, code: str) -> None:
        """A start failed with this error."""
        self.failures[runtime, code] += 1

    def samples(self, sources: Mapping[str, Source]) -> Iterator[Sample]:
        """`sources`: whose fault each error code means."""
        for labels, count in list(self.starts.items()):
            yield Sample("hearth_instance_starts_total", labels, count)
        by_source: Counter[tuple[str, str]] = Counter()
        for (runtime, code), count in list(self.failures.items()):
            by_source[runtime, sources.get(code, "platform")] += count
        for labels, count in by_source.items():
            yield Sample("hearth_instance_start_failures_total", labels, count)
        for labels, histogram in list(self.phases.items()):
            yield Sample("hearth_cold_start_phase_seconds", labels, histogram)


class CountedLaunches:
    """Launches as `launches` does, and counts them (`app.pool.Launches`)."""

    def __init__(self, launches: Launches, figures: StartFigures) -> None:
        self._launches = launches
        self._figures = figures

    async def launch(self, version: Deployed) -> Slot:
        runtime = version.config.runtime
        try:
            slot = await self._launches.launch(version)
        except HearthError as error:
            self._figures.failed(runtime, error.code)
            raise
        self._figures.started(runtime, slot.phases)
        return slot

    async def discard(self, slot: Slot, grace: float) -> None:
        await self._launches.discard(slot, grace)


@dataclass(slots=True)
class _Now:
    """What the pool does for one function at this moment."""

    in_flight: int = 0
    waiting: int = 0
    states: Counter[str] = field(default_factory=Counter)

    def add(self, other: _Now) -> None:
        self.in_flight += other.in_flight
        self.waiting += other.waiting
        self.states.update(other.states)


class ShardFigures:
    """What a shard tells.

    The first `most` functions that are called or have instances get series of their own and keep them until they are
    deleted; what all others count is one sum. A function never moves from one to the other, so that no counter ever goes
    backwards while this process lives.

    Args:
        recorder: its calls.
        pool, slots: its instances, its slots.
        starts: how instances were started.
        routes: all functions that there are.
        most: functions with series of their own.
    """

    def __init__(
        self,
        recorder: Recorder,
        pool: Pool,
        slots: Slots,
        starts: StartFigures,
        routes: Callable[[], Collection[Route]],
        most: int = LABELLED_MAX,
    ) -> None:
        self._recorder = recorder
        self._pool = pool
        self._slots = slots
        self._starts = starts
        self._routes = routes
        self._most = most
        self._own: set[str] = set()  # ids of functions with series of their own
        self._summed: set[str] = set()  # of those that are in the sum
        self._gone = Figures(OTHER, OTHER)  # what deleted functions have left in the sum
        recorder.on_forget = self._forgotten

    def samples(self, functions: Collection[str] | None) -> Iterator[Sample]:
        """Figures of these functions (ids), or of everything. May be consumed bit by bit while calls go on."""
        names = {route.function.id: route.function for route in self._routes()}
        sources = sources_by_code()
        figures, now = self._recorder.figures(), self._now()
        if functions is None:
            yield Sample("hearth_functions", (), len(names))
            yield from self._platform(sources)
        wanted = names.keys() & (figures.keys() | now.keys() if functions is None else functions)
        if functions is None:
            self._choose(figures, now, wanted)
            yield from self._sum(figures, now, sources)
            wanted = wanted & self._own
        for function_id in wanted:
            function = names[function_id]
            labels = (function.namespace, function.name)
            one, moment = figures.get(function_id) or Figures(), now.get(function_id) or _Now()
            yield from _samples(labels, one, moment, sources)

    def _platform(self, sources: Mapping[str, Source]) -> Iterator[Sample]:
        for code, count in list(self._recorder.refused.items()):
            yield Sample("hearth_refused_requests_total", (code,), count)
        slots: Counter[tuple[str, str]] = Counter()
        for runtime, waiting, starting in self._slots.stocks():
            slots[runtime, "waiting"] += waiting
            slots[runtime, "starting"] += starting
        for labels, count in slots.items():
            yield Sample("hearth_slots", labels, count)
        yield from self._starts.samples(sources)

    def _now(self) -> dict[str, _Now]:
        found: dict[str, _Now] = {}
        for group in self._pool.groups():
            now = found.setdefault(group.version.function_id, _Now())
            now.in_flight += group.in_flight
            now.waiting += group.line.waiting
            now.states.update(instance.state.value for instance in group.instances)
            now.states[InstanceState.STARTING.value] += group.starting
        return found

    def _choose(self, figures: dict[str, Figures], now: dict[str, _Now], living: Collection[str]) -> None:
        """Which functions get series of their own: who came first."""
        known = figures.keys() | set(living)
        self._own &= known
        self._summed &= known
        for function_id in (*figures, *now):
            if function_id in living and function_id not in self._own and function_id not in self._summed:
                (self._own if len(self._own) < self._most else self._summed).add(function_id)

    def _sum(
        self, figures: dict[str, Figures], now: dict[str, _Now], sources: Mapping[str, Source]
    ) -> Iterator[Sample]:
        total, present = Figures(OTHER, OTHER), _Now()
        _add(total, self._gone)
        for function_id, one in figures.items():
            if function_id not in self._own:
                _add(total, one)
        for function_id, moment in now.items():
            if function_id not in self._own:
                present.add(moment)
        if self._summed or total.calls:
            yield from _samples((OTHER, OTHER), total, present, sources)

    def _forgotten(self, function_id: str, figures: Figures) -> None:
        if function_id not in self._own:
            _add(self._gone, figures)
        self._own.discard(function_id)
        self._summed.discard(function_id)


def _samples(
    labels: tuple[str, str], figures: Figures, now: _Now, sources: Mapping[str, Source]
) -> Iterator[Sample]:
    succeeded = figures.calls - figures.failed - figures.cancelled
    for outcome, count in zip(OUTCOMES, (succeeded, figures.failed, figures.cancelled), strict=True):
        yield Sample("hearth_requests_total", (*labels, outcome), count)
    by_source = dict.fromkeys(SOURCES, 0)
    for code, count in figures.errors.items():
        by_source[sources.get(code, "platform")] += count
    for source, count in by_source.items():
        yield Sample("hearth_errors_total", (*labels, source), count)
    yield Sample("hearth_request_duration_seconds", labels, figures.latency)
    yield Sample("hearth_cold_requests_total", labels, figures.cold)
    yield Sample("hearth_requests_in_flight", labels, now.in_flight)
    yield Sample("hearth_queue_length", labels, now.waiting)
    for state in STATES:
        yield Sample("hearth_instances", (*labels, state), now.states[state])


def _add(total: Figures, one: Figures) -> None:
    total.calls += one.calls
    total.failed += one.failed
    total.cancelled += one.cancelled
    total.cold += one.cold
    total.seconds += one.seconds
    total.latency.add(one.latency)
    for code, count in one.errors.items():
        total.errors[code] = total.errors.get(code, 0) + count
