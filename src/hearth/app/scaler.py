"""The pool's sense of time: late tickets, idle instances, `scale.min`, another try after a failed start."""

from __future__ import annotations

import asyncio
import logging

from hearth.app.pool import Pool
from hearth.ports.clock import Clock

BUSY, CALM = 0.05, 0.5  # seconds between two looks while somebody waits, and while nobody does
_log = logging.getLogger(__name__)


class Scaler:
    """Ticks a pool. What to do is `core.scaling`'s affair; the pool does it."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._waiting = asyncio.Event()
        pool.on_waiting = self._waiting.set

    async def run(self) -> None:
        """Tick until cancelled: often while requests wait, else now and then."""
        while True:
            try:
                self._pool.tick(self._clock.monotonic())
            except Exception:  # one version's trouble must not end the scaling of all others
                _log.exception("a look at the pool failed")
            if self._pool.waiting:
                await self._clock.sleep(BUSY)
                continue
            self._waiting.clear()
            timer = asyncio.create_task(self._clock.sleep(CALM))
            waker = asyncio.create_task(self._waiting.wait())
            try:
                await asyncio.wait((timer, waker), return_when=asyncio.FIRST_COMPLETED)
            finally:
                timer.cancel()
                waker.cancel()
