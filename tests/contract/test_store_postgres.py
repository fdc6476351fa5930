"""What PostgreSQL adds: a server that is slow, restarted, frozen or somebody else's; limits; what nobody may see."""

from __future__ import annotations

import asyncio
import signal
import traceback
from collections.abc import AsyncIterator, Awaitable, Iterator

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from hearth.core.errors import HearthError, InvalidInput, StoreUnavailable
from hearth.store import database
from hearth.store import postgres as adapter
from hearth.store.database import READERS
from hearth.store.postgres import shown
from tests.postgres import PASSWORD, ROLE, Postgres, server

from .store_setup import Setting, setting, sql


@pytest.fixture
async def at(migrated: str) -> AsyncIterator[Setting]:
    async with setting(migrated) as made:
        yield made


@pytest.fixture(scope="module")
def hurt() -> Iterator[Postgres]:
    """A server that may be harmed; whole again after each test."""
    with server() as made:
        yield made


@pytest.fixture
async def on_hurt(hurt: Postgres, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Setting]:
    """A store on it that is less patient than a real one."""
    for name, seconds in (("SILENT", 1.0), ("CONNECT", 2), ("WAIT", 4.0)):
        monkeypatch.setattr(adapter, name, seconds)
    if hurt.process is None:
        hurt.start()
    name = hurt.create()
    try:
        async with setting(hurt.url(name)) as made:
            yield made
    finally:
        if hurt.process is None:
            hurt.start()
        hurt.freeze(signal.SIGCONT)
        hurt.drop(name)


async def refused(work: Awaitable[object]) -> StoreUnavailable:
    with pytest.raises(StoreUnavailable) as caught:
        await work
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    return caught.value


# The transactions


async def test_readers_can_not_write(at: Setting) -> None:
    error = await refused(at.store._db.read(lambda c: c.execute(text("INSERT INTO meta VALUES ('a', 'b')"))))
    assert "can't be written" in error.message


async def test_a_reader_sees_one_state_of_everything(at: Setting) -> None:
    loop = asyncio.get_running_loop()

    def twice(connection: object) -> list[int]:
        count = text("SELECT count(*) FROM artifacts")
        first = connection.execute(count).scalar_one()  # type: ignore[attr-defined]
        asyncio.run_coroutine_threadsafe(at.store.remember_artifact("a", "b"), loop).result(20)
        return [first, connection.execute(count).scalar_one()]  # type: ignore[attr-defined]

    assert await at.store._db.read(twice) == [0, 0]


@pytest.mark.parametrize(("durable", "level"), [(True, "on"), (False, "off")])
async def test_only_a_durable_store_waits_for_the_disk(migrated: str, durable: bool, level: str) -> None:
    async with setting(migrated, durable=durable) as at:
        show = text("SHOW synchronous_commit")
        assert await at.store._db.write(lambda tx: tx.connection.execute(show).scalar_one()) == level


async def test_a_claim_does_not_wait_for_what_another_one_holds(at: Setting) -> None:
    user = await at.user()
    first, second = [(await at.deploy(user))[1] for _ in range(2)]
    assert isinstance(at.where, str)
    with psycopg.connect(at.where) as other:
        other.execute("SELECT 1 FROM versions WHERE id = %s FOR UPDATE", [first.id])
        job = await at.store.claim_build("own_1", 30)
        assert job is not None and job.version.id == second.id
        assert await at.store.claim_build("own_1", 30) is None
    job = await at.store.claim_build("own_1", 30)
    assert job is not None and job.version.id == first.id


async def test_who_waits_too_long_for_a_lock_is_told_and_holds_up_nobody(migrated: str) -> None:
    async with setting(f"{migrated}?options=-c%20lock_timeout%3D100ms") as at:
        await at.store.remember_artifact("a", "0")
        with psycopg.connect(migrated) as other:
            other.execute("UPDATE artifacts SET artifact = '1'")
            slow = asyncio.create_task(at.store.remember_artifact("a", "2"))
            quick = asyncio.create_task(at.store.remember_artifact("b", "0"))
            error = await refused(slow)
            assert "busy" in error.message and error.retry_after == 1.0
            await quick
        await at.store.remember_artifact("a", "3")
        assert await at.store.cached_artifact("a") == "3"


async def test_what_a_database_does_not_take_is_the_askers_fault(at: Setting) -> None:
    for work in (at.store.find_namespace("a\0b"), at.store.remember_artifact("k" * 81, "x")):
        with pytest.raises(InvalidInput, match="does not take"):
            await work
    await at.store.remember_artifact("k", "x")


# A slow server


async def test_a_slow_statement_is_given_up(migrated: str) -> None:
    async with setting(f"{migrated}?options=-c%20statement_timeout%3D100ms") as at:
        sleep = text("SELECT pg_sleep(60)")
        for work in (
            at.store._db.read(lambda c: c.execute(sleep)),
            at.store._db.write(lambda tx: tx.connection.execute(sleep)),
        ):
            error = await refused(work)
            assert "too slow" in error.message and error.retry_after == 2.0
        assert await at.store.count_users() == 0


async def test_a_store_has_few_connections_and_more_work_waits_its_turn(at: Setting) -> None:
    nap = text("SELECT pg_sleep(0.01)")
    work = [at.store._db.read(lambda c: c.execute(nap).all()) for _ in range(60)]
    done = asyncio.gather(*work, *(at.store.remember_artifact(f"k{n}", "x") for n in range(60)))
    most = 0
    while not done.done():
        counted = sql(
            at, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'hearth'"
        )  # fmt: skip
        most = max(most, counted[0][0])
        await asyncio.sleep(0)
    await done
    assert READERS <= most <= READERS + 1


async def test_more_reads_than_there_is_room_for_are_refused_at_once(
    at: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "READS_MAX", 6)
    nap = text("SELECT pg_sleep(0.05)")
    work = [at.store._db.read(lambda c: c.execute(nap).all()) for _ in range(10)]
    results = await asyncio.gather(*work, return_exceptions=True)
    assert [isinstance(result, StoreUnavailable) for result in results] == [False] * 6 + [True] * 4


# A server that goes and comes


async def test_a_connection_that_was_ended_is_made_anew_without_an_error(at: Setting) -> None:
    await asyncio.gather(*(at.store.count_users() for _ in range(20)), at.store.remember_artifact("a", "b"))
    assert isinstance(at.where, str)
    with psycopg.connect(at.where, autocommit=True) as other:
        ended = other.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert len(ended.fetchall()) >= 2
    await asyncio.gather(*(at.store.count_users() for _ in range(20)), at.store.remember_artifact("c", "d"))
    assert sql(at, "SELECT count(*) FROM artifacts") == [(2,)]


async def test_a_connection_that_is_lost_in_the_commit_is_said_and_not_repeated(at: Setting) -> None:
    """Nobody knows then whether it was done."""
    sql(
        at,
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$",
    )
    sql(
        at,
        "CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON artifacts DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION dawdle()",
    )
    doing = asyncio.create_task(at.store.remember_artifact("a", "b"))
    ending = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    while not sql(at, ending):
        await asyncio.sleep(0)
    assert "may still have been done" in ((await refused(doing)).hint or "")
    assert sql(at, "SELECT count(*) FROM artifacts") == [(0,)]
    assert sql(at, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == [(0,)]
    sql(at, "DROP TRIGGER dawdle ON artifacts")
    await at.store.remember_artifact("a", "b")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
async def test_a_server_that_is_down_is_said_and_what_was_lost_mends_itself(
    on_hurt: Setting, hurt: Postgres, how: int
) -> None:
    store = on_hurt.store
    await store.remember_artifact("a", "b")
    await store.count_users()
    hurt.stop(how)
    for work in (store.count_users(), store.remember_artifact("c", "d")):
        error = await refused(work)
        assert "can't be reached" in error.message and error.retry_after is not None
    hurt.start()
    assert await store.cached_artifact("a") == "b"
    await store.remember_artifact("c", "d")
    assert await store.cached_artifact("c") == "d"


async def test_a_restart_between_two_calls_is_noticed_by_nobody(on_hurt: Setting, hurt: Postgres) -> None:
    await on_hurt.store.remember_artifact("a", "b")
    await on_hurt.store.count_users()
    hurt.stop()
    hurt.start()
    await on_hurt.store.remember_artifact("c", "d")
    assert await on_hurt.store.cached_artifact("c") == "d"


async def test_a_frozen_server_keeps_nobody_waiting_for_ever(on_hurt: Setting, hurt: Postgres) -> None:
    """Its machine still acknowledges every packet: neither its own limits nor TCP's end a wait."""
    store = on_hurt.store
    await asyncio.gather(*(store.count_users() for _ in range(20)), store.remember_artifact("a", "b"))
    hurt.freeze()
    asked = [store.count_users() for _ in range(100)]
    asked += [store.remember_artifact(f"k{n}", "x") for n in range(100)]  # type: ignore[misc]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(result, StoreUnavailable) for result in results)
    assert any("too slow" in str(result) for result in results)
    hurt.freeze(signal.SIGCONT)
    await store.remember_artifact("c", "d")
    assert await store.cached_artifact("c") == "d"


async def test_a_connection_to_a_frozen_server_is_given_up(on_hurt: Setting, hurt: Postgres) -> None:
    """Also where callers would wait longer: its thread and its place in the pool are free again."""
    base = on_hurt.store._db
    await on_hurt.store.count_users()
    await on_hurt.store.remember_artifact("a", "b")
    base._wait = base._writer._wait = 40.0
    hurt.freeze()
    try:
        errors = await asyncio.gather(
            refused(on_hurt.store.count_users()), refused(on_hurt.store.remember_artifact("c", "d"))
        )
    finally:  # before the store is closed, which waits for its threads
        hurt.freeze(signal.SIGCONT)
    for error in errors:
        assert isinstance(error.__cause__, DBAPIError) and isinstance(error.__cause__.orig, adapter.GaveUp)


async def test_what_was_given_up_in_the_queue_is_not_done_later(on_hurt: Setting, hurt: Postgres) -> None:
    store = on_hurt.store
    await store.remember_artifact("a", "b")
    store._db._writer._wait = (
        0.3  # less than the connection's own patience: the first is at work then, the rest wait
    )
    hurt.freeze()
    first = asyncio.create_task(store.remember_artifact("k0", "x"))
    while not store._db._writer._queue.empty() or first.done():
        await asyncio.sleep(0)
    await asyncio.gather(
        *(refused(work) for work in (first, *(store.remember_artifact(f"k{n}", "x") for n in range(1, 20))))
    )
    hurt.freeze(signal.SIGCONT)
    store._db._writer._wait = 20.0
    await store.remember_artifact("last", "x")
    left = {row[0] for row in sql(on_hurt, "SELECT build_key FROM artifacts")}
    assert left <= {"a", "last", "k0"}


async def test_a_standby_is_left_for_its_primary(on_hurt: Setting, hurt: Postgres) -> None:
    """After a fail-over the old server may come back as one that only reads."""
    assert isinstance(on_hurt.where, str)
    name = on_hurt.where.rpartition("/")[2]
    await on_hurt.store.remember_artifact("a", "b")
    hurt.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    ending = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'hearth'"
    hurt.run(ending)
    error = await refused(on_hurt.store.remember_artifact("c", "d"))
    assert "can't be written" in error.message and "target_session_attrs" in (error.hint or "")
    hurt.run(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await on_hurt.store.remember_artifact(
        "c", "d"
    )  # its connection, which still only reads, is not used again


# Who may come in


async def opened(url: str) -> str:
    """What is said of a database that can't be opened, with all that led to it."""
    with pytest.raises(HearthError) as caught:
        async with setting(url):
            pass
    return "".join(traceback.format_exception(caught.value)) + str(caught.value.hint)


async def test_what_is_wrong_is_said_without_the_password(postgres: Postgres, migrated: str) -> None:
    name = migrated.rpartition("/")[2]
    wrong = {
        postgres.url(name, password="another-secret"): "refuses the user or its password",
        postgres.url(name, role="nobody-here", password="another-secret"): "refuses the user",
        postgres.url("nothing", password=PASSWORD): "no such database",
        f"postgresql://{ROLE}:another-secret@127.0.0.1:1/x": "can't be reached (Connection refused)",
        f"postgresql://{ROLE}:another-secret@and@127.0.0.1/x": "can't be reached",
        f"postgresql://{ROLE}:/another-secret@127.0.0.1/x": "",
        f"postgresql://{ROLE}:another-secret@host.invalid/x": "can't be reached",
        f"postgresql://{ROLE}:another-secret@[::1/x": "not understood",
        f"postgresql://{ROLE}:another-secret@127.0.0.1/x?sslmode=what": "",
        f"postgresql://{ROLE}:another-secret@127.0.0.1/x?no_such=1": "not understood",
    }
    for url, said in wrong.items():
        told = await opened(url)
        assert said in told and "another-secret" not in told and PASSWORD not in told, url


async def test_a_user_without_rights_is_told_what_to_do(postgres: Postgres) -> None:
    name = postgres.create()
    postgres.run(f'ALTER DATABASE "{name}" OWNER TO postgres')
    postgres.run("REVOKE CREATE ON SCHEMA public FROM PUBLIC", name)
    try:
        told = await opened(postgres.url(name))
        assert "may not do this" in told and "OWNER TO hearth" in told
    finally:
        postgres.drop(name)


async def test_a_user_that_may_not_change_the_schema_opens_what_is_migrated(
    postgres: Postgres, migrated: str
) -> None:
    name = migrated.rpartition("/")[2]
    role = f"only_{name}"
    postgres.run(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    for statement in (
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}",
    ):
        postgres.run(statement, name)
    try:
        async with setting(postgres.url(name, role=role)) as at:
            await at.deploy(await at.user())
            assert await at.store.last_event() > 0
    finally:
        postgres.run(f"DROP OWNED BY {role}", name)
        postgres.run(f"DROP ROLE {role}")


def test_a_url_is_shown_without_what_is_secret() -> None:
    for url, said in {
        "postgresql://u:p@h/d": "postgresql://u@h/d",
        "postgres://u:p%40@h:5433/d?sslmode=require&sslpassword=q": "postgresql://u@h:5433/d",
        "postgresql://u@a:1,b:2/d?target_session_attrs=read-write": "postgresql://u@a:1,b:2/d",
        "postgresql://u@[::1]:5/d": "postgresql://u@[::1]:5/d",
        "postgresql:///d?host=/run/postgresql": "postgresql:///run/postgresql/d",
        "postgresql://u:p@h": "postgresql://u@h/u",
        "postgresql://u:pass@word@h/d": "postgresql://…",
        "postgresql://u:/word@h/d": "postgresql://…",
    }.items():
        assert shown(url) == said
    with pytest.raises(InvalidInput):
        shown("postgresql://u:p@h:what/d?x")
