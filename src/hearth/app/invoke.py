"""What is kept of invocations, in batches, off the path."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from bisect import bisect_left
from collections.abc import Callable, Container
from dataclasses import dataclass, field

from hearth.app.trouble import Trouble
from hearth.core.errors import FunctionError, HearthError
from hearth.core.invocation import DOWN, Outcome, Sampler
from hearth.core.metrics import BOUNDS, Histogram
from hearth.core.records import InvocationRow
from hearth.core.routing import Deployed
from hearth.ports.clock import Clock
from hearth.ports.store import ProcessStore

EVERY = 1.0  # seconds between two batches
HELD_MAX = 20_000  # rows kept while the store is down; beyond, new ones are dropped and counted
BATCH = 1_000  # rows in one transaction
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Figures:
    """Counters of one function since this process started.

    `latency` is of whole calls, queue and cold start included; `errors` are failed calls by error code.
    """

    namespace: str = ""
    name: str = ""
    failed: int = 0
    cancelled: int = 0
    cold: int = 0
    latency: Histogram = field(default_factory=Histogram)
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        return self.latency.count


class Recorder:
    """Notes every call in its function's figures, and keeps the rows that PRODUCT promises ("What is kept of invocations").

    Args:
        store: where rows go.
        clock: wall clock for rows, pauses between batches.
    """

    def __init__(self, store: ProcessStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._functions: dict[str, tuple[Figures, Sampler]] = {}
        self._trouble = Trouble(_log, "records of invocations wait for the store")
        self._rows: list[InvocationRow] = []
        self.dropped = 0
        self.refused: dict[str, int] = {}  # by error code: requests that came to no function
        self.on_forget: Callable[[str, Figures], None] = lambda function_id, figures: None

    def note(
        self,
        version: Deployed,
        invocation: bytes,
        request_id: bytes,
        outcome: Outcome,
        status: int,
        error: str | None,
        now: float,
        queued: float,
        cold: float,
        seconds: float,
        wanted: bool = False,
    ) -> None:
        """Note a call that has ended; O(1).

        Args:
            now: monotonic seconds.
            queued: seconds that it waited for room.
            cold: seconds of its wait that went into a start.
            seconds: what the function took.
            wanted: keep it whatever it was.
        """
        figures, sampler = self._functions.get(version.function_id) or self._new(version)
        figures.latency.observe(queued + cold + seconds)
        notable = wanted
        if outcome is not Outcome.SUCCEEDED:
            notable = True
            if outcome is Outcome.FAILED:
                figures.failed += 1
                code = error or FunctionError.code  # without one it is the function's own 5xx
                figures.errors[code] = figures.errors.get(code, 0) + 1
            else:
                figures.cancelled += 1
        if cold:
            notable = True
            figures.cold += 1
        if sampler.keep(seconds, now, notable, figures.latency):
            self._keep(version, invocation, request_id, outcome, status, error, queued, cold, seconds)

    def warm(
        self, version: Deployed, invocation: bytes, request_id: bytes, status: int, now: float, seconds: float
    ) -> None:
        """As `note`, of a call that neither waited nor failed, as nearly all do."""
        figures, sampler = self._functions.get(version.function_id) or self._new(version)
        latency = figures.latency
        latency.counts[bisect_left(BOUNDS, seconds)] += 1  # `observe`, without the call
        latency.sum += seconds
        if seconds <= sampler.mark and now < sampler.look:
            sampler.mark *= DOWN
        elif sampler.keep(seconds, now, False, latency):
            self._keep(version, invocation, request_id, Outcome.SUCCEEDED, status, None, 0.0, 0.0, seconds)

    def _new(self, version: Deployed) -> tuple[Figures, Sampler]:
        known = Figures(version.namespace, version.name), Sampler()
        self._functions[version.function_id] = known
        return known

    def _keep(
        self,
        version: Deployed,
        invocation: bytes,
        request_id: bytes,
        outcome: Outcome,
        status: int,
        error: str | None,
        queued: float,
        cold: float,
        seconds: float,
    ) -> None:
        if len(self._rows) >= HELD_MAX:
            self.dropped += 1
            return
        self._rows.append(
            InvocationRow(
                id=invocation.decode(),
                namespace_id=version.namespace_id,
                function_id=version.function_id,
                version_id=version.id,
                mode="sync",
                status=outcome.value,
                http_status=status,
                error=error,
                cold=cold > 0,
                started_ms=self._clock.now_ms() - round((queued + cold + seconds) * 1000),
                queue_ms=queued * 1000,
                cold_ms=cold * 1000,
                function_ms=seconds * 1000,
                request_id=request_id.decode("latin-1"),
            )
        )

    def figures(self) -> dict[str, Figures]:
        """Counters by function id."""
        return {function: figures for function, (figures, _) in self._functions.items()}

    def refuse(self, code: str) -> None:
        """A request was answered with this error before it came to a function."""
        self.refused[code] = self.refused.get(code, 0) + 1

    def keep_only(self, function_ids: Container[str]) -> None:
        """Forget the functions that are not among these; `on_forget` hears of each."""
        for function_id in [known for known in self._functions if known not in function_ids]:
            self.forget(function_id)

    def forget(self, function_id: str) -> None:
        """A function is gone."""
        known = self._functions.pop(function_id, None)
        if known is not None:
            self.on_forget(function_id, known[0])

    async def flush(self) -> None:
        """Write what is kept; if the store is down, keep it for the next time."""
        while self._rows:
            batch, self._rows = self._rows[:BATCH], self._rows[BATCH:]
            try:
                await self._store.save_invocations(batch)
            except HearthError as error:
                self._trouble.met(error.message)
                self._rows = (batch + self._rows)[:HELD_MAX]
                return
            self._trouble.over()
        if self.dropped:
            _log.warning("%d invocations were not kept: the store did not take them in time", self.dropped)
            self.dropped = 0

    async def run(self) -> None:
        """Flush again and again until cancelled, and once more then."""
        try:
            while True:
                await self._clock.sleep(EVERY)
                await self.flush()
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2.0):
                    await self.flush()
