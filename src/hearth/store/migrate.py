"""Bring a database to this program's schema, or say why not.

One process at a time migrates; the others wait and find it done. A SQLite file that has data is copied to
``backups/`` beside it first. A migration is one transaction: it happens whole or not at all.

Alembic is imported where there is something to migrate: with what it brings along it weighs as much as a small process.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from hearth.core.errors import StartupFailed
from hearth.store.errors import translate

if TYPE_CHECKING:
    from alembic.config import Config

_log = logging.getLogger(__name__)
_FOLDER = Path(__file__).with_name("migrations")
LOCK_WAIT = 120.0  # seconds that another process's migration may take


def migrate(engine: Engine, path: Path, now_ms: int) -> None:
    """Bring the database at `path` to the newest schema. Blocks.

    Raises:
        StartupFailed: it was written by a newer Hearth or is not Hearth's, another process holds it, or the
            migration failed (the file is as it was then).
    """
    try:
        with _alone(path), engine.begin() as connection:
            if _stored(connection) != newest():
                _upgrade(connection, path, now_ms)
    except SQLAlchemyError as error:
        problem = translate(error)
        raise StartupFailed(
            f"the database can't be brought to this version's schema: {problem}",
            hint=getattr(problem, "hint", None) or "nothing was changed; look at the server's log",
        ) from error


def is_current(engine: Engine) -> bool:
    """Whether there is nothing to migrate. False too when the database can't be read: `migrate` says why."""
    try:
        with engine.connect() as connection:
            return _stored(connection) == newest()
    except SQLAlchemyError:
        return False


def schemas() -> set[str]:
    """All that this program knows: the numbers in the names of its scripts."""
    names = (re.match(r"m(\d{4})_", path.name) for path in (_FOLDER / "versions").iterdir())
    return {name[1] for name in names if name is not None}


def newest() -> str:
    """The schema that this program has."""
    return max(schemas())


def _stored(connection: Connection) -> str | None:
    """The schema that the database says it has."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def _upgrade(connection: Connection, path: Path, now_ms: int) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory

    config = _config()
    scripts = ScriptDirectory.from_config(config)
    head = scripts.get_current_head()
    current = _revision(connection, {script.revision for script in scripts.walk_revisions()}, path)
    if current is not None:
        copy = backup(path, current, now_ms)
        _log.info("the database is migrated from %s to %s; a copy is in %s", current, head, copy)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))  # % is ConfigParser's own
    config.set_main_option("path_separator", "os")
    return config


def _revision(connection: Connection, known: set[str], path: Path) -> str | None:
    """The schema that is there; None for an empty file. Raises StartupFailed."""
    from alembic.migration import MigrationContext

    current = MigrationContext.configure(connection).get_current_revision()
    if current is None:
        if inspect(connection).get_table_names():
            raise StartupFailed(
                f"{path} is a database, but not one of Hearth's",
                hint="choose another --data-dir or move the file away",
            )
        return None
    if current not in known:
        raise of_newer(current)
    return current


def of_newer(schema: str) -> StartupFailed:
    """This program does not know that schema."""
    return StartupFailed(
        f"the database was written by a newer Hearth (schema {schema})",
        hint="run that version again, or restore the copy that it made in DATA_DIR/backups",
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
                    raise StartupFailed(
                        "another process has been migrating the database for two minutes",
                        hint="look what it does; end it and start again",
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
