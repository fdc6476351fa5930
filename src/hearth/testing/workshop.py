"""What it takes to make slots, all of it fake: for tests of slots, launcher, pool and prover."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hearth.core.errors import HearthError
from hearth.core.function import FunctionConfig
from hearth.core.launch import BuildPlan, SlotPlan, Toolchain
from hearth.core.records import InvocationRow, SandboxRow
from hearth.ports.logs import LogLine

PYTHON = Toolchain("python", "3.11.2", "/usr/bin/python3")


class PlainRuntime:
    """`ports.runtime.Runtime` whose load is its identity and a few settings."""

    name = "python"

    def plan_build(self, source: Path, config: FunctionConfig, toolchain: Toolchain) -> BuildPlan:
        return BuildPlan("true")

    def slot(self, toolchain: Toolchain) -> SlotPlan:
        return SlotPlan((toolchain.bin, "/hearth-shim/main.py"), (("HOME", "/tmp"),), ())

    def load(self, config: FunctionConfig, identity: dict[str, str]) -> dict[str, Any]:
        return {**identity, "handler": config.handler, "concurrency": config.concurrency}


class ListLogs:
    """`ports.logs.LogSink` that keeps (function id, line)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, LogLine]] = []

    def write(self, function_id: str, line: LogLine) -> None:
        self.lines.append((function_id, line))


@dataclass
class ListRows:
    """The writing part of `ports.store.ProcessStore` over lists; `down` is raised by every write while it is set."""

    sandboxes: list[SandboxRow] = field(default_factory=list)
    invocations: list[InvocationRow] = field(default_factory=list)
    down: HearthError | None = None

    async def start_owner(self, owner: str, node: str, kind: str) -> None: ...

    async def heartbeat(self, owner: str) -> None: ...

    async def end_owner(self, owner: str) -> None: ...

    async def clear_owners(self, node: str) -> int:
        return 0

    async def save_sandboxes(self, rows: Sequence[SandboxRow]) -> None:
        if self.down is not None:
            raise self.down
        self.sandboxes += rows

    async def save_invocations(self, rows: Sequence[InvocationRow]) -> None:
        if self.down is not None:
            raise self.down
        self.invocations += rows


class LocalBus:
    """`ports.bus.Bus` within one object; hints arrive at once."""

    def __init__(self) -> None:
        self._callbacks: dict[str, list[Callable[[], None]]] = {}

    def publish(self, topic: str) -> None:
        for callback in self._callbacks.get(topic, ()):
            callback()

    def subscribe(self, topic: str, callback: Callable[[], None]) -> None:
        self._callbacks.setdefault(topic, []).append(callback)
