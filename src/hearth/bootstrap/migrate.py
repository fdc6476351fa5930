"""The process that migrates a database and ends: what that takes in memory goes with it."""

from __future__ import annotations

import sys
from pathlib import Path

from hearth.bootstrap.child import SystemClock
from hearth.core.errors import HearthError
from hearth.store.dialect import sqlite_writer
from hearth.store.migrate import migrate


def main() -> None:
    """The file is the one argument. Exits with 1 where it can't be migrated; who started it tries again and says why."""
    path = Path(sys.argv[1])
    engine = sqlite_writer(path, durable=True)
    try:
        migrate(engine, path, SystemClock().now_ms())
    except HearthError:
        sys.exit(1)
    finally:
        engine.dispose()


if __name__ == "__main__":
    main()
