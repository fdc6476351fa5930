"""The same roads in PostgreSQL: no copy is made there, and its locks are the server's."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from hearth.bootstrap.migrate import FROM_STDIN, migrate_apart
from hearth.core.errors import StartupFailed
from hearth.store import migrate as migrating
from hearth.store import postgres as adapter
from hearth.store.dialect import _KEYS, Alone, create_file
from hearth.store.store import Store
from hearth.store.tables import metadata
from hearth.testing.clock import ClockIds, FakeClock
from tests.migrations.test_migrations import HEAD, OPEN_AND_ADD, next_schema
from tests.postgres import PASSWORD, Postgres

__all__ = ["next_schema"]  # a fixture


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    """An empty database."""
    name = postgres.create()
    yield postgres.url(name)
    postgres.drop(name)


async def opened(url: str, migrator: Callable[[Path | str], None] | None = None) -> None:
    clock = FakeClock()
    store = await Store.open(url, durable=True, clock=clock, ids=ClockIds(clock), migrator=migrator)
    await store.close()


def rows(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description is not None else []


async def test_migrations_make_the_tables_of_the_program(url: str) -> None:
    assert adapter.migrated(url) is None
    assert adapter.migrated(url) == HEAD
    engine = adapter.engine(url, 1)
    with engine.begin() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()


async def test_a_newer_schema_is_refused_untouched(url: str) -> None:
    await opened(url)
    rows(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StartupFailed, match="newer Hearth") as refused:
        await opened(url)
    assert "your backup" in (refused.value.hint or "")
    assert rows(url, "SELECT version_num FROM alembic_version") == [("9999",)]


async def test_somebody_elses_database_is_refused_untouched(url: str) -> None:
    rows(url, "CREATE TABLE theirs (x int)")
    with pytest.raises(StartupFailed, match="not one of Hearth's") as refused:
        await opened(url)
    assert PASSWORD not in str(refused.value) and "CREATE DATABASE" in (refused.value.hint or "")
    assert rows(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == [("theirs",)]


async def test_an_older_schema_is_migrated_with_its_rows(url: str, request: pytest.FixtureRequest) -> None:
    await opened(url)
    rows(url, "INSERT INTO artifacts VALUES ('key', 'value', 1)")
    request.getfixturevalue("next_schema")
    await opened(url)
    assert rows(url, "SELECT x FROM more") == [(1,)]
    assert rows(url, "SELECT version_num FROM alembic_version") == [("9999",)]


async def test_a_migration_that_fails_changes_nothing(url: str, request: pytest.FixtureRequest) -> None:
    await opened(url)
    scripts: Path = request.getfixturevalue("next_schema")
    broken = scripts / "versions" / "m9999_next.py"
    broken.write_text(broken.read_text().replace("# here", "op.execute('CREATE TABLE artifacts (x int)')"))
    with pytest.raises(StartupFailed, match="can't be brought"):
        await opened(url)
    assert rows(url, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    assert rows(url, "SELECT 1 FROM pg_tables WHERE tablename = 'more'") == []


def test_processes_that_start_at_once_all_come_up(url: str) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", OPEN_AND_ADD, url, f"k{n}"], stderr=subprocess.PIPE)
        for n in range(4)
    ]
    for process in started:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    assert rows(url, "SELECT count(*) FROM artifacts") == [(4,)]


def test_of_two_that_migrate_at_once_one_waits_and_finds_it_done(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go_on = threading.Event(), threading.Event()
    upgrade, calls = migrating._upgrade, []

    def slow(*args: object) -> str | None:
        calls.append(threading.get_ident())
        inside.set()
        assert go_on.wait(30)
        return upgrade(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(migrating, "_upgrade", slow)
    results: list[str | None] = []
    threads = [threading.Thread(target=lambda: results.append(adapter.migrated(url))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert inside.wait(30)
    while not rows(url, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
        pass
    assert len(calls) == 1  # the other one stands before it
    go_on.set()
    for thread in threads:
        thread.join()
    assert results == [None, HEAD]


def test_who_waits_too_long_for_another_migration_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrating, "LOCK_WAIT", 0.1)
    with psycopg.connect(url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s::bigint)", [_KEYS + Alone.MIGRATION.value])
        with pytest.raises(StartupFailed, match="another process"):
            adapter.migrated(url)
    adapter.migrated(url)
    with psycopg.connect(url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s::bigint)", [_KEYS + Alone.MIGRATION.value])
        assert adapter.migrated(url) == HEAD  # who has nothing to do does not wait


async def test_another_process_migrates_and_is_not_told_the_url_on_its_command_line(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    run = subprocess.run

    def noted(command: list[str], **options: object) -> object:
        commands.append(command)
        return run(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", noted)
    await asyncio.to_thread(migrate_apart, url)
    assert rows(url, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    assert commands[0][-1] == FROM_STDIN and PASSWORD not in str(commands)
    await opened(url, migrate_apart)
    assert len(commands) == 1  # there was nothing to do


async def test_a_database_that_is_current_is_opened_without_alembic(url: str) -> None:
    """It weighs as much as a small process, in every process."""
    await opened(url)
    opening = OPEN_AND_ADD + "\nassert not {'alembic', 'mako', 'pygments'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", opening, url, "key"], timeout=60, check=True)


def test_beside_sqlite_psycopg_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "hearth.db"
    create_file(path)
    migrate_apart(path)  # Alembic knows every dialect
    opening = OPEN_AND_ADD + "\nassert 'psycopg' not in sys.modules"
    subprocess.run([sys.executable, "-c", opening, path, "key"], timeout=60, check=True)
