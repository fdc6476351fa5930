"""Bring a database to this program's schema, or say why not.

One process at a time migrates; the others wait and find it done. A SQLite file that has data is copied to
``backups/`` beside it first; PostgreSQL's backups are its owner's. A migration is one transaction: it happens whole or not at all.

Alembic is imported where there is something to migrate: with what it brings along it weighs as much as a small process.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from hearth.core.errors import StartupFailed
from hearth.store.dialect import Alone, alone
from hearth.store.errors import reason, translate

if TYPE_CHECKING:
    from alembic.config import Config

_log = logging.getLogger(__name__)
_FOLDER = Path(__file__).with_name("migrations")
LOCK_WAIT = 120.0  # seconds that another process's migration may take
_LOCK_TIMEOUT = "55P03"  # lock_not_available


def migrate(engine: Engine, path: Path, now_ms: int) -> str | None:
    """Bring the SQLite database at `path` to the newest schema; returns the one that it had. Blocks.

    Raises:
        StartupFailed: it was written by a newer Hearth or is not Hearth's, another process holds it, or the
            migration failed (the file is as it was then).
    """

    def copy(schema: str) -> str:
        return f"; a copy is in {backup(path, schema, now_ms)}"

    try:
        with _alone(path), engine.begin() as connection:
            return _upgrade(connection, str(path), copy)
    except SQLAlchemyError as error:
        raise failed(error, "be brought to this version's schema") from error


def migrate_server(engine: Engine, name: str) -> str | None:
    """The same for a database of PostgreSQL; no copy is made. Who has nothing to migrate waits for nobody and needs no right to.

    Args:
        engine: whose statements wait `LOCK_WAIT` seconds for another process's migration.
        name: as people know the database.
    """
    try:
        with engine.begin() as connection:
            if (found := stored(connection)) == newest():
                return found
    except SQLAlchemyError as error:
        raise failed(error, "be opened", name) from error
    try:
        with engine.begin() as connection:
            alone(connection, Alone.MIGRATION)
            return _upgrade(connection, name, lambda schema: "")
    except SQLAlchemyError as error:
        if getattr(getattr(error, "orig", None), "sqlstate", None) == _LOCK_TIMEOUT:
            raise _taken() from error
        raise failed(error, "be brought to this version's schema", name) from error


def failed(error: SQLAlchemyError, what: str, name: str | None = None) -> StartupFailed:
    """Why a database can't `what`. `name`: of PostgreSQL's, for people."""
    problem = translate(error)
    said = reason(error) if isinstance(error, OperationalError) else None
    return StartupFailed(
        f"the database{f' {name}' if name else ''} can't {what}: {problem}{f' ({said})' if said else ''}",
        hint=getattr(problem, "hint", None) or "nothing was changed; look at the server's log",
    )


def _taken() -> StartupFailed:
    return StartupFailed(
        "another process has been migrating the database for two minutes",
        hint="look what it does; end it and start again",
    )


def is_current(engine: Engine) -> bool:
    """Whether there is nothing to migrate. False too when the database can't be read: `migrate` says why."""
    try:
        with engine.connect() as connection:
            return stored(connection) == newest()
    except SQLAlchemyError:
        return False


def schemas() -> set[str]:
    """All that this program knows: the numbers in the names of its scripts."""
    names = (re.match(r"m(\d{4})_", path.name) for path in (_FOLDER / "versions").iterdir())
    return {name[1] for name in names if name is not None}


def newest() -> str:
    """The schema that this program has."""
    return max(schemas())


def stored(connection: Connection) -> str | None:
    """The schema that the database says it has."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def _upgrade(connection: Connection, name: str, copy: Callable[[str], str]) -> str | None:
    """Migrate where there is something to migrate; returns the schema that was there.

    Args:
        name: of the database, for people.
        copy: makes a copy of what has this schema, and says where.
    """
    if (found := stored(connection)) == newest():
        return found
    from alembic import command
    from alembic.script import ScriptDirectory

    config = _config()
    scripts = ScriptDirectory.from_config(config)
    current = _revision(connection, {script.revision for script in scripts.walk_revisions()}, name)
    if current is not None:
        head, copied = scripts.get_current_head(), copy(current)
        _log.info("the database is migrated from %s to %s%s", current, head, copied)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return current


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))  # % is ConfigParser's own
    config.set_main_option("path_separator", "os")
    return config


def _revision(connection: Connection, known: set[str], name: str) -> str | None:
    """The schema that is there; None for an empty database. Raises StartupFailed."""
    from alembic.migration import MigrationContext

    current = MigrationContext.configure(connection).get_current_revision()
    if current is None:
        if inspect(connection).get_table_names():
            raise not_hearths(name, server=connection.dialect.name == "postgresql")
        return None
    if current not in known:
        raise of_newer(current, server=connection.dialect.name == "postgresql")
    return current


def not_hearths(name: str, *, server: bool = False) -> StartupFailed:
    """Something else is in that database. `server`: it is PostgreSQL's."""
    return StartupFailed(
        f"{name} is a database, but not one of Hearth's",
        hint="make one for it: CREATE DATABASE hearth OWNER hearth"
        if server
        else "choose another --data-dir or move the file away",
    )


def of_newer(schema: str, *, server: bool = False) -> StartupFailed:
    """This program does not know that schema. `server`: of PostgreSQL, of which Hearth makes no copies."""
    copy = "your backup from before it" if server else "the copy that it made in DATA_DIR/backups"
    return StartupFailed(
        f"the database was written by a newer Hearth (schema {schema})",
        hint=f"run that version again, or restore {copy}",
    )


def backup(path: Path, label: str, now_ms: int) -> Path:
    """Copy a database that is in use, whole and consistent, to ``backups/`` beside it; returns the copy's path.

    Raises:
        StartupFailed: the copy can't be written.
    """
    folder = path.parent / "backups"
    target = folder / f"{path.stem}-{label}-{now_ms}.db"
    partial = target.with_suffix(".partial")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        for place in (folder, partial):
            _give_away(place, path)
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(partial)) as copy:
            source.backup(copy)
        for place in (partial, folder):  # the copy is on the disk before it counts, and its name as well
            descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            os.fsync(descriptor)
            os.close(descriptor)
            if place == partial:
                partial.rename(target)
    except (OSError, sqlite3.Error) as error:
        with suppress(OSError):
            partial.unlink()
        raise StartupFailed(
            f"the database can't be copied before its migration: {error}",
            hint=f"make room for it in {folder}",
        ) from error
    return target


def _give_away(place: Path, path: Path) -> None:
    """Make what root has created the database owner's: control runs as an ordinary user, and must be able to use it."""
    if os.geteuid() == 0:
        owner = path.stat()
        os.chown(place, owner.st_uid, owner.st_gid, follow_symlinks=False)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock of opening and migrating; the kernel gives it back when its holder dies."""
    lock = path.with_name(path.name + ".lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _give_away(lock, path)
        deadline = time.monotonic() + LOCK_WAIT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise _taken() from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
