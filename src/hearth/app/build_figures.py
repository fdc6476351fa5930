"""What control counts of builds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from hearth.core.metrics import Histogram, Sample

RESULTS = ("succeeded", "cached", "failed", "platform_error")


@dataclass(slots=True)
class BuildFigures:
    """Builds of this process since it began.

    `runtimes` are told from the start, at zero: Prometheus sees no increase in a series that begins at one.
    """

    runtimes: tuple[str, ...] = ()
    running: int = 0
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: dict[str, Histogram] = field(default_factory=dict)

    def note(self, runtime: str, result: str, seconds: float) -> None:
        """A build has ended, in one of `RESULTS`; what is cached took no time worth counting."""
        self.ended[runtime, result] += 1
        if result != "cached":
            self.seconds.setdefault(runtime, Histogram()).observe(seconds)

    @contextmanager
    def one(self) -> Iterator[None]:
        """A build is under way for the length of a block."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def samples(self) -> Iterator[Sample]:
        yield Sample("hearth_builds_running", (), self.running)
        for runtime in dict.fromkeys((*self.runtimes, *(runtime for runtime, _ in self.ended))):
            for result in RESULTS:
                yield Sample("hearth_builds_total", (runtime, result), self.ended[runtime, result])
        for runtime, histogram in self.seconds.items():
            yield Sample("hearth_build_seconds", (runtime,), histogram)
