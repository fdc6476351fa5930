"""What SQLite, PostgreSQL and SQLAlchemy raise, in the words of the one tree. The only table of its kind."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from hearth.core.errors import Conflict, HearthError, InvalidInput, StoreUnavailable

Said = tuple[str, str, float | None]  # message, hint, seconds until trying again makes sense

# By SQLite's primary result code (https://sqlite.org/rescode.html).
_BY_CODE: dict[int, Said] = {
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

_UNREACHABLE: Said = (
    "the database can't be reached",
    "look whether PostgreSQL runs, and at host and port of --database-url (in its password, write @ as %40 and / as %2F)",
    2.0,
)
_REFUSED: Said = (
    "the database refuses the user or its password",
    "look at --database-url, and at PostgreSQL's pg_hba.conf",
    10.0,
)
_BUSY: Said = ("the database is busy", "try again in a moment", 1.0)
_SLOW: Said = (
    "the database is too slow",
    "what was asked may still have been done: look before you repeat it",
    2.0,
)
_SCHEMA: Said = ("the database has another schema", "run the same Hearth everywhere: hearth migrate", None)
_DAMAGED: Said = ("the database is damaged", "restore a backup of it", None)

# By PostgreSQL's code, or else its class, the first two letters (https://www.postgresql.org/docs/current/errcodes-appendix.html).
_BY_STATE: dict[str, Said] = {
    "": _UNREACHABLE,  # libpq's own: no connection, or one that broke
    "08": _UNREACHABLE,
    "25006": (
        "the database can't be written",
        "it is a standby: name all hosts in --database-url, with target_session_attrs=read-write",
        2.0,
    ),
    "28": _REFUSED,
    "3D000": ("there is no such database", "make it: CREATE DATABASE hearth OWNER hearth", 10.0),
    "40": _BUSY,
    "42501": (
        "the user of the database may not do this",
        "make it the owner: ALTER DATABASE hearth OWNER TO hearth",
        10.0,
    ),
    "42P01": _SCHEMA,
    "42703": _SCHEMA,
    "53100": ("the disk of the database is full", "free space on PostgreSQL's machine", 10.0),
    "53300": (
        "the database has no connection left",
        "raise PostgreSQL's max_connections, or end what holds them",
        5.0,
    ),
    "53": ("the database is short of something", "look at PostgreSQL's log", 5.0),
    "55P03": _BUSY,
    "57014": _SLOW,
    "57": _UNREACHABLE,  # it is being stopped, or started
    "58": ("the disk of the database fails", "look at PostgreSQL's log", 10.0),
    "XX001": _DAMAGED,
    "XX002": _DAMAGED,
}
# libpq has no code for a connection that was not made, only the server's text: a word of it, and the code that it stands for.
_BY_TEXT = {
    "password authentication failed": "28P01",
    "no password supplied": "28P01",
    "authentication failed": "28000",
    "no pg_hba.conf entry": "28000",
    "is not permitted to log in": "28000",
    'role "': "28000",
    'database "': "3D000",
    "too many clients": "53300",
    "connection slots are reserved": "53300",
    "too many connections": "53300",
}
_OTHER: Said = ("the database does not answer", "look at the server's log", 1.0)
_STANDBY = "25006"  # read_only_sql_transaction
_AGAIN = ("40001", "40P01")  # serialization_failure, deadlock_detected: whoever repeats it gets through


def too_slow() -> StoreUnavailable:
    """Whoever asked has waited long enough."""
    message, hint, after = _SLOW
    return StoreUnavailable(message, hint=hint, retry_after=after)


def lost_in_commit() -> StoreUnavailable:
    """The connection broke between asking for a commit and hearing of it."""
    return StoreUnavailable(
        "the connection to the database was lost in the middle of a commit", hint=_SLOW[1], retry_after=2.0
    )


def overrun() -> StoreUnavailable:
    """More is asked than it answers."""
    return StoreUnavailable("the database can't keep up", hint="try again in a moment", retry_after=2.0)


def is_lost(error: BaseException) -> bool:
    """Whether a new connection may do: this one was lost, of which nobody had heard yet, or leads to what is a standby now."""
    if not isinstance(error, DBAPIError) or getattr(error.orig, "gave_up", False):
        return False
    return error.connection_invalidated or getattr(error.orig, "sqlstate", None) == _STANDBY


def is_beaten(error: BaseException) -> bool:
    """Whether PostgreSQL has undone a transaction for another's sake, so that it can be repeated."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _AGAIN


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
        if hasattr(original, "sqlstate"):  # psycopg's
            return _of_state(original, _state(original))
        code = getattr(original, "sqlite_errorcode", 0) & 0xFF
        message, hint, after = _BY_CODE.get(code, _OTHER)
        return StoreUnavailable(message, hint=hint, retry_after=after)
    if isinstance(error, SQLAlchemyError):
        message, hint, after = _OTHER
        return StoreUnavailable(message, hint=hint, retry_after=after)
    return error


def reason(error: DBAPIError) -> str | None:
    """What libpq or the server says of a connection that was not made: for who has written the URL, since it may name hosts.

    No more than the end of it: before that may stand what was taken for a host, of a password with an ``@`` in it.
    """
    said = str(error.orig).strip()
    lines = [line for line in said.splitlines() if ": " in line]
    return lines[-1].rpartition(": ")[2].strip()[:200] if lines else None


def _state(original: object) -> str:
    state = getattr(original, "sqlstate", None)
    if state is None:
        said = str(original)
        state = next((code for words, code in _BY_TEXT.items() if words in said), "")
    return str(state)


def _of_state(original: object, state: str) -> HearthError:
    if state.startswith("22") or type(original).__name__ == "DataError":  # also one that psycopg itself finds
        return InvalidInput(
            "a value is too long, too large, or holds a character that the database does not take",
            hint="leave out NUL, and shorten it",
        )
    if getattr(original, "gave_up", False):
        return too_slow()
    message, hint, after = _BY_STATE.get(state) or _BY_STATE.get(state[:2]) or _OTHER
    return StoreUnavailable(message, hint=hint, retry_after=after)
