"""The language port. A runtime starts no process and knows no isolation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from hearth.core.function import FunctionConfig
from hearth.core.launch import BuildPlan, SlotPlan, Toolchain


class Runtime(Protocol):
    """Knows one language: how to build it, how its empty slot is started and what `load` must say."""

    name: str

    def plan_build(self, source: Path, config: FunctionConfig, toolchain: Toolchain) -> BuildPlan:
        """How to build an unpacked, checked source (only regular files, folders and inner links).

        Reads files below `source` only. Raises BuildFailed when it can't be this runtime's function
        (no handler file, say), with file and line where they are known.
        """
        ...

    def slot(self, toolchain: Toolchain) -> SlotPlan:
        """How an empty slot of this language is started."""
        ...

    def load(self, config: FunctionConfig, identity: dict[str, str]) -> dict[str, Any]:
        """The JSON object of the `load` frame (docs/reference/guest-protocol.md).

        Args:
            config: the version's.
            identity: ``function``, ``namespace``, ``version`` (number as text).
        """
        ...
