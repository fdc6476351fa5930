"""The figures of functions as their members see them (`hearth stats`): those of `/metrics`, added up over all processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hearth.app.functions import FunctionViews
from hearth.core.metrics import Histogram, ProcessSamples, Sample
from hearth.core.permissions import Action, Principal
from hearth.core.records import FunctionRow
from hearth.ports.metrics import FigureSource


@dataclass(slots=True)
class FunctionStats:
    """One function's figures since the processes that count them started.

    Args:
        outcomes: ended calls by ``succeeded``, ``failed``, ``cancelled``.
        errors: failed calls by whose fault: ``function``, ``request``, ``platform``.
        cold: calls that waited for an instance to start.
        instances: by state.
        queue: calls that wait for an instance now.
        in_flight: calls that instances work on now.
    """

    function: FunctionRow
    latency: Histogram = field(default_factory=Histogram)
    outcomes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    cold: int = 0
    instances: Counter[str] = field(default_factory=Counter)
    queue: int = 0
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of some functions. `missing`: processes that did not tell theirs, so that it is not all."""

    functions: Sequence[FunctionStats]
    missing: tuple[str, ...]


class StatsViews:
    """Reads; every method decides first who may."""

    def __init__(self, views: FunctionViews, source: FigureSource) -> None:
        self._views = views
        self._source = source

    async def one(self, principal: Principal, namespace: str, name: str) -> Stats:
        """One function's. Raises NotFound (also to strangers), Forbidden."""
        function = await self._views.find(principal, Action.READ, namespace, name)
        return await self._of([function])

    async def page(
        self, principal: Principal, namespace: str | None, after: str | None, limit: int
    ) -> tuple[Stats, str | None]:
        """Those of functions that `principal` may see, by id, and where the next page begins. Raises NotFound."""
        rows, onward = await self._views.page(principal, namespace, after, limit)
        return await self._of([row.function for row in rows]), onward

    async def _of(self, functions: Sequence[FunctionRow]) -> Stats:
        if not functions:
            return Stats((), ())
        told = await self._source.collect([function.id for function in functions])
        return Stats(merge(functions, told), tuple(process.process for process in told if not process.up))


def merge(functions: Sequence[FunctionRow], told: Iterable[ProcessSamples]) -> list[FunctionStats]:
    """What all processes tell of some functions, added up; functions that nobody has called are among them."""
    found = {(function.namespace, function.name): FunctionStats(function) for function in functions}
    for process in told:
        for sample in process.samples:
            stats = found.get((sample.labels[0], sample.labels[1])) if len(sample.labels) > 1 else None
            if stats is not None:
                _take(stats, sample)
    return list(found.values())


def _take(stats: FunctionStats, sample: Sample) -> None:
    value = sample.value
    if isinstance(value, Histogram):
        if sample.name == "hearth_request_duration_seconds":
            stats.latency.add(value)
        return
    count = int(value)
    match sample.name:
        case "hearth_requests_total":
            stats.outcomes[sample.labels[2]] += count
        case "hearth_errors_total":
            stats.errors[sample.labels[2]] += count
        case "hearth_instances":
            stats.instances[sample.labels[2]] += count
        case "hearth_cold_requests_total":
            stats.cold += count
        case "hearth_queue_length":
            stats.queue += count
        case "hearth_requests_in_flight":
            stats.in_flight += count
