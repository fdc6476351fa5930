"""What the builds of this process say while they run, for whoever watches a deploy."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from hearth.core.limits import BUILD_LOG_MAX
from hearth.ports.bus import Bus

KEPT = 32  # builds whose lines are kept, the running ones among them


@dataclass(slots=True)
class _Lines:
    texts: list[str] = field(default_factory=list)
    size: int = 0


@dataclass(slots=True, eq=False)
class Watcher:
    """One who watches. `changed` is set by new lines and by hints; `rows` says that rows may have changed."""

    changed: asyncio.Event = field(default_factory=asyncio.Event)
    rows: bool = True


class BuildFeed:
    """Lines of builds by version id, and hints about versions; everything on one loop.

    Args:
        bus: its topic ``versions`` tells of changed rows. A lost hint costs a watcher his next timer, no more.
    """

    def __init__(self, bus: Bus) -> None:
        self._lines: OrderedDict[str, _Lines] = OrderedDict()
        self._watchers: set[Watcher] = set()
        bus.subscribe("versions", self._rows_changed)

    def open(self, version_id: str) -> None:
        """A build begins; a second attempt goes on where the first one's lines ended."""
        self._lines.setdefault(version_id, _Lines())
        self._lines.move_to_end(version_id)
        while len(self._lines) > KEPT:
            self._lines.popitem(last=False)

    def line(self, version_id: str, text: str) -> None:
        lines = self._lines.get(version_id)
        if lines is None or lines.size > BUILD_LOG_MAX:
            return
        lines.texts.append(text)
        lines.size += len(text) + 1
        for watcher in self._watchers:
            watcher.changed.set()

    def knows(self, version_id: str) -> bool:
        """Whether the build ran, or runs, in this process."""
        return version_id in self._lines

    def lines(self, version_id: str, begin: int) -> list[str]:
        """Those from number `begin` on."""
        lines = self._lines.get(version_id)
        return [] if lines is None else lines.texts[begin:]

    @contextmanager
    def watch(self) -> Iterator[Watcher]:
        watcher = Watcher()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def _rows_changed(self) -> None:
        for watcher in self._watchers:
            watcher.rows = True
            watcher.changed.set()
