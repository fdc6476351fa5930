"""The one adapter of all store ports, put together of a part per consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from hearth.core.errors import InvalidInput, NotYetSupported, StartupFailed
from hearth.ports.clock import Clock, Ids
from hearth.store import tables as t
from hearth.store.accounts import Accounts
from hearth.store.credentials import Credentials
from hearth.store.database import READERS, Database
from hearth.store.dialect import create_file, is_server, sqlite_readers, sqlite_writer, upsert
from hearth.store.functions import Functions
from hearth.store.look import FINGERPRINT, of_another_key
from hearth.store.migrate import is_current, migrate
from hearth.store.processes import Processes
from hearth.store.retention import Retention
from hearth.store.routes import Routes
from hearth.store.secrets import Secrets
from hearth.store.traffic import Traffic
from hearth.store.work import Work
from hearth.store.writer import Tx


class Store(Accounts, Credentials, Functions, Work, Routes, Secrets, Processes, Traffic, Retention):
    """Implements every store port. Made by `open`."""

    def __init__(self, database: Database) -> None:
        self._db = database

    @classmethod
    async def open(
        cls,
        where: Path | str,
        *,
        durable: bool,
        clock: Clock,
        ids: Ids,
        publish: Callable[[str], None] = lambda topic: None,
        migrator: Callable[[Path | str], None] | None = None,
    ) -> Store:
        """Open a database and bring it to this program's schema.

        Args:
            where: the SQLite file, or a URL (``postgresql://…``, ``sqlite:////absolute/path``).
            durable: whether a commit survives a power cut: True for control, which acknowledges; False for
                shards, whose rows can be lost.
            publish: called on the loop with ``routes``, ``versions`` or ``credentials`` after such rows changed.
            migrator: migrates a database in another process, so that what it takes isn't kept in this one's memory. Where
                it fails it is tried here, which says why.

        Raises:
            StartupFailed: a newer schema, a database that isn't Hearth's, a migration that failed, no access.
            InvalidInput: `where` is no URL. NotYetSupported: a database that is not there yet.
        """
        if isinstance(where, str) and is_server(where):
            return await cls._connect(where, durable, clock, ids, publish, migrator)
        path = where if isinstance(where, Path) else _path_of(where)
        engine = sqlite_writer(path, durable=durable)

        def prepare() -> None:
            try:
                create_file(path)
            except OSError as error:
                raise StartupFailed(
                    f"the database {path} can't be opened: {error.strerror}",
                    hint="look at the owner and mode of the data directory",
                ) from error
            try:
                if migrator is not None and not is_current(engine):
                    migrator(path)
                migrate(engine, path, clock.now_ms())
            finally:
                engine.dispose()  # the writer's thread makes a connection of its own

        await asyncio.to_thread(prepare)
        return cls(Database(engine, sqlite_readers(path, READERS), clock, ids, publish))

    @classmethod
    async def _connect(
        cls,
        url: str,
        durable: bool,
        clock: Clock,
        ids: Ids,
        publish: Callable[[str], None],
        migrator: Callable[[Path | str], None] | None,
    ) -> Store:
        from hearth.store import postgres  # megabytes that nobody needs beside SQLite

        writer = postgres.engine(url, 1, durable=durable)

        def prepare() -> None:
            try:
                if migrator is not None and not is_current(writer):
                    migrator(url)
                postgres.migrated(url)
            finally:
                writer.dispose()

        await asyncio.to_thread(prepare)
        readers = postgres.engine(url, READERS, readonly=True)
        return cls(Database(writer, readers, clock, ids, publish, postgres.WAIT))

    async def check_root_key(self, fingerprint: str) -> None:
        """Hold the root key against the one that this database began with; the first one is remembered.

        Raises:
            StartupFailed: it is another key, with which nothing stored here could be read.
        """

        def write(tx: Tx) -> str:
            put = upsert(tx.connection, t.meta).values(name=FINGERPRINT, value=fingerprint)
            tx.connection.execute(put.on_conflict_do_nothing())
            found = tx.connection.execute(select(t.meta.c.value).where(t.meta.c.name == FINGERPRINT))
            return str(found.scalar_one())

        if await self._db.write(write) != fingerprint:
            raise of_another_key()

    async def close(self) -> None:
        """Commit what is queued and close the file."""
        await self._db.close()


def _path_of(url: str) -> Path:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise InvalidInput(
            "the database URL is not understood", hint="write postgresql://USER:PASSWORD@HOST:5432/NAME"
        ) from None  # it may have a password in it
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise NotYetSupported(
            "only PostgreSQL and a SQLite file are supported",
            hint="write postgresql://USER:PASSWORD@HOST:5432/NAME or sqlite:////path/to/hearth.db",
        )
    return Path(parsed.database)
