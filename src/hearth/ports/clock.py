"""Time and chance, handed in so that tests turn them."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds, for deadlines and durations."""
        ...

    def now_ms(self) -> int:
        """Wall clock, milliseconds since the epoch, for what is stored or shown."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class Ids(Protocol):
    def new(self, kind: str) -> str:
        """A fresh id of a kind of `core.ids.PREFIXES`."""
        ...
