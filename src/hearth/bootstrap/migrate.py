"""Migrations: the process that migrates a database and ends, so that what it takes in memory goes with it; and `hearth migrate`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hearth.bootstrap.child import SystemClock
from hearth.core.errors import HearthError, NotFound
from hearth.core.settings import Settings
from hearth.store.dialect import sqlite_writer
from hearth.store.migrate import migrate, newest

FROM_STDIN = "-"  # in place of the file: a URL, which may have a password in it, comes by standard input


def migrate_apart(database: Path | str) -> None:
    """Migrate in a process of its own. Blocks. What is wrong with the database is found, and said, by who opens it afterwards."""
    url = database if isinstance(database, str) else None
    subprocess.run(
        [sys.executable, "-I", "-m", "hearth.bootstrap.migrate", FROM_STDIN if url else str(database)],
        input=url,
        text=True,
        stdin=subprocess.DEVNULL if url is None else None,
        check=False,
    )


def migrate_now(settings: Settings) -> tuple[str | None, str]:
    """What `hearth migrate` does; returns the schema that the database had (None: it was empty) and the one it has. Blocks.

    Raises:
        NotFound: there is no SQLite file to migrate. InvalidInput: the URL is none.
        StartupFailed: see `hearth.store.migrate`.
    """
    if settings.database_url:
        from hearth.store import postgres

        return postgres.migrated(settings.database_url), newest()
    path = settings.data_dir / "hearth.db"
    if not path.is_file():
        raise NotFound(
            f"there is no database in {settings.data_dir}",
            hint="the first hearth up makes it; or name one with --database-url",
        )
    return _file(path), newest()


def _file(path: Path) -> str | None:
    engine = sqlite_writer(path, durable=True)
    try:
        return migrate(engine, path, SystemClock().now_ms())
    finally:
        engine.dispose()


def main() -> None:
    """The file is the one argument. Exits with 1 where it can't be migrated; who started it tries again and says why."""
    try:
        if sys.argv[1] == FROM_STDIN:
            from hearth.store import postgres

            postgres.migrated(sys.stdin.read())
        else:
            _file(Path(sys.argv[1]))
    except HearthError:
        sys.exit(1)


if __name__ == "__main__":
    main()
