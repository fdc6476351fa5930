"""Hints between processes. A hint may be lost: rows are the truth, a timer repairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Bus(Protocol):
    def publish(self, topic: str) -> None:
        """Tell every subscriber in every process that rows of a topic have changed. Never blocks, never raises."""
        ...

    def subscribe(self, topic: str, callback: Callable[[], None]) -> None:
        """Have `callback` called (on the loop) at each hint, and after every reconnection."""
        ...
