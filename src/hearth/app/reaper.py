"""Stops sandboxes of ours that nobody here knows: a start whose reply was lost may have succeeded all the same."""

from __future__ import annotations

import logging
from collections.abc import Callable

from hearth.core.errors import HearthError
from hearth.core.launch import Handle
from hearth.ports.clock import Clock
from hearth.ports.driver import Driver

EVERY = 30.0  # seconds between two looks: longer than any start takes
_log = logging.getLogger(__name__)


class Reaper:
    """Compares what the driver says we own with what we know.

    Args:
        driver: who keeps the sandboxes.
        owner: ``own_…`` of this process.
        known: the handles of every slot, instance and build of this process.
        clock: pauses.
    """

    def __init__(self, driver: Driver, owner: str, known: Callable[[], set[Handle]], clock: Clock) -> None:
        self._driver = driver
        self._owner = owner
        self._known = known
        self._clock = clock
        self._suspects: set[Handle] = set()

    async def look(self) -> int:
        """Stop what was unknown at two looks in a row (a start under way is unknown for a moment); returns how many."""
        try:
            unknown = set(await self._driver.list_owned(self._owner)) - self._known()
            lost = unknown & self._suspects
            self._suspects = unknown - lost
            for handle in lost:
                _log.warning("sandbox %s is nobody's; it is removed", handle)
                await self._driver.stop(handle, 0.0)
        except HearthError as error:
            _log.warning("sandboxes could not be compared: %s", error.message)
            return 0
        return len(lost)

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            await self._clock.sleep(EVERY)
            await self.look()
