"""What differs between databases: what time it is there, how a row is put, how one is alone; and how SQLite is opened."""

from __future__ import annotations

import os
import sqlite3
from enum import Enum
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, QueuePool, StaticPool, Table, create_engine, event, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL

_NOW = {
    # julianday has a resolution of 40 microseconds; unixepoch('subsec') needs SQLite 3.42
    "sqlite": "SELECT CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)",
    "postgresql": "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
}
_STATEMENTS = {name: text(sql) for name, sql in _NOW.items()}
BUSY_TIMEOUT = 5.0  # seconds to wait for another process's writer


def database_ms(connection: Connection) -> int:
    """The database's clock, milliseconds since the epoch: the one clock that all processes share."""
    return int(connection.execute(_STATEMENTS[connection.dialect.name]).scalar_one())


def upsert(connection: Connection, table: Table) -> Any:
    """An INSERT that knows ON CONFLICT, in this database's words (its `on_conflict_do_update` and `excluded`)."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # two megabytes that nobody needs beside SQLite

    return postgresql.insert(table)


def alone(connection: Connection, what: Alone) -> None:
    """From here to the end of the transaction nobody else does this. In SQLite who writes is alone anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(_ADVISORY, {"key": _KEYS + what.value})


class Alone(Enum):
    """What one transaction does at a time, of all that share a database. The numbers are the locks': they stay."""

    MIGRATION = 1
    EVENTS = 2  # numbers of the outbox are given and committed in the same order
    ACCOUNTS = 3  # who is first, and names that are made up
    LOGINS = 4  # failures are counted before the next one is judged


_KEYS = 0x48656172_00000000  # "Hear": PostgreSQL's advisory locks are shared by all that use a database
_ADVISORY = text("SELECT pg_advisory_xact_lock(:key)")


def is_server(where: str) -> bool:
    """Whether a database's URL is PostgreSQL's, in either of libpq's spellings."""
    return where.startswith(("postgresql://", "postgres://"))


def create_file(path: Path) -> None:
    """Make an empty database file that only its owner reads. Its -wal and -shm take over that mode."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def sqlite_writer(path: Path, *, durable: bool) -> Engine:
    """An engine with one connection, whose transactions take the write lock at once.

    Args:
        durable: True syncs every commit to the disk, so that what was answered survives a power cut;
            False may lose the last commits then, but never the database (https://sqlite.org/pragma.html#pragma_synchronous).
    """
    engine = _engine(path, StaticPool)

    def prepare(connection: sqlite3.Connection, _: Any) -> None:
        _pragmas(connection)
        connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def sqlite_readers(path: Path, size: int) -> Engine:
    """An engine whose connections can't write, each with a snapshot per transaction."""
    engine = _engine(path, QueuePool, pool_size=size, max_overflow=0)

    def prepare(connection: sqlite3.Connection, _: Any) -> None:
        _pragmas(connection)
        connection.execute("PRAGMA query_only=ON")

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _engine(path: Path, pool: type[StaticPool] | type[QueuePool], **options: Any) -> Engine:
    # isolation_level None: the sqlite3 module begins nothing by itself, the listeners above do
    return create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=pool,
        connect_args={"check_same_thread": False, "isolation_level": None, "timeout": BUSY_TIMEOUT},
        **options,
    )


def _pragmas(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA journal_size_limit=67108864")
