"""Parts that more than one kind of process is made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hearth.bootstrap.child import RandomIds, SystemClock
from hearth.core.settings import Settings
from hearth.ports.runtime import Runtime
from hearth.runtimes.go import GoRuntime
from hearth.runtimes.node import NodeRuntime
from hearth.runtimes.python import PythonRuntime
from hearth.store.store import Store
from hearth.telemetry.segments import Bounds


def runtimes() -> dict[str, Runtime]:
    """Every language that can be built and run, by name."""
    return {runtime.name: runtime for runtime in (PythonRuntime(), NodeRuntime(), GoRuntime())}


async def open_store(
    settings: Settings,
    *,
    durable: bool,
    publish: Callable[[str], None] = lambda topic: None,
    migrator: Callable[[Path | str], None] | None = None,
) -> Store:
    """The platform's database, wherever it is: see `Store.open`."""
    where = settings.database_url or settings.data_dir / "hearth.db"
    return await Store.open(
        where, durable=durable, clock=SystemClock(), ids=RandomIds(), publish=publish, migrator=migrator
    )


def shown_database(settings: Settings) -> str | None:
    """The database's URL as people may see it; None for the file in the data directory."""
    if not settings.database_url:
        return None
    from hearth.store.postgres import shown

    return shown(settings.database_url)


def log_bounds(settings: Settings) -> Bounds:
    """How much of functions' logs is kept."""
    return Bounds(size=settings.log_size, age=settings.log_age, total=settings.log_total)
