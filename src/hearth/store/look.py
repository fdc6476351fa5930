"""A database looked at while nobody has it open. Nothing is written, not even beside it.

It belongs to the unprivileged user of control, who could have put anything there; so root does not read it as root.
"""

from __future__ import annotations

import json
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

from hearth.core.errors import HearthError, StartupFailed
from hearth.core.finding import Finding, State, found_by, note, ok
from hearth.linux.apart import answer_of
from hearth.store.migrate import newest, not_hearths, of_newer, schemas

NAME = "database"
FINGERPRINT = "root_key_fingerprint"  # in the table `meta`
_TIMEOUT = 20.0  # seconds


def of_another_key() -> StartupFailed:
    """The database was begun with a root key that is not the one at hand."""
    return StartupFailed(
        "the root key is not the one that this database was made with",
        hint="put the old key back at DATA_DIR/key (or HEARTH_KEY_FILE)",
    )


def look(path: Path, fingerprint: str | None) -> Finding:
    """Whether this program would open a database. Call it before the first thread.

    Args:
        path: the file; no platform may be running on it.
        fingerprint: of the root key; None where there is none, and the start would make another.
    """
    log = path.with_name(f"{path.name}-wal")
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is no file")
        if not status.st_size:
            raise FileNotFoundError
        owner = status.st_uid, status.st_gid
        said = json.loads(answer_of(lambda folder: _read(folder / path.name), path.parent, owner, _TIMEOUT))
        if "error" in said:
            raise OSError(said["error"])
    except FileNotFoundError:
        return ok(NAME, "none yet: the first start makes it")
    except (OSError, ValueError) as error:
        if log.exists():  # a platform was killed: what it wrote last is in the log, and not looked at
            return note(NAME, "not looked at: it was not closed, and the next start brings it in order")
        failed = StartupFailed(f"the database {path} can't be read: {error}")
        return found_by(failed, NAME, State.REFUSED)
    return _judge(said["schema"], said["fingerprint"], fingerprint)


def look_at_server(url: str, fingerprint: str | None) -> Finding:
    """The same for a database of PostgreSQL, whoever uses it meanwhile. Its password is in nothing that is said."""
    from hearth.store import postgres

    try:
        name, seen = postgres.shown(url), postgres.peek(url)
    except HearthError as error:
        return found_by(error, NAME, State.REFUSED)
    where = f"{name}, PostgreSQL {seen.version}"
    if seen.schema is None and not seen.empty:
        return found_by(not_hearths(name, server=True), NAME, State.REFUSED)
    if seen.schema is None:
        return ok(NAME, f"{where}: nothing in it yet, the first start makes its tables")
    return _judge(seen.schema, seen.values.get(FINGERPRINT), fingerprint, where)


def _judge(schema: str | None, known: str | None, fingerprint: str | None, server: str = "") -> Finding:
    problem: HearthError | None = None
    if schema not in schemas():
        problem = of_newer(str(schema), server=bool(server))
    elif known is not None and known != fingerprint:
        problem = of_another_key()
    if problem is not None:
        return found_by(problem, NAME, State.REFUSED)
    copied = "" if server else " (a copy is made first)"
    then = "" if schema == newest() else f", migrated to {newest()} at the next start{copied}"
    return ok(NAME, f"{f'{server}, ' if server else ''}schema {schema}{then}")


def _read(path: Path) -> str:
    try:
        # immutable: SQLite would else make files beside it, which then belong to whoever looks.
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as base:
            schema = _one(base, "SELECT version_num FROM alembic_version")
            known = _one(base, "SELECT value FROM meta WHERE name = ?", FINGERPRINT)
            return json.dumps({"schema": schema, "fingerprint": known})
    except sqlite3.Error as error:
        return json.dumps({"error": str(error)})


def _one(base: sqlite3.Connection, query: str, *values: str) -> str | None:
    row = base.execute(query, values).fetchone()
    return None if row is None else str(row[0])[:100]
