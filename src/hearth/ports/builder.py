"""What the deploy use cases need to turn an upload into an artifact. Adapters: `hearth.build`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from hearth.core.launch import BuildPlan, Toolchain

Log = Callable[[str], None]
"""Told one line of a build's log, on the event loop; never blocks, never raises."""
Form = Literal["zip", "tar.gz"]


@dataclass(frozen=True, slots=True)
class BuildOrder:
    """One build to run.

    Args:
        sandbox: ``sb_…``, stored by the caller.
        source: digest of the source.
        plan: the runtime's.
        toolchain: exact.
        disk: whose cache it may write: the namespace's id.
    """

    sandbox: str
    source: str
    plan: BuildPlan
    toolchain: Toolchain
    disk: str


class ToolchainSource(Protocol):
    async def get(self, runtime: str, pin: str, log: Log) -> Toolchain:
        """An installed toolchain that fits, fetched if need be. Raises BuildFailed (no such version), PlatformError."""
        ...


class BuildRunner(Protocol):
    async def run(self, order: BuildOrder, log: Log) -> str:
        """Build in a sandbox and keep the result; returns the artifact's digest.

        Raises:
            BuildFailed: ``details`` has ``reason`` (timeout, oom, disk, exit, output), ``tail``, and ``file`` and
                ``line`` where they could be found.
            PlatformError: this machine's fault; a later try may succeed.
        """
        ...


class Unpacker(Protocol):
    def __call__(self, packed: Path, form: Form, dest: Path) -> object:
        """Unpack an upload into an empty folder; blocking. Raises InvalidSource, TooLarge, PlatformError."""
        ...
