"""What is kept of invocations: every failed, cold, slow or cancelled one, and a sample of the rest."""

from __future__ import annotations

import math
from enum import StrEnum

from hearth.core.metrics import Histogram

SAMPLED_PER_SECOND = 50  # of a function's ordinary calls
SLOW_QUANTILE = 0.99
CLEARLY = 1.1  # times the mark: calls that all take the same are not slow by turns
SLOW_AFTER = 200  # calls before "slow" means something

UP, DOWN = 1 + 0.1 * SLOW_QUANTILE, 1 - 0.1 * (1 - SLOW_QUANTILE)


class Outcome(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Sampler:
    """Decides, for one function, which invocations are kept. O(1), a few additions per call.

    The mark of slowness is a running estimate of the 99th percentile: it steps up by much when a call is above it and
    down by little when it is below, so that it comes to rest where one in a hundred is above (Ma, Muthukrishnan and
    Sandler, "Frugal streaming for estimating quantiles", 2013; the step here is a share of the mark).

    A call at or below `mark` that ends before `look` is an ordinary one of which enough are kept: whoever counts many of them
    may do himself what `keep` would, ``mark *= DOWN``, and not ask.
    """

    __slots__ = ("left", "look", "mark", "second_ends")

    def __init__(self) -> None:
        self.mark = 0.0
        self.look = 0.0  # until then no more ordinary calls are kept
        self.second_ends = 0.0
        self.left = 0  # ordinary calls that are still kept in this second

    def keep(self, seconds: float, now: float, notable: bool, latency: Histogram) -> bool:
        """Whether to keep a call.

        Args:
            seconds: how long the function took.
            now: monotonic seconds.
            notable: it failed, was cold or was cancelled; such are always kept.
            latency: of the function's calls, this one included.
        """
        mark = self.mark
        if seconds > mark:
            self.mark = seconds if mark == 0.0 else mark * UP
            if seconds > mark * CLEARLY and latency.count > SLOW_AFTER:
                notable = True
        else:
            self.mark = mark * DOWN
        if notable:
            return True
        if now >= self.second_ends:
            self.second_ends = math.floor(now) + 1.0
            self.left = SAMPLED_PER_SECOND
            self.look = 0.0
        if self.left:
            self.left -= 1
            return True
        self.look = self.second_ends
        return False
