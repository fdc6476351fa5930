"""What SQLite and SQLAlchemy raise, in the words of the one tree. The only table of its kind."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from hearth.core.errors import Conflict, HearthError, StoreUnavailable

# By SQLite's primary result code (https://sqlite.org/rescode.html): message, hint, seconds until trying again makes sense.
_BY_CODE: dict[int, tuple[str, str, float | None]] = {
    sqlite3.SQLITE_BUSY: ("the database is busy", "try again in a moment", 1.0),
    sqlite3.SQLITE_LOCKED: ("the database is busy", "try again in a moment", 1.0),
    sqlite3.SQLITE_FULL: ("the disk of the database is full", "free space below the data directory", 10.0),
    sqlite3.SQLITE_CORRUPT: ("the database is damaged", "restore the newest copy of DATA_DIR/backups", None),
    sqlite3.SQLITE_NOTADB: (
        "the database file is no database",
        "restore the newest copy of DATA_DIR/backups",
        None,
    ),
    sqlite3.SQLITE_READONLY: (
        "the database can't be written",
        "look at the owner and mode of DATA_DIR/hearth.db",
        10.0,
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "the database can't be opened",
        "look at the owner and mode of the data directory",
        10.0,
    ),
    sqlite3.SQLITE_PERM: (
        "the database can't be opened",
        "look at the owner and mode of the data directory",
        10.0,
    ),
    sqlite3.SQLITE_IOERR: ("the disk of the database fails", "look at the kernel's log", 10.0),
    sqlite3.SQLITE_SCHEMA: (
        "the database has another schema",
        "run the same Hearth everywhere: hearth migrate",
        None,
    ),
}


def translate(error: BaseException) -> BaseException:
    """The error to raise for what an operation raised. Ours pass through, and so does what is a fault of the program."""
    translated = _translate(error)
    if translated is not error:
        translated.__cause__ = error
    return translated


def _translate(error: BaseException) -> BaseException:
    if isinstance(error, HearthError):
        return error
    if isinstance(error, IntegrityError):
        return Conflict(
            "something that this refers to has changed meanwhile", hint="look again and repeat it"
        )
    if isinstance(error, DBAPIError | sqlite3.Error):
        original = error.orig if isinstance(error, DBAPIError) else error
        code = getattr(original, "sqlite_errorcode", 0) & 0xFF
        message, hint, after = _BY_CODE.get(
            code, ("the database does not answer", "look at the server's log", 1.0)
        )
        return StoreUnavailable(message, hint=hint, retry_after=after)
    if isinstance(error, SQLAlchemyError):
        return StoreUnavailable(
            "the database does not answer", hint="look at the server's log", retry_after=1.0
        )
    return error
