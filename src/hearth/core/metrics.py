"""Every metric of the platform, and the histogram that all durations are counted in.

A process counts in plain integers and floats. When somebody asks, it tells `Sample`s; whoever merges those of
several processes adds the process's name as a first label, so that a counter which begins anew with its process begins
anew in a series of its own, which is what Prometheus takes for a reset.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]

# Ten bounds a decade (ISO 3's R10 series of preferred numbers) keep an estimated quantile within a few per cent; three of
# them a decade are enough to be stored for months.
_R10 = (1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0, 5.0, 6.3, 8.0)
BOUNDS: tuple[float, ...] = tuple(
    float(f"{step}e{power}") for power in range(-4, 3) for step in _R10
)  # seconds, upper and inclusive: 100 µs to 800 s
EXPOSED: tuple[int, ...] = tuple(
    place for place, _ in enumerate(BOUNDS) if place > 0 and place % 10 in (0, 4, 7)
)  # of BOUNDS, those that are published

OTHER = "_other"  # namespace and function of what all others count together; no name begins like that


@dataclass(slots=True)
class Histogram:
    """How often something took how long: `counts` by `BOUNDS`, and one more for what is above; `sum` in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    sum: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one. O(1): seven comparisons."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    def add(self, other: Histogram) -> None:
        """Count what another has counted, too."""
        for place, count in enumerate(other.counts):
            if count:
                self.counts[place] += count
        self.sum += other.sum

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """The duration, in seconds, that `share` (0 to 1) of all did not exceed; None before the first.

        Within a bucket the values are taken to be evenly spread, as Prometheus's histogram_quantile does; what is above
        the last bound counts as that.
        """
        total = self.count
        if not total:
            return None
        rank, below = share * total, 0
        for place, count in enumerate(self.counts):
            if count and below + count >= rank:
                low = BOUNDS[place - 1] if place else 0.0
                high = BOUNDS[min(place, len(BOUNDS) - 1)]
                return low + (high - low) * max(0.0, rank - below) / count
            below += count
        return BOUNDS[-1]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name, its labels beside ``process``, what it means."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str


class Sample(NamedTuple):
    """One figure: the metric's name, the values of its labels in order, its value."""

    name: str
    labels: tuple[str, ...]
    value: float | Histogram


@dataclass(frozen=True, slots=True)
class ProcessSamples:
    """What one process has told; nothing when it did not answer (`up` is False then)."""

    process: str
    samples: Sequence[Sample]
    up: bool = True


_FUNCTION = ("namespace", "function")
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("hearth_build_info", "gauge", ("version",), "Always 1; says which version of Hearth this is."),
        Metric("hearth_process_up", "gauge", (), "Whether the process told its figures just now: 1 or 0."),
        Metric("hearth_process_start_time_seconds", "gauge", (), "When the process started, in Unix time."),
        Metric("hearth_process_resident_memory_bytes", "gauge", (), "Resident memory of the process."),
        Metric("hearth_process_cpu_seconds_total", "counter", (), "User and system CPU time of the process."),
        Metric("hearth_functions", "gauge", (), "Functions that the shard has routes of."),
        Metric(
            "hearth_requests_total",
            "counter",
            (*_FUNCTION, "outcome"),
            "Calls that have ended, by outcome: succeeded, failed, cancelled (the client left).",
        ),
        Metric(
            "hearth_errors_total",
            "counter",
            (*_FUNCTION, "source"),
            "Calls that failed, by whose fault it was: function, request, platform.",
        ),
        Metric(
            "hearth_request_duration_seconds",
            "histogram",
            _FUNCTION,
            "Time of a call from its parsed head to its end: queue, cold start and function.",
        ),
        Metric(
            "hearth_refused_requests_total",
            "counter",
            ("code",),
            "Requests for functions that were refused before one was found for them, by error code.",
        ),
        Metric("hearth_requests_in_flight", "gauge", _FUNCTION, "Calls that instances work on."),
        Metric("hearth_queue_length", "gauge", _FUNCTION, "Calls that wait for an instance."),
        Metric(
            "hearth_instances",
            "gauge",
            (*_FUNCTION, "state"),
            "Instances by state: starting, ready, retiring, stopping.",
        ),
        Metric(
            "hearth_cold_requests_total", "counter", _FUNCTION, "Calls that waited for an instance to start."
        ),
        Metric(
            "hearth_instance_starts_total",
            "counter",
            ("runtime", "slot"),
            "Instances that were started, by the slot they got: warm (it waited) or fresh (made for them).",
        ),
        Metric(
            "hearth_instance_start_failures_total",
            "counter",
            ("runtime", "source"),
            "Starts of instances that failed, by whose fault it was.",
        ),
        Metric(
            "hearth_cold_start_phase_seconds",
            "histogram",
            ("runtime", "phase"),
            "Time of a start's phases: slot (only where one was made for it), attach, load.",
        ),
        Metric("hearth_slots", "gauge", ("runtime", "state"), "Slots by state: waiting, starting."),
        Metric(
            "hearth_builds_total",
            "counter",
            ("runtime", "result"),
            "Builds that ended: succeeded, cached (an equal one was done before), failed, platform_error.",
        ),
        Metric("hearth_build_seconds", "histogram", ("runtime",), "Time of builds that were not cached."),
        Metric("hearth_builds_running", "gauge", (), "Builds under way."),
    )
}


def expand(counts: Iterable[tuple[int, int]], total: float) -> Histogram:
    """A histogram from its non-zero (place, count) pairs and its sum. Raises IndexError for a place that is none."""
    found = Histogram(sum=total)
    for place, count in counts:
        found.counts[place] += count
    return found
