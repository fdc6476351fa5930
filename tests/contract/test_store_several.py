"""What holds when several processes write at once: each store here has a connection and a writer of its own, as a process has."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy import text

from hearth.core import limits
from hearth.core.errors import Conflict, HearthError, NotFound, RegistrationClosed, StartupFailed, TooLarge
from hearth.core.records import SealedSecret
from hearth.core.traffic import Share
from hearth.store import secrets as module
from hearth.store.writer import Tx

from .store_setup import Setting, setting, sql

# Claims builds until there are none, and says which it got.
CLAIM_ALL = """
import asyncio, os, sys
from pathlib import Path
from hearth.bootstrap.child import RandomIds, SystemClock
from hearth.store.store import Store
async def main():
    where = sys.argv[1] if "://" in sys.argv[1] else Path(sys.argv[1])
    store = await Store.open(where, durable=True, clock=SystemClock(), ids=RandomIds())
    sys.stdin.readline()
    while (job := await store.claim_build(sys.argv[2], 60)) is not None:
        print(job.version.id, job.lease.token)
    await store.close()
asyncio.run(main())
"""
STORES = 3


@pytest.fixture
async def several(base: Path | str | None) -> AsyncIterator[list[Setting]]:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(setting(base))
        others = [await stack.enter_async_context(setting(first.where)) for _ in range(STORES - 1)]
        yield [first, *others]


def commit_slowly(at: Setting, table: str, most: float = 0.04) -> None:
    """From now on a commit takes its time, each another one, when rows of this table were written. SQLite's writers wait for each other."""
    if isinstance(at.where, str):
        sql(
            at,
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN PERFORM pg_sleep({most} * random()); RETURN NULL; END $$",
        )
        sql(
            at,
            f"CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT OR UPDATE ON {table} DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION dawdle()",
        )


async def test_processes_that_claim_at_once_never_get_the_same(at: Setting) -> None:
    user = await at.user()
    versions = {(await at.deploy(user))[1].id for _ in range(40)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM_ALL, str(at.where), f"worker-{n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for n in range(STORES)
    ]
    claimed = []
    for worker in workers:  # all are released before any is read
        assert worker.stdin is not None
        worker.stdin.write(b"go\n")
        worker.stdin.flush()
    for worker in workers:
        out, _ = await asyncio.to_thread(worker.communicate, timeout=60)
        assert worker.returncode == 0
        claimed += [line.split()[0] for line in out.decode().splitlines()]
    assert len(claimed) == 40 and set(claimed) == versions


async def test_of_many_first_users_one_wins_and_names_are_given_once(several: list[Setting]) -> None:
    async def register(at: Setting, number: int, *, first_only: bool) -> object:
        email = f"jo{'.' * number}doe@example.com" if not first_only else f"u{number}@x.org"
        user, namespace = at.ids.new("user"), at.ids.new("namespace")
        try:
            return await at.store.add_user(user, namespace, email, "h", None, first_only=first_only)
        except RegistrationClosed:
            return None

    tries = [register(at, 10 * n + m, first_only=True) for n, at in enumerate(several) for m in range(5)]
    assert sum(made is not None for made in await asyncio.gather(*tries)) == 1
    more = [register(at, 1, first_only=False) for at in several]
    made = await asyncio.gather(*more, return_exceptions=True)
    assert sum(isinstance(one, Conflict) for one in made) == STORES - 1  # the same e-mail
    assert sql(several[0], "SELECT count(*) FROM users WHERE administrator") == [(1,)]
    names = await asyncio.gather(
        *(
            at.store.add_user(at.ids.new("user"), at.ids.new("namespace"), f"ann@{n}.org", "h", None, first_only=False)
            for n, at in enumerate(several)
        )
    )  # fmt: skip
    assert sorted(user.namespace for user in names) == ["ann", "ann-2", "ann-3"]


async def test_deploys_of_one_function_each_have_their_number(several: list[Setting]) -> None:
    user = await several[0].user()
    made = await asyncio.gather(*(at.deploy(user) for at in several for _ in range(10)))
    assert sorted(version.number for _, version in made) == list(range(1, 10 * STORES + 1))
    assert len({function.id for function, _ in made}) == 1


async def test_deploys_and_deletes_leave_whole_functions(several: list[Setting]) -> None:
    user = await several[0].user()

    async def deploy(at: Setting) -> None:
        for _ in range(8):
            await at.deploy(user)

    async def delete(at: Setting) -> None:
        for _ in range(8):
            function = await at.store.find_function(user.namespace, "resize")
            if function is not None:
                try:
                    await at.store.delete_function(function.id)
                except NotFound:
                    pass

    await asyncio.gather(deploy(several[0]), deploy(several[1]), delete(several[2]))
    rows = sql(several[0], "SELECT count(*), max(number) FROM versions")
    numbers = sql(several[0], "SELECT max(last_number) FROM functions")
    assert rows[0][1] == numbers[0][0]


async def test_a_function_is_made_once_for_its_secrets(several: list[Setting]) -> None:
    user = await several[0].user()
    made = await asyncio.gather(
        *(at.store.ensure_function(user.namespace_id, at.ids.new("function"), "resize") for at in several)
    )
    assert len({function.id for function, _ in made}) == 1
    assert sorted(new for _, new in made) == [False, False, True]


async def test_what_is_remembered_twice_is_no_conflict(several: list[Setting]) -> None:
    await asyncio.gather(*(at.store.remember_artifact("key", "one") for at in several for _ in range(5)))
    assert sql(several[0], "SELECT build_key, artifact FROM artifacts") == [("key", "one")]


async def test_a_lease_has_one_holder(several: list[Setting]) -> None:
    commit_slowly(several[0], "leases")
    held = await asyncio.gather(*(at.store.hold("retention", f"own_{n}", 60) for n, at in enumerate(several)))
    assert sorted(held) == [False, False, True]


async def test_a_database_has_one_root_key(several: list[Setting]) -> None:
    checks = (at.store.check_root_key(f"key-{n}") for n, at in enumerate(several))
    results = await asyncio.gather(*checks, return_exceptions=True)
    assert sum(result is None for result in results) == 1
    assert sum(isinstance(result, StartupFailed) for result in results) == STORES - 1


async def test_logins_are_counted_before_the_next_is_judged(several: list[Setting]) -> None:
    commit_slowly(several[0], "login_failures")
    waits = await asyncio.gather(
        *(at.store.begin_login(["account:a@x.org"]) for at in several for _ in range(10))
    )
    assert waits.count(0) == limits.LOGIN_FREE["account"]
    assert sql(several[0], "SELECT failures FROM login_failures") == [(waits.count(0),)]


async def test_a_refresh_token_is_rotated_one_after_another(several: list[Setting]) -> None:
    first = several[0]
    user = await first.user()
    session, until = first.ids.new("session"), first.clock.now_ms() + 1_000_000
    await first.store.add_session(session, user.id, b"old", until, label="x")
    done = await asyncio.gather(
        *(at.store.rotate_session(b"old", f"new-{n}".encode(), until, 10_000) for n, at in enumerate(several))
    )
    assert all(one is not None and one[0] == session for one in done)
    assert sql(first, "SELECT count(*) FROM refresh_tokens WHERE rotated_ms IS NULL") in (
        [(3,)],
        [(2,)],
        [(1,)],
    )


async def test_no_more_secrets_than_there_is_room_for(
    several: list[Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECRETS_KEPT_MAX", 4)
    user = await several[0].user()

    async def put(at: Setting, name: str) -> bool:
        secret = SealedSecret(name, user.namespace_id, None, "k", b"v", 1, True)
        try:
            await at.store.put_secret(at.ids.new("secret"), secret, user.id)
        except TooLarge:
            return False
        return True

    done = await asyncio.gather(*(put(at, f"S{n}_{m}") for n, at in enumerate(several) for m in range(3)))
    assert sum(done) == 4 and sql(several[0], "SELECT count(*) FROM secrets") == [(4,)]
    same = await asyncio.gather(*(put(at, sql(at, "SELECT min(name) FROM secrets")[0][0]) for at in several))
    assert all(same)


async def test_an_alias_is_never_left_without_a_version(several: list[Setting]) -> None:
    """One process clears a version away while another sends traffic to it."""
    first, second = several[:2]
    user = await first.user()
    for _ in range(3):
        function, version = await first.deploy(user)
        await first.publish(version)
    old = await first.store.find_version(function.id, 1)
    assert old is not None
    commit_slowly(first, "alias_targets", 1.0)
    share = [Share(1, 100)]
    pointing = asyncio.create_task(
        first.store.point_alias(function.id, first.ids.new("alias"), "beta", share, user.id)
    )
    while isinstance(first.where, str) and not pointing.done():
        if sql(first, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"):
            break
        await asyncio.sleep(0)
    removed = await second.store.remove_versions(function.id, [old.id], 1)
    [alias] = [alias for alias in await first.store.aliases(function.id) if alias.name == "beta"]
    assert (removed, alias.shares) == ([], tuple(share))
    assert (await pointing).shares == tuple(share)


async def test_of_two_versions_that_are_ready_at_once_the_later_takes_the_traffic(
    several: list[Setting],
) -> None:
    first = several[0]
    user = await first.user()
    await first.publish((await first.deploy(user))[1])
    proofs = []
    for _ in range(STORES):
        function, version = await first.deploy(user)
        job = await first.claimed_build()
        await first.store.built(version.id, job.lease.token, "art", "python")
        proof = await first.store.claim_proof("p", 30)
        assert proof is not None
        proofs.append(proof)
    commit_slowly(first, "versions")
    await asyncio.gather(
        *(
            at.store.publish(proof.version.id, proof.lease.token, "h")
            for at, proof in zip(several, proofs, strict=True)
        )
    )
    route = await first.store.route(function.id)
    assert route is not None and [target.version.number for target in route.aliases[0][1]] == [STORES + 1]


async def test_who_follows_the_outbox_misses_nothing(several: list[Setting]) -> None:
    """A number that is seen means that all below it were seen, whoever commits first."""
    commit_slowly(several[0], "events")
    writing = asyncio.Event()
    seen: list[int] = []

    async def follow() -> None:
        while True:
            last = writing.is_set()
            events = await several[0].store.events_after(seen[-1] if seen else 0, 1000)
            seen.extend(event.seq for event in events)
            if last:
                return

    async def write(at: Setting) -> None:
        for _ in range(25):
            await at.store.note_refused_login(None, "x")

    following = asyncio.create_task(follow())
    await asyncio.gather(*(write(at) for at in several))
    writing.set()
    await following
    assert seen == [seq for (seq,) in sql(several[0], "SELECT seq FROM events ORDER BY seq")]
    assert len(seen) == 25 * STORES


async def test_two_that_stand_in_each_others_way_both_get_through(several: list[Setting]) -> None:
    first, second = several[:2]
    for name in ("a", "b"):
        await first.store.remember_artifact(name, "0")
    met = threading.Barrier(2)

    def add(names: tuple[str, str]) -> Callable[[Tx], None]:
        tries = []

        def write(tx: Tx) -> None:
            tries.append(1)
            for name in names:
                tx.connection.execute(
                    text("UPDATE artifacts SET artifact = artifact || 'x' WHERE build_key = :name"),
                    {"name": name},
                )
                if len(tries) == 1 and tx.connection.dialect.name == "postgresql" and name == names[0]:
                    met.wait(20)

        return write

    await asyncio.gather(first.store._db.write(add(("a", "b"))), second.store._db.write(add(("b", "a"))))
    assert sql(first, "SELECT artifact FROM artifacts ORDER BY build_key") == [("0xx",), ("0xx",)]


async def test_a_storm_of_everything_ends_in_whole_rows(several: list[Setting]) -> None:
    """Whatever these refuse is one of the tree's words, never a fault of the program."""
    user = await several[0].user()

    async def work(at: Setting, name: str) -> None:
        for number in range(6):
            try:
                function, version = await at.deploy(user, name)
                job = await at.store.claim_build(f"own_{name}", 30)
                if job is not None:
                    await at.store.built(job.version.id, job.lease.token, "art", "python")
                proof = await at.store.claim_proof(f"own_{name}", 30)
                if proof is not None:
                    await at.store.publish(proof.version.id, proof.lease.token, "h")
                await at.store.end_owner("own_resize")
                await at.store.touch_keys({f"key_{n}": number for n in range(5)})
                await at.store.remove_versions(function.id, [version.id], 1)
                if number == 4:
                    await at.store.delete_function(function.id)
            except HearthError:
                continue

    await asyncio.gather(*(work(at, name) for at in several for name in ("resize", "other")))
    orphans = "SELECT count(*) FROM versions WHERE function_id NOT IN (SELECT id FROM functions)"
    assert sql(several[0], orphans) == [(0,)]
    lost = "SELECT name FROM aliases WHERE id NOT IN (SELECT alias_id FROM alias_targets)"
    assert sql(several[0], lost) == []
