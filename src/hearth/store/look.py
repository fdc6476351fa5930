"""A database looked at while nobody has it open. Nothing is written, not even beside it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from hearth.core.errors import HearthError, StartupFailed
from hearth.core.finding import Finding, State, found_by, note, ok
from hearth.store.migrate import newest, of_newer, schemas

NAME = "database"
FINGERPRINT = "root_key_fingerprint"  # in the table `meta`


def of_another_key() -> StartupFailed:
    """The database was begun with a root key that is not the one at hand."""
    return StartupFailed(
        "the root key is not the one that this database was made with",
        hint="put the old key back at DATA_DIR/key (or HEARTH_KEY_FILE)",
    )


def look(path: Path, fingerprint: str | None) -> Finding:
    """Whether this program would open a database.

    Args:
        path: the file; no platform may be running on it.
        fingerprint: of the root key; None where there is none, and the start would make another.
    """
    log = path.with_name(f"{path.name}-wal")
    try:
        if not path.is_file() or not path.stat().st_size:
            return ok(NAME, "none yet: the first start makes it")
        # immutable: SQLite would else make files beside it, which then belong to whoever looks.
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)) as base:
            schema = _one(base, "SELECT version_num FROM alembic_version")
            known = _one(base, "SELECT value FROM meta WHERE name = ?", FINGERPRINT)
    except (OSError, sqlite3.Error) as error:
        if log.exists():  # a platform was killed: what it wrote last is in the log, and not looked at
            return note(NAME, "not looked at: it was not closed, and the next start brings it in order")
        failed = StartupFailed(f"the database {path} can't be read: {error}")
        return found_by(failed, NAME, State.REFUSED)
    problem: HearthError | None = None
    if schema not in schemas():
        problem = of_newer(str(schema))
    elif known is not None and known != fingerprint:
        problem = of_another_key()
    if problem is not None:
        return found_by(problem, NAME, State.REFUSED)
    then = "" if schema == newest() else f", migrated to {newest()} at the next start (a copy is made first)"
    return ok(NAME, f"schema {schema}{then}")


def _one(base: sqlite3.Connection, query: str, *values: str) -> str | None:
    row = base.execute(query, values).fetchone()
    return None if row is None else str(row[0])
