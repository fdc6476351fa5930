"""Parts that more than one kind of process is made of."""

from __future__ import annotations

from hearth.core.settings import Settings
from hearth.ports.runtime import Runtime
from hearth.runtimes.go import GoRuntime
from hearth.runtimes.node import NodeRuntime
from hearth.runtimes.python import PythonRuntime
from hearth.telemetry.segments import Bounds


def runtimes() -> dict[str, Runtime]:
    """Every language that can be built and run, by name."""
    return {runtime.name: runtime for runtime in (PythonRuntime(), NodeRuntime(), GoRuntime())}


def log_bounds(settings: Settings) -> Bounds:
    """How much of functions' logs is kept."""
    return Bounds(size=settings.log_size, age=settings.log_age, total=settings.log_total)
