"""How many instances a version should have. Pure: time and figures are passed in, memory is handed back."""

from __future__ import annotations

import math
from dataclasses import dataclass

BURST = 4  # instances of one version that start at once at least; with more up, as many as are up
SMOOTHING = 0.2  # of exponential averages
COLD_GUESS = 0.05  # seconds that a start takes, before one was seen
PATIENCE = 2.0  # times a cold start: who has waited that long gets an instance, whatever the averages say


@dataclass(frozen=True, slots=True)
class Policy:
    """A version's `scale` and `concurrency`; `idle` in seconds."""

    min: int
    max: int
    idle: float
    concurrency: int


@dataclass(frozen=True, slots=True)
class Stats:
    """What is so now.

    Args:
        ready: instances that take requests.
        starting: launches under way.
        in_flight: requests in work on ready instances.
        waiting: requests that wait for an instance.
        oldest_wait: seconds that the first of them has waited.
        idle_for: seconds that each idle instance has been idle, longest first.
    """

    ready: int = 0
    starting: int = 0
    in_flight: int = 0
    waiting: int = 0
    oldest_wait: float = 0.0
    idle_for: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered between decisions: average seconds of a request and of a start, None before the first;
    failed starts in a row and the time before which no other is tried."""

    service: float | None = None
    cold: float | None = None
    failures: int = 0
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """Instances to start now, and how many of the longest idle to stop."""

    start: int = 0
    stop: int = 0


NOTHING = Decision()


def decide(policy: Policy, stats: Stats, now: float, memory: Memory) -> tuple[Decision, Memory]:
    """Decide for one version.

    Who waits gets an instance of its own up to `max`, unless those that are up will come to it sooner than a new one
    could start. At most `max(BURST, ready)` start at once, so that a rush on a short function does not make `max` of
    them. After failed starts nothing is started before `memory.not_before`. An idle instance goes after `idle`, never
    below `min`.
    """
    have = stats.ready + stats.starting
    load = math.ceil((stats.in_flight + stats.waiting) / policy.concurrency)
    want = min(policy.max, max(policy.min, load if stats.waiting else 0))
    start = max(0, min(want - have, max(BURST, stats.ready) - stats.starting))
    if start and (now < memory.not_before or (have >= policy.min and _soon_free(policy, stats, memory))):
        start = max(0, min(start, policy.min - have)) if now >= memory.not_before else 0
    stop = 0
    if not stats.waiting and not start:
        spare = have - policy.min
        stop = min(spare, sum(1 for idle in stats.idle_for if idle >= policy.idle)) if spare > 0 else 0
    return (Decision(start, stop) if start or stop else NOTHING), memory


def _soon_free(policy: Policy, stats: Stats, memory: Memory) -> bool:
    if not stats.ready or memory.service is None:
        return False
    cold = COLD_GUESS if memory.cold is None else memory.cold
    if stats.oldest_wait > cold * PATIENCE:
        return False
    lanes = stats.ready * policy.concurrency
    return (stats.waiting / lanes + 1) * memory.service <= cold


def started(memory: Memory, seconds: float) -> Memory:
    """A start succeeded and took so long; failures are forgotten."""
    return Memory(memory.service, smooth(memory.cold, seconds))


def failed(memory: Memory, now: float, first: float = 0.5, longest: float = 30.0) -> Memory:
    """A start failed: the next waits `first` seconds, then twice as long each time, at most `longest`."""
    pause = min(longest, first * 2 ** min(memory.failures, 30))
    return Memory(memory.service, memory.cold, memory.failures + 1, now + pause)


def smooth(before: float | None, value: float) -> float:
    """The next exponential average; the first value is its own."""
    return value if before is None else before + SMOOTHING * (value - before)
