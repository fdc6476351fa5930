"""A clock that stands still until a test turns it, and ids that need no luck."""

from __future__ import annotations

import asyncio
import secrets

from hearth.core.ids import new_id


class FakeClock:
    """`ports.clock.Clock`: both clocks go on by `advance` alone, and sleepers wake when it reaches them."""

    def __init__(self, now_ms: int = 1_700_000_000_000, monotonic: float = 1000.0) -> None:
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self._monotonic

    def now_ms(self) -> int:
        return self._now_ms

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._monotonic + seconds, future))
        await future

    def advance(self, seconds: float) -> None:
        """Let time pass; those whose sleep is over go on at the loop's next turn."""
        self._monotonic += seconds
        self._now_ms += round(seconds * 1000)
        due = [entry for entry in self._sleepers if entry[0] <= self._monotonic]
        self._sleepers = [entry for entry in self._sleepers if entry[0] > self._monotonic]
        for _, future in due:
            if not future.done():
                future.set_result(None)


class ClockIds:
    """`ports.clock.Ids` by a clock that may be a fake."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock

    def new(self, kind: str) -> str:
        return new_id(kind, self._clock.now_ms(), secrets.token_bytes(10))
