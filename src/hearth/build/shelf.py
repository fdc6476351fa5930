"""The toolchains of this node as a shard asks for them: by exact name, from memory, while a request waits."""

from __future__ import annotations

from pathlib import Path

from hearth.build.discover import Places, discover
from hearth.build.toolchains import toolchain_name
from hearth.core.launch import Toolchain


class Shelf:
    """What is installed, looked at again when the folder of fetched toolchains has changed.

    Args:
        folder: ``toolchains/`` of the data directory, where another process puts what it fetches.
        places: where else to look.
    """

    def __init__(self, folder: Path, places: Places) -> None:
        self._folder = folder
        self._places = places
        self._seen = -1
        self._found: dict[str, Toolchain] = {}

    def get(self, name: str) -> Toolchain | None:
        """The toolchain of that exact name (such as ``python-3.11.2``), or None when it is gone.

        Blocks for some ten milliseconds when a name is not known and the folder has changed: `refresh` in a
        thread comes before that.
        """
        if name not in self._found:
            self.refresh()
        return self._found.get(name)

    def refresh(self) -> None:
        """Look again if something may have changed. Blocking."""
        try:
            changed = self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            changed = 0
        if changed != self._seen:
            self._found = {toolchain_name(t): t for t in discover(self._places, self._folder)}
            self._seen = changed
