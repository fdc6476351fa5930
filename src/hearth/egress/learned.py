"""Where the names that a sandbox may reach have led, and until when: pure, the time is passed in.

An entry must outlive what the sandbox's program remembers of an answer, so it stands longer than the answer's own time; it
is written anew only when that grows short, so that a program that asks all the time costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

Place = tuple[IPv4Address, int]
"""An address, a port."""

LEAST = 30.0
"""Seconds that an entry stands at least, however short an answer is true: programs remember for longer than they should."""
SLACK = 60.0
"""Seconds beyond the answer's time; renewed when half of it is left."""
TTL_MOST = 3600
"""Seconds that an answer about such a name is true at most, so that the entry outlives it."""
ROOM = 512
"""Entries that one sandbox may have: whoever answers for its names could otherwise fill the kernel's memory."""


_GRACE = 1.0  # seconds that the kernel may be later than we


def lasts(ttl: float) -> int:
    """Seconds that an entry is written for, when the answer is true for `ttl`."""
    return int(max(LEAST, ttl) + SLACK)


class Learned:
    """One sandbox's entries that have an end."""

    def __init__(self) -> None:
        self._until: dict[Place, float] = {}

    def due(self, places: Iterable[Place], ttl: float, now: float) -> list[Place]:
        """Those that have to be written now, so that they stand `ttl` seconds (of the answer) and more."""
        needed = now + max(LEAST, ttl) + SLACK / 2
        return [place for place in dict.fromkeys(places) if self._until.get(place, 0.0) < needed]

    def has_room(self, places: Iterable[Place], now: float) -> bool:
        """Whether these can stand beside those that do."""
        return len({place for place, end in self._until.items() if end > now} | set(places)) <= ROOM

    def write(self, places: Iterable[Place], ttl: float, now: float) -> None:
        """Remember that they were written, for `lasts` seconds."""
        self._until = {place: end for place, end in self._until.items() if end > now - _GRACE}
        self._until.update(dict.fromkeys(places, now + lasts(ttl)))

    def left(self, now: float) -> dict[Place, int]:
        """What may stand, and the whole seconds that it has left, at least one."""
        return {place: max(1, int(end - now)) for place, end in self._until.items() if end > now - _GRACE}
