"""What a shard counts of the instances that it starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from hearth.app.pool import Launches
from hearth.app.slot import Slot
from hearth.core.errors import HearthError, Source
from hearth.core.metrics import Histogram, Sample
from hearth.core.routing import Deployed

SOURCES: tuple[Source, ...] = ("function", "request", "platform")
SLOTS = ("warm", "fresh")


@dataclass(slots=True)
class StartFigures:
    """Starts of instances since this process began: by runtime and slot, phase, error code.

    `runtimes` are told from the start, at zero: Prometheus sees no increase in a series that begins at one.
    """

    runtimes: tuple[str, ...] = ()
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
        by_source: Counter[tuple[str, str]] = Counter()
        for (runtime, code), count in list(self.failures.items()):
            by_source[runtime, sources.get(code, "platform")] += count
        for runtime in dict.fromkeys(
            (*self.runtimes, *(runtime for runtime, _ in (*self.starts, *by_source)))
        ):
            for slot in SLOTS:
                yield Sample("hearth_instance_starts_total", (runtime, slot), self.starts[runtime, slot])
            for source in SOURCES:
                count = by_source[runtime, source]
                yield Sample("hearth_instance_start_failures_total", (runtime, source), count)
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
