"""The processes of a supervisor: who lives, and what whoever comes after one of them is told of it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

from hearth.supervisor.child import Child, ChildSpec

_STEADY = 10.0  # seconds after which a process counts as having started well
_BACKOFF_MAX = 5.0


class Family:
    """Starts children and remembers.

    Args:
        lifeline: see `Child`.
    """

    def __init__(self, lifeline: int) -> None:
        self.alive: set[Child] = set()
        self._lifeline = lifeline
        self._said: dict[str, dict[str, Any]] = {}  # when it was ready, by name
        self._dead: dict[str, list[str]] = {}  # owners that ended without a word, by name
        self._pauses: dict[str, float] = {}  # seconds before each was started the last time

    def start(self, spec: ChildSpec, successor: bool = False) -> Child:
        """Start a process, and tell it of those before it.

        Args:
            successor: the one before it still works.

        Raises:
            StartupFailed: it can't be executed.
        """
        name = spec.name
        dead = tuple(self._dead.get(name, ()))
        told = {"dead": dead, "said": self._said.get(name, {}), "successor": successor}
        child = Child(replace(spec, config={**spec.config, **told}), self._lifeline)
        self.alive.add(child)
        child.ended.add_done_callback(lambda _: self._ended(child))

        def ready(said: asyncio.Future[dict[str, Any]]) -> None:
            if said.exception() is None:
                self._said[name] = said.result()
                self._dead[name] = [owner for owner in self._dead.get(name, ()) if owner not in dead]

        child.ready.add_done_callback(ready)
        return child

    def pause(self, child: Child) -> float:
        """Seconds to wait before another takes the place of this one: more each time for what does not live long."""
        lived = time.monotonic() - child.started
        before = self._pauses.get(child.spec.name, 0.0)
        pause = 0.0
        if lived <= _STEADY and (before or lived < 1):
            pause = min(_BACKOFF_MAX, max(0.1, before * 2))
        self._pauses[child.spec.name] = pause
        return pause

    def _ended(self, child: Child) -> None:
        self.alive.discard(child)
        if child.ended.result() and child.owner is not None:
            self._dead.setdefault(child.spec.name, []).append(child.owner)
