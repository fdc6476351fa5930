"""What SQLite adds: group commit, several processes, a disk that is full, a process that dies."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from hearth.core.errors import Conflict, StoreUnavailable
from hearth.store.writer import Tx

from .store_setup import SHM, Setting, setting

PRELUDE = """
import asyncio, os, sys
from pathlib import Path
from hearth.bootstrap.child import RandomIds, SystemClock
from hearth.store.store import Store
async def opened():
    return await Store.open(Path(sys.argv[1]), durable=True, clock=SystemClock(), ids=RandomIds())
"""
# Says each key once its write is acknowledged, until it is killed.
WRITE_FOREVER = (
    PRELUDE
    + """
async def main():
    store = await opened()
    async def one(line):
        number = 0
        while True:
            await store.remember_artifact(f"{line}-{number}", "x")
            os.write(1, f"{line}-{number}\\n".encode())
            number += 1
    await asyncio.gather(*(one(line) for line in range(8)))
asyncio.run(main())
"""
)


@pytest.fixture
async def at() -> AsyncIterator[Setting]:
    async with setting() as made:
        yield made


async def test_what_waits_is_committed_together_and_a_refusal_hurts_nobody_else(at: Setting) -> None:
    transactions: set[int] = set()
    release = threading.Event()

    def block(tx: Tx) -> None:
        release.wait(10)

    def add(number: int) -> Callable[[Tx], None]:
        def write(tx: Tx) -> None:
            transactions.add(id(tx.connection))
            tx.connection.execute(text("INSERT INTO meta VALUES (:n, '')"), {"n": str(number)})
            if number % 3 == 1:
                raise Conflict("refused by a rule")
            if number % 3 == 2:
                tx.connection.execute(text("INSERT INTO meta VALUES ('0', '')"))

        return write

    blocked = asyncio.create_task(at.store._db.write(block))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(at.store._db.write(add(number))) for number in range(30)]
    await asyncio.sleep(0)
    release.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    await blocked
    assert [isinstance(result, Conflict) for result in results] == [number % 3 != 0 for number in range(30)]
    assert len(transactions) == 1
    with closing(sqlite3.connect(at.path)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM meta")}
    assert names == {str(number) for number in range(0, 30, 3)}


async def test_a_fault_of_the_program_reaches_its_caller_alone(at: Setting) -> None:
    def broken(tx: Tx) -> None:
        tx.connection.execute(text("INSERT INTO meta VALUES ('half', '')"))
        raise KeyError("a fault of the program")

    good, bad = await asyncio.gather(
        at.store.remember_artifact("a", "b"), at.store._db.write(broken), return_exceptions=True
    )
    assert good is None and isinstance(bad, KeyError)
    with closing(sqlite3.connect(at.path)) as connection:
        assert connection.execute("SELECT count(*) FROM meta").fetchone() == (0,)


async def test_a_caller_that_leaves_changes_nothing_for_the_others(at: Setting) -> None:
    leaving = [asyncio.create_task(at.store.remember_artifact(f"leaves-{n}", "x")) for n in range(5)]
    staying = [asyncio.create_task(at.store.remember_artifact(f"stays-{n}", "x")) for n in range(5)]
    await asyncio.sleep(0)
    for task in leaving:
        task.cancel()
    await asyncio.gather(*staying)
    assert await at.store.cached_artifact("stays-4") == "x"
    assert all(
        isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*leaving, return_exceptions=True)
    )


async def test_readers_can_not_write(at: Setting) -> None:
    with pytest.raises(StoreUnavailable, match="can't be written"):
        await at.store._db.read(lambda c: c.execute(text("INSERT INTO meta VALUES ('a', 'b')")))


async def test_reading_goes_on_while_another_process_writes(at: Setting) -> None:
    with closing(sqlite3.connect(at.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert await at.store.count_users() == 0
        other.execute("ROLLBACK")


async def test_who_waits_too_long_for_another_writer_is_told(at: Setting) -> None:
    await at.store._db.write(lambda tx: tx.connection.execute(text("SELECT 1")))

    with closing(sqlite3.connect(at.path, isolation_level=None)) as other:
        with at.store._db._writer._engine.connect() as mine:
            mine.connection.dbapi_connection.execute("PRAGMA busy_timeout=1")  # type: ignore[union-attr]
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="busy") as refused:
            await at.store.remember_artifact("a", "b")
        assert refused.value.retry_after == 1.0
        other.execute("ROLLBACK")
    await at.store.remember_artifact("a", "b")


async def test_a_full_disk_is_said_and_mends_itself(at: Setting) -> None:
    def limit(tx: Tx) -> None:
        pages = tx.connection.execute(text("PRAGMA page_count")).scalar_one()
        tx.connection.execute(text(f"PRAGMA max_page_count={pages + 4}"))

    await at.store._db.write(limit)
    big = "x" * 100_000
    results = await asyncio.gather(
        *(at.store.remember_artifact(f"k{n}", big) for n in range(3)), return_exceptions=True
    )
    assert any(isinstance(result, StoreUnavailable) and "full" in str(result) for result in results)
    assert all(result is None or isinstance(result, StoreUnavailable) for result in results)
    await at.store.remember_artifact("after", "x")
    assert await at.store.cached_artifact("after") == "x"


async def test_a_closed_store_says_so(at: Setting) -> None:
    await at.store.close()
    with pytest.raises(StoreUnavailable):
        await at.store.count_users()
    with pytest.raises(StoreUnavailable):
        await at.store.remember_artifact("a", "b")
    await at.store.close()


async def test_closing_commits_what_was_asked(at: Setting) -> None:
    asked = [asyncio.create_task(at.store.remember_artifact(f"k{n}", "x")) for n in range(100)]
    await asyncio.sleep(0)
    await at.store.close()
    await asyncio.gather(*asked)
    with closing(sqlite3.connect(at.path)) as connection:
        assert connection.execute("SELECT count(*) FROM artifacts").fetchone() == (100,)


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 1)])
async def test_only_a_durable_store_syncs_every_commit(durable: bool, level: int) -> None:
    async with setting(durable=durable) as at:
        found = await at.store._db.write(
            lambda tx: tx.connection.execute(text("PRAGMA synchronous")).scalar_one()
        )
        keys = await at.store._db.write(
            lambda tx: tx.connection.execute(text("PRAGMA foreign_keys")).scalar_one()
        )
        mode = await at.store._db.read(lambda c: c.execute(text("PRAGMA journal_mode")).scalar_one())
    assert (found, keys, mode) == (level, 1, "wal")


def test_what_was_acknowledged_survives_kill_9() -> None:
    with tempfile.TemporaryDirectory(prefix="hearth-store-", dir=SHM if SHM.is_dir() else None) as folder:
        path = Path(folder) / "hearth.db"
        for _ in range(3):
            process = subprocess.Popen([sys.executable, "-c", WRITE_FOREVER, path], stdout=subprocess.PIPE)
            assert process.stdout is not None
            said = b""
            while said.count(b"\n") < 200:
                said += os.read(process.stdout.fileno(), 65536)
            process.kill()
            process.wait()
            said += process.stdout.read()
            process.stdout.close()
            acknowledged = {line.decode() for line in said.split(b"\n")[:-1]}
            with closing(sqlite3.connect(path)) as connection:
                kept = {key for (key,) in connection.execute("SELECT build_key FROM artifacts")}
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert acknowledged <= kept
