"""The schema that migrations make is the one that the program uses, and no road to it loses data."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from hearth.core.errors import InvalidInput, NotYetSupported, StartupFailed
from hearth.store import migrate as migrating
from hearth.store.dialect import create_file, sqlite_writer
from hearth.store.migrate import migrate
from hearth.store.store import Store
from hearth.store.tables import metadata
from hearth.testing.clock import ClockIds, FakeClock

HEAD = "0003"
OPEN_AND_ADD = """
import asyncio, sys
from pathlib import Path
from hearth.bootstrap.child import RandomIds, SystemClock
from hearth.store.store import Store
async def main():
    where = sys.argv[1] if "://" in sys.argv[1] else Path(sys.argv[1])
    store = await Store.open(where, durable=True, clock=SystemClock(), ids=RandomIds())
    await store.remember_artifact(sys.argv[2], sys.argv[2])
    await store.close()
asyncio.run(main())
"""


async def opened(path: Path | str, migrator: Callable[[Path | str], None] | None = None) -> Store:
    clock = FakeClock()
    return await Store.open(path, durable=True, clock=clock, ids=ClockIds(clock), migrator=migrator)


async def test_migrations_make_the_tables_of_the_program(tmp_path: Path) -> None:
    path = tmp_path / "hearth.db"
    await (await opened(path)).close()
    engine = sqlite_writer(path, durable=False)
    with engine.begin() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()


async def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    store = await opened(tmp_path / "data" / "hearth.db")
    try:
        await store.remember_artifact("a", "b")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").iterdir()}
        assert "hearth.db-wal" in modes and set(modes.values()) == {0o600}
    finally:
        await store.close()


@pytest.mark.root
async def test_what_root_makes_is_the_owners(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """`hearth password reset` runs as root on a database whose platform does not."""
    path = tmp_path / "hearth.db"
    create_file(path)
    os.chown(path, 12345, 12346)
    await (await opened(path)).close()
    request.getfixturevalue("next_schema")
    await (await opened(path)).close()
    made = [entry for entry in tmp_path.rglob("*") if "scripts" not in entry.parts]
    assert len(made) == 4
    assert {(entry.stat().st_uid, entry.stat().st_gid) for entry in made} == {(12345, 12346)}


async def test_a_newer_schema_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "hearth.db"
    await (await opened(path)).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StartupFailed, match="newer Hearth") as refused:
        await opened(path)
    assert refused.value.hint is not None
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]


async def test_somebody_elses_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "hearth.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StartupFailed, match="not one of Hearth's"):
        await opened(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hearth.db"
    path.write_bytes(b"not a database at all, whatever its name says" * 100)
    with pytest.raises(StartupFailed, match="no database") as refused:
        await opened(path)
    assert "backups" in (refused.value.hint or "")


async def test_a_folder_that_can_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupFailed, match="can't be opened"):
        await opened(tmp_path / "file" / "hearth.db")


async def test_urls(tmp_path: Path) -> None:
    await (await opened(f"sqlite:///{tmp_path / 'a.db'}")).close()
    assert (tmp_path / "a.db").exists()
    for url in ("mysql://host/db", "sqlite://", "sqlite:///:memory:"):
        with pytest.raises(NotYetSupported):
            await opened(url)
    with pytest.raises(InvalidInput):
        await opened("what is this")


@pytest.fixture
def next_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One more migration as the next release might have it; returns the folder of scripts."""
    scripts = tmp_path / "scripts"
    real = Path(migrating.__file__).with_name("migrations")
    (scripts / "versions").mkdir(parents=True)
    for path in (real / "env.py", real / "script.py.mako", *(real / "versions").glob("m*.py")):
        (scripts / path.relative_to(real)).write_text(path.read_text())
    (scripts / "versions" / "m9999_next.py").write_text(
        f"from alembic import op\nrevision='9999'\ndown_revision={HEAD!r}\n"
        "def upgrade():\n    op.execute('CREATE TABLE more (x INTEGER)')\n"
        "    op.execute('INSERT INTO more SELECT count(*) FROM artifacts')\n    # here\n"
    )
    monkeypatch.setattr(migrating, "_FOLDER", scripts)
    return scripts


async def test_data_is_copied_before_it_is_migrated(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "hearth.db"
    store = await opened(path)
    await store.remember_artifact("key", "value")
    await store.close()
    request.getfixturevalue("next_schema")
    await (await opened(path)).close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT x FROM more").fetchall() == [(1,)]
    [copy] = (tmp_path / "backups").iterdir()
    assert copy.name.startswith(f"hearth-{HEAD}-") and stat.S_IMODE(copy.stat().st_mode) == 0o600
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]
        assert connection.execute("SELECT artifact FROM artifacts").fetchall() == [("value",)]


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "hearth.db"
    await (await opened(path)).close()
    scripts: Path = request.getfixturevalue("next_schema")
    broken = scripts / "versions" / "m9999_next.py"
    broken.write_text(broken.read_text().replace("# here", "op.execute('CREATE TABLE artifacts (x)')"))
    with pytest.raises(StartupFailed, match="can't be brought"):
        await opened(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'more'").fetchall() == []
    [_] = (tmp_path / "backups").iterdir()


async def test_a_copy_that_can_not_be_written_stops_the_migration(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "hearth.db"
    await (await opened(path)).close()
    request.getfixturevalue("next_schema")
    (tmp_path / "backups").write_text("in the way")
    with pytest.raises(StartupFailed, match="can't be copied"):
        await opened(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]


def test_processes_that_start_at_once_all_come_up(tmp_path: Path) -> None:
    path = tmp_path / "hearth.db"
    started = [
        subprocess.Popen([sys.executable, "-c", OPEN_AND_ADD, path, f"k{n}"], stderr=subprocess.PIPE)
        for n in range(4)
    ]
    for process in started:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM artifacts").fetchall() == [(4,)]


def test_who_waits_too_long_for_another_migration_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrating, "LOCK_WAIT", 0.0)
    path = tmp_path / "hearth.db"
    create_file(path)
    engine = sqlite_writer(path, durable=False)
    with migrating._alone(path), pytest.raises(StartupFailed, match="another process"):
        migrate(engine, path, 0)
    engine.dispose()


def test_there_is_one_line_of_migrations() -> None:
    scripts = ScriptDirectory.from_config(migrating._config())
    assert scripts.get_heads() == [HEAD]
    assert migrating.newest() == HEAD  # as the names of the scripts say it, without Alembic


async def test_a_database_that_is_current_is_opened_without_alembic(tmp_path: Path) -> None:
    """It weighs as much as a small process, in every process."""
    path = tmp_path / "hearth.db"
    create_file(path)
    for _ in range(2):
        subprocess.run([sys.executable, "-m", "hearth.bootstrap.migrate", path], timeout=60, check=True)
    opening = OPEN_AND_ADD + "\nassert not {'alembic', 'mako', 'pygments'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", opening, path, "key"], timeout=60, check=True)


async def test_another_process_may_migrate_and_if_it_fails_the_reason_is_told(tmp_path: Path) -> None:
    asked: list[Path] = []

    def migrator(path: Path) -> None:
        asked.append(path)

    path = tmp_path / "hearth.db"
    for _ in range(2):  # the second time there is nothing to do
        await (await opened(path, migrator)).close()
        assert asked == [path]
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StartupFailed):
        await opened(path, migrator)


async def test_the_root_key_must_be_the_one_the_database_began_with(tmp_path: Path) -> None:
    store = await opened(tmp_path / "hearth.db")
    try:
        await asyncio.gather(store.check_root_key("one"), store.check_root_key("one"))
        with pytest.raises(StartupFailed, match="root key"):
            await store.check_root_key("two")
        await store.check_root_key("one")
    finally:
        await store.close()
