"""What a shard and control count, told as samples when somebody asks. Nothing here is met by a warm call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from hearth.app.invoke import Figures, Recorder
from hearth.app.pool import Pool
from hearth.app.slots import Slots
from hearth.app.start_figures import SOURCES, StartFigures
from hearth.core.errors import Source, sources_by_code
from hearth.core.instance import InstanceState
from hearth.core.limits import METRICS_FUNCTIONS_MAX
from hearth.core.metrics import OTHER, Sample

BIT = 50  # functions that are added up before others get their turn
Name = tuple[str, str]  # namespace and function
OUTCOMES = ("succeeded", "failed", "cancelled")
STATES = tuple(state.value for state in InstanceState if state is not InstanceState.GONE)


@dataclass(slots=True)
class _Now:
    """What the pool does for one function at this moment."""

    name: Name
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
    deleted; what all others count is one sum. A function that was counted in the sum stays there, so that no counter
    goes backwards while this process lives.

    Args:
        recorder: its calls. It forgets functions that are gone.
        pool, slots: its instances, its slots.
        starts: how instances were started.
        functions: how many there are.
        most: functions with series of their own.
    """

    def __init__(
        self,
        recorder: Recorder,
        pool: Pool,
        slots: Slots,
        starts: StartFigures,
        functions: Callable[[], int],
        most: int = METRICS_FUNCTIONS_MAX,
    ) -> None:
        self._recorder = recorder
        self._pool = pool
        self._slots = slots
        self._starts = starts
        self._functions = functions
        self._most = most
        self._own: dict[str, Name] = {}  # functions (ids) with series of their own
        self._summed: set[str] = set()  # those in the sum
        self._gone = Figures()  # what deleted functions have left in the sum
        recorder.on_forget = self._forgotten

    def samples(self, functions: AbstractSet[str] | None) -> Iterator[Sample | None]:
        """Figures of these functions (ids), or of everything. May be consumed bit by bit while calls go on.

        None among the samples is a good moment to let others work.
        """
        sources, figures, now = sources_by_code(), self._recorder.figures(), self._now()
        if functions is not None:
            for function_id in functions & (figures.keys() | now.keys()):
                name = self._name(function_id, figures, now)
                yield from _samples(name, figures.get(function_id), now.get(function_id), sources)
            return
        yield from self._platform(sources)
        yield None
        self._choose(figures, now)
        yield None
        yield from self._sum(figures, now, sources)
        for function_id, name in list(self._own.items()):
            yield from _samples(name, figures.get(function_id), now.get(function_id), sources)

    def _platform(self, sources: Mapping[str, Source]) -> Iterator[Sample]:
        yield Sample("hearth_functions", (), self._functions())
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
            version = group.version
            now = found.get(version.function_id)
            if now is None:
                now = found[version.function_id] = _Now((version.namespace, version.name))
            now.in_flight += group.in_flight
            now.waiting += group.line.waiting
            now.states.update(instance.state.value for instance in group.instances)
            now.states[InstanceState.STARTING.value] += group.starting
        return found

    def _name(self, function_id: str, figures: Mapping[str, Figures], now: Mapping[str, _Now]) -> Name:
        known = figures.get(function_id)
        return now[function_id].name if known is None else (known.namespace, known.name)

    def _choose(self, figures: Mapping[str, Figures], now: Mapping[str, _Now]) -> None:
        """Which functions get series of their own: who came first."""
        here = figures.keys() | now.keys()
        self._summed &= here
        for function_id in self._own.keys() - here:  # never called, and its instances have gone
            del self._own[function_id]
        new = here - self._own.keys() - self._summed
        if not new:
            return
        taken = set(self._own.values())
        for function_id in (one for one in (*figures, *now) if one in new):
            name = self._name(function_id, figures, now)
            if function_id in self._own or function_id in self._summed:
                continue
            # A deleted function whose last calls end late may have left its name to another.
            if len(self._own) < self._most and name not in taken:
                self._own[function_id] = name
                taken.add(name)
            else:
                self._summed.add(function_id)

    def _sum(
        self, figures: Mapping[str, Figures], now: Mapping[str, _Now], sources: Mapping[str, Source]
    ) -> Iterator[Sample | None]:
        total, present, own = Figures(), _Now((OTHER, OTHER)), set(self._own)
        _add(total, self._gone)
        for place, (function_id, one) in enumerate(figures.items()):
            if function_id not in own:
                _add(total, one)
            if place % BIT == BIT - 1:
                yield None
        for function_id, moment in now.items():
            if function_id not in own:
                present.add(moment)
        if self._summed or total.calls:
            yield from _samples(present.name, total, present, sources)

    def _forgotten(self, function_id: str, figures: Figures) -> None:
        if function_id not in self._own:
            _add(self._gone, figures)
        self._own.pop(function_id, None)
        self._summed.discard(function_id)


def _samples(
    labels: Name, counted: Figures | None, moment: _Now | None, sources: Mapping[str, Source]
) -> Iterator[Sample]:
    figures, now = counted or Figures(), moment or _Now(labels)
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
    total.failed += one.failed
    total.cancelled += one.cancelled
    total.cold += one.cold
    total.latency.add(one.latency)
    for code, count in one.errors.items():
        total.errors[code] = total.errors.get(code, 0) + count
