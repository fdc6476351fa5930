"""What every store must do. The first adapter is SQLite on a file; the next one runs the same suite."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing

import pytest

from hearth.core.errors import Conflict, NotFound, RegistrationClosed, StaleLease
from hearth.core.permissions import Action, KeyScope, Role
from hearth.core.records import Failure, InvocationRow, SandboxRow
from hearth.core.version import VersionState

from .store_setup import Setting, setting

DAY = 86_400_000


@pytest.fixture
async def at() -> AsyncIterator[Setting]:
    async with setting() as made:
        yield made


def sql(at: Setting, statement: str, *values: object) -> list[tuple[object, ...]]:
    """Look at, or age, what is stored, behind the store's back."""
    with closing(sqlite3.connect(at.path, isolation_level=None)) as connection:
        return connection.execute(statement, values).fetchall()


# accounts


async def test_first_user_is_administrator_and_owns_a_namespace(at: Setting) -> None:
    first = await at.user("Jo.Doe@example.com".lower())
    second = await at.user("jo-doe@example.org")
    assert (first.administrator, second.administrator) == (True, False)
    assert (first.namespace, second.namespace) == ("jo-doe", "jo-doe-2")
    [membership] = await at.store.memberships(first.id)
    assert (membership.namespace, membership.role) == ("jo-doe", Role.OWNER)
    assert await at.store.count_users() == 2
    assert await at.store.find_user(email="jo.doe@example.com") == (first, "hash")
    assert await at.store.find_user(user_id=second.id) == (second, "hash")
    assert await at.store.find_user(email="nobody@example.com") is None


async def test_taken_names_are_conflicts_and_leave_nothing(at: Setting) -> None:
    await at.user("a@example.com", "alpha")
    with pytest.raises(Conflict, match="registered"):
        await at.user("a@example.com", "beta")
    with pytest.raises(Conflict, match="taken"):
        await at.user("b@example.com", "alpha")
    assert await at.store.count_users() == 1
    assert await at.store.find_namespace("beta") is None


async def test_of_many_first_users_one_wins(at: Setting) -> None:
    async def register(number: int) -> bool:
        try:
            await at.store.add_user(
                at.ids.new("user"), at.ids.new("namespace"), f"u{number}@x.org", "h", None, first_only=True
            )
        except RegistrationClosed:
            return False
        return True

    assert sum(await asyncio.gather(*(register(number) for number in range(20)))) == 1


async def test_users_are_listed_by_pages(at: Setting) -> None:
    users = []
    for number in range(5):
        users.append(await at.user(f"user{number}@x.org"))
        at.clock.advance(0.001)
    first = await at.store.list_users(None, 3)
    rest = await at.store.list_users(first[-1].id, 3)
    assert first + rest == users


async def test_sessions_rotate_and_overlap(at: Setting) -> None:
    user = await at.user()
    session = at.ids.new("session")
    expires = at.clock.now_ms() + DAY
    await at.store.add_session(session, user.id, b"0" * 32, expires, label="cli from 10.0.0.1")
    assert await at.store.session_live(session) == user
    assert await at.store.rotate_session(b"0" * 32, b"1" * 32, expires, 1000) == (session, user)
    assert await at.store.rotate_session(b"0" * 32, b"2" * 32, expires, 1000) == (
        session,
        user,
    )  # two at once
    at.clock.advance(5)
    assert await at.store.rotate_session(b"1" * 32, b"3" * 32, expires, 1000) is not None
    assert await at.store.session_of(b"3" * 32) == session
    assert await at.store.session_of(b"x" * 32) is None


@pytest.mark.parametrize("old", [b"0" * 32, b"2" * 32], ids=["parent", "twin"])
async def test_reuse_of_a_rotated_token_ends_the_session(at: Setting, old: bytes) -> None:
    user = await at.user()
    session, expires = at.ids.new("session"), at.clock.now_ms() + DAY
    await at.store.add_session(session, user.id, b"0" * 32, expires, label="cli from 10.0.0.1")
    for before, after in ((b"0", b"1"), (b"0", b"2"), (b"1", b"3")):
        assert await at.store.rotate_session(before * 32, after * 32, expires, 1000)
    at.clock.advance(2)
    at.topics.clear()
    assert await at.store.rotate_session(old, b"4" * 32, expires, 1000) is None
    assert await at.store.session_live(session) is None
    assert await at.store.rotate_session(b"3" * 32, b"5" * 32, expires, 1000) is None
    assert at.topics == ["credentials"]


async def test_what_ends_a_session(at: Setting) -> None:
    user = await at.user()

    async def opened(life_ms: int = DAY) -> str:
        session = at.ids.new("session")
        await at.store.add_session(
            session, user.id, session.encode(), at.clock.now_ms() + life_ms, label="cli from 10.0.0.1"
        )
        assert await at.store.session_live(session) is not None
        return session

    logged_out = await opened()
    await at.store.revoke_session(logged_out)
    expired = await opened(1000)
    at.clock.advance(1)
    new_password = await opened()
    await at.store.set_password(user.id, "other", actor=user.id)
    assert await at.store.find_user(user_id=user.id) == (user, "other")
    disabled = await opened()
    await at.store.set_disabled(user.id, True, actor=user.id)
    await at.store.set_disabled(user.id, False, actor=user.id)
    for session in (logged_out, expired, new_password, disabled):
        assert await at.store.session_live(session) is None
        assert await at.store.rotate_session(session.encode(), b"new", DAY, 1000) is None
    with pytest.raises(NotFound):
        await at.store.set_password(at.ids.new("user"), "x", actor="host")
    with pytest.raises(NotFound):
        await at.store.set_disabled(at.ids.new("user"), True, actor=user.id)


async def test_sessions_are_listed_and_ended_by_their_owner(at: Setting) -> None:
    user, other = await at.user(), await at.user("other@example.com")
    ids = []
    for number in range(3):
        ids.append(at.ids.new("session"))
        expires = at.clock.now_ms() + (DAY if number else 1000)
        await at.store.add_session(ids[-1], user.id, ids[-1].encode(), expires, label=f"cli {number}")
        at.clock.advance(0.5)
    theirs = at.ids.new("session")
    await at.store.add_session(theirs, other.id, b"t", at.clock.now_ms() + DAY, label="")
    assert [session.label for session in await at.store.list_sessions(user.id)] == ["cli 2", "cli 1"]
    await at.store.rotate_session(ids[1].encode(), b"n", at.clock.now_ms() + DAY, 1000)
    assert [session.id for session in await at.store.list_sessions(user.id)] == [ids[1], ids[2]]
    for none_of_his in (theirs, ids[0], "ses_nothing"):
        with pytest.raises(NotFound):
            await at.store.revoke_sessions(user.id, session_id=none_of_his)
    assert await at.store.revoke_sessions(user.id, session_id=ids[1]) == 1
    assert await at.store.session_live(ids[1]) is None
    last = at.ids.new("session")
    await at.store.add_session(last, user.id, b"l", at.clock.now_ms() + DAY, label="")
    assert await at.store.revoke_sessions(user.id, keep=last) == 1
    assert [session.id for session in await at.store.list_sessions(user.id)] == [last]
    await at.store.set_password(user.id, "new", actor=user.id, keep=last)
    assert await at.store.session_live(last) is not None
    await at.store.set_password(user.id, "new", actor="host")
    assert await at.store.list_sessions(user.id) == []
    assert len(await at.store.list_sessions(other.id)) == 1


async def test_who_did_what_to_accounts_is_on_record(at: Setting) -> None:
    admin = await at.user("root@example.com")
    session, key = at.ids.new("session"), at.key(admin)
    await at.store.add_session(session, admin.id, b"0", at.clock.now_ms() + DAY, label="cli from 10.0.0.1")
    bob = await at.store.add_user(
        at.ids.new("user"), at.ids.new("namespace"), "b@x.org", "h", None, first_only=False, actor=admin.id
    )
    await at.store.set_disabled(bob.id, True, actor=admin.id)
    await at.store.set_password(bob.id, "h", actor="host")
    await at.store.add_key(key, b"k")
    await at.store.revoke_key(admin.id, key.id)
    await at.store.note_refused_login(bob.id, "from 10.0.0.2")
    await at.store.note_refused_login(None, "from 10.0.0.2")
    await at.store.revoke_session(session)
    await at.store.revoke_session("ses_nothing")
    told = sql(at, "SELECT kind, subject, actor, json_extract(details, '$.did'), namespace_id FROM events")
    own = admin.namespace_id
    assert told == [
        ("member", admin.id, admin.id, "registered", own),
        ("login", admin.id, admin.id, "login", None),
        ("member", bob.id, admin.id, "added", bob.namespace_id),
        ("credential", bob.id, admin.id, "disabled", None),
        ("credential", bob.id, "host", "password", None),
        ("credential", key.id, admin.id, "created", own),
        ("credential", key.id, admin.id, "revoked", own),
        ("login", bob.id, None, "refused", None),
        ("login", "unknown", None, "refused", None),
        ("credential", session, admin.id, "logout", None),
    ]
    whole = str(sql(at, "SELECT details FROM events"))
    assert "10.0.0.1" in whole and "10.0.0.2" in whole
    at.clock.advance(10)
    assert await at.store.prune_events(at.clock.now_ms() - 20_000, 1000) == 0
    assert await at.store.prune_events(at.clock.now_ms() - 5_000, 1000) == 10


async def test_a_key_of_the_platform_has_no_namespace(at: Setting) -> None:
    user = await at.user()
    scope = KeyScope(None, None, frozenset({Action.METRICS}))
    key = at.key(user, scope=scope, namespace=None)
    await at.store.add_key(key, b"m" * 32)
    assert await at.store.find_key(b"m" * 32) == (key, user)
    assert await at.store.list_keys(user.id) == [key]


async def test_keys(at: Setting) -> None:
    user, other = await at.user(), await at.user("other@example.com")
    function, _ = await at.deploy(user)
    scope = KeyScope(user.namespace_id, function.id, frozenset({Action.DEPLOY, Action.INVOKE}))
    key = at.key(user, scope=scope, function="resize", expires_ms=at.clock.now_ms() + 1000)
    await at.store.add_key(key, b"k" * 32)
    assert await at.store.find_key(b"k" * 32) == (key, user)
    assert await at.store.find_key(b"x" * 32) is None
    assert await at.store.list_keys(user.id) == [key] and await at.store.list_keys(other.id) == []
    await at.store.touch_keys({key.id: 7, "key_gone": 8})
    await at.store.touch_keys({key.id: 5})  # an older note that came late
    [listed] = await at.store.list_keys(user.id)
    assert listed.last_used_ms == 7
    with pytest.raises(NotFound):
        await at.store.revoke_key(other.id, key.id)
    at.clock.advance(1)
    assert await at.store.find_key(b"k" * 32) is None  # expired
    await at.store.revoke_key(user.id, key.id)
    with pytest.raises(NotFound):
        await at.store.revoke_key(user.id, key.id)


async def test_a_disabled_users_keys_do_not_work(at: Setting) -> None:
    user = await at.user()
    await at.store.add_key(at.key(user), b"k" * 32)
    await at.store.set_disabled(user.id, True, actor=user.id)
    assert await at.store.find_key(b"k" * 32) is None
    await at.store.set_disabled(user.id, False, actor=user.id)
    assert await at.store.find_key(b"k" * 32) is not None


async def test_logins_slow_down(at: Setting) -> None:
    subjects = ["account:jo@x.org", "address:10.0.0.1"]
    free = 0
    while await at.store.begin_login(subjects) == 0:
        free += 1
    assert free == 5
    assert 0 < await at.store.login_delay(["account:jo@x.org"]) <= 1
    assert await at.store.login_delay(["address:10.0.0.1", "account:other@x.org"]) == 0
    for _ in range(30):
        await at.store.note_login(subjects, False)
    assert 59 < await at.store.login_delay(["account:jo@x.org"]) <= 60
    assert 60 < await at.store.login_delay(["address:10.0.0.1"]) <= 300
    await at.store.note_login(subjects, True)
    assert await at.store.login_delay(["account:jo@x.org"]) == 0
    assert sql(at, "SELECT failures FROM login_failures WHERE subject LIKE 'address:%'") == [(34,)]
    sql(at, "UPDATE login_failures SET last_ms = last_ms - 901000")
    assert await at.store.login_delay(subjects) == 0
    await at.store.note_login(["account:new@x.org"], False)
    assert sql(at, "SELECT subject FROM login_failures") == [("account:new@x.org",)]  # old ones are gone


async def test_attempts_at_once_are_all_counted(at: Setting) -> None:
    waits = await asyncio.gather(*(at.store.begin_login(["account:jo@x.org"]) for _ in range(50)))
    assert waits.count(0) == 5


# functions and their work


async def test_versions_count_up_and_never_again(at: Setting) -> None:
    user = await at.user()
    function, first = await at.deploy(user)
    again, second = await at.deploy(user)
    assert again == function and (first.number, second.number) == (1, 2)
    assert first.state is VersionState.PENDING and first.config.env == (("A", "b"),)
    assert await at.store.find_function("jo-fn", "resize") == function
    assert await at.store.find_function("jo-fn", "other") is None
    assert await at.store.find_version(function.id, 2) == second
    assert await at.store.find_version_by_id(first.id) == first
    assert [use.version for use in await at.store.version_uses(function.id, None, 1)] == [second]
    assert [use.version for use in await at.store.version_uses(function.id, 2, 5)] == [first]
    assert set(at.topics) == {"credentials", "versions"}


async def test_of_many_deploys_at_once_each_has_its_number(at: Setting) -> None:
    user = await at.user()
    made = await asyncio.gather(*(at.deploy(user) for _ in range(30)))
    assert sorted(version.number for _, version in made) == list(range(1, 31))
    assert len({function.id for function, _ in made}) == 1


async def test_a_deploy_from_build_to_traffic(at: Setting) -> None:
    user = await at.user()
    function, version = await at.deploy(user)
    assert await at.store.claim_proof("p", 30) is None
    job = await at.claimed_build()
    assert (job.version.state, job.lease.attempt, job.function) == (VersionState.BUILDING, 1, function)
    assert await at.store.claim_build("other", 30) is None
    await at.store.renew(version.id, job.lease.token, 60)
    await at.store.built(version.id, job.lease.token, "art", "python-3.11.2")
    assert await at.store.route(function.id) is None
    proof = await at.store.claim_proof("p", 30)
    assert proof is not None and proof.version.artifact == "art" and proof.lease.attempt == 1
    seen = await at.store.last_event()
    at.topics.clear()
    await at.store.publish(version.id, proof.lease.token, "handler.main")
    events = await at.store.events_after(seen, 10)
    assert ("route", function.id) in [(event.kind, event.subject) for event in events]
    assert sorted(at.topics) == ["routes", "versions"]
    route = await at.store.route(function.id)
    assert route is not None
    [(alias, [target])] = route.aliases
    assert (alias, target.version.number, target.weight, target.version.handler) == (
        "live",
        1,
        100,
        "handler.main",
    )
    assert await at.store.routes(None, 10) == [route] and await at.store.routes(function.id, 10) == []
    [summary] = await at.store.list_functions([user.namespace_id], None, 10)
    assert summary.live == summary.latest == target.version
    assert await at.store.summary(function.id) == summary
    assert await at.store.digests_in_use() == ({"s" * 64}, {"art"})


async def test_a_failed_version_keeps_its_reason_and_no_traffic(at: Setting) -> None:
    user = await at.user()
    function, first = await at.deploy(user)
    await at.publish(first)
    _, second = await at.deploy(user)
    job = await at.claimed_build()
    failure = Failure(
        "build_failed", "no such package", "look at requirements.txt", "tail", "requirements.txt", 3
    )
    await at.store.fail(second.id, job.lease.token, failure)
    summary = await at.store.summary(function.id)
    assert summary is not None and summary.live is not None and summary.latest is not None
    assert (summary.live.number, summary.latest.number) == (1, 2)
    assert (summary.latest.state, summary.latest.failure) == (VersionState.FAILED, failure)


async def test_an_older_version_that_is_ready_later_takes_no_traffic(at: Setting) -> None:
    user = await at.user()
    function, first = await at.deploy(user)
    slow = await at.claimed_build()
    _, second = await at.deploy(user)
    await at.publish(second)
    await at.store.built(first.id, slow.lease.token, "art", "python")
    proof = await at.store.claim_proof("p", 30)
    assert proof is not None
    await at.store.publish(first.id, proof.lease.token, "h")
    summary = await at.store.summary(function.id)
    assert summary is not None and summary.live is not None and summary.live.number == 2


async def test_a_lost_lease_is_claimed_again_and_its_owner_refused(at: Setting) -> None:
    user = await at.user()
    _, version = await at.deploy(user)
    dead = await at.claimed_build("dead", lease_s=-1)
    alive = await at.claimed_build("alive")
    assert alive.lease.attempt == 2 and alive.lease.token > dead.lease.token
    for late in (
        at.store.renew(version.id, dead.lease.token, 30),
        at.store.built(version.id, dead.lease.token, "x", "y"),
        at.store.fail(version.id, dead.lease.token, Failure("a", "b")),
        at.store.release(version.id, dead.lease.token),
        at.store.publish(version.id, alive.lease.token, "too early"),
    ):
        with pytest.raises(StaleLease):
            await late
    await at.store.built(version.id, alive.lease.token, "art", "python")
    with pytest.raises(StaleLease):
        await at.store.built(version.id, alive.lease.token, "art", "python")  # once is enough


async def test_the_third_worker_finds_it_failed(at: Setting) -> None:
    user = await at.user()
    function, version = await at.deploy(user)
    for _ in range(2):
        await at.claimed_build(lease_s=-1)
    assert await at.store.claim_build("third", 30) is None
    found = await at.store.find_version(function.id, version.number)
    assert found is not None and found.state is VersionState.FAILED
    assert found.failure is not None and found.failure.code == "build_failed"


async def test_a_released_claim_was_no_attempt(at: Setting) -> None:
    user = await at.user()
    _, version = await at.deploy(user)
    for _ in range(3):
        job = await at.claimed_build()
        assert job.lease.attempt == 1
        await at.store.release(version.id, job.lease.token)
    job = await at.claimed_build()
    await at.store.built(version.id, job.lease.token, "art", "python")
    proof = await at.store.claim_proof("p", 30)
    assert proof is not None
    await at.store.release(version.id, proof.lease.token)
    assert await at.store.claim_proof("p", 30) is not None


async def test_rebuilding_moves_no_traffic(at: Setting) -> None:
    user = await at.user()
    function, first = await at.deploy(user)
    await at.publish(first)
    _, second = await at.deploy(user)
    await at.publish(second)
    sql(at, "UPDATE alias_targets SET version_id = ?", first.id)  # a person has rolled back
    await at.store.rebuild(second.id)
    await at.publish(second, "again")
    route = await at.store.route(function.id)
    assert route is not None and route.aliases[0][1][0].version.number == 1


async def test_artifacts_of_equal_builds(at: Setting) -> None:
    assert await at.store.cached_artifact("key") is None
    await at.store.remember_artifact("key", "one")
    await at.store.remember_artifact("key", "two")
    assert await at.store.cached_artifact("key") == "two"


async def test_deleting_takes_all_that_hangs_on_it(at: Setting) -> None:
    user = await at.user()
    function, version = await at.deploy(user)
    await at.publish(version)
    scope = KeyScope(user.namespace_id, function.id, frozenset({Action.INVOKE}))
    await at.store.add_key(at.key(user, scope=scope, function="resize"), b"k" * 32)
    seen = await at.store.last_event()
    await at.store.delete_function(function.id)
    assert [(event.kind, event.subject) for event in await at.store.events_after(seen, 9)] == [
        ("route", function.id)
    ]
    assert await at.store.route(function.id) is None and await at.store.summary(function.id) is None
    assert (
        await at.store.find_version_by_id(version.id) is None and await at.store.find_key(b"k" * 32) is None
    )
    assert await at.store.digests_in_use() == (set(), set())
    for table in ("versions", "aliases", "alias_targets"):
        assert sql(at, f"SELECT count(*) FROM {table}") == [(0,)]
    with pytest.raises(NotFound):
        await at.store.delete_function(function.id)
    _, anew = await at.deploy(user)
    assert anew.number == 1


async def test_only_asked_namespaces_are_listed(at: Setting) -> None:
    jo, ada = await at.user(), await at.user("ada@example.com")
    await at.deploy(jo)
    await at.deploy(ada)
    [only] = await at.store.list_functions([ada.namespace_id], None, 10)
    assert only.function.namespace == ada.namespace
    assert await at.store.list_functions([], None, 10) == []


# processes


async def test_what_a_dead_node_left_is_marked_gone(at: Setting) -> None:
    await at.store.start_owner("own_1", "node-a", "shard")
    await at.store.start_owner("own_2", "node-b", "shard")
    await at.store.heartbeat("own_1")
    rows = [
        SandboxRow(f"sb_{n}", f"own_{1 + n % 2}", "bubblewrap", "slot", "waiting", None, None, 5)
        for n in range(4)
    ]
    await at.store.save_sandboxes(rows)
    await at.store.save_sandboxes([SandboxRow("sb_0", "own_1", "bubblewrap", "slot", "gone", "h", None, 5)])
    assert await at.store.clear_owners("node-a") == 1
    assert await at.store.clear_owners("node-a") == 0
    assert dict(sql(at, "SELECT id, state FROM sandboxes")) == {
        "sb_0": "gone",
        "sb_1": "waiting",
        "sb_2": "gone",
        "sb_3": "waiting",
    }
    await at.store.end_owner("own_2")
    assert sql(at, "SELECT count(*) FROM owners WHERE ended_ms IS NULL") == [(0,)]


async def test_what_a_dead_process_had_claimed_is_free_at_once(at: Setting) -> None:
    await at.deploy(await at.user())
    await at.store.start_owner("own_1", "node-a", "control")
    first = await at.store.claim_build("own_1", 60)
    assert first is not None
    assert await at.store.claim_build("own_2", 60) is None
    await at.store.end_owner("own_1")
    await at.store.end_owner("own_1")
    second = await at.store.claim_build("own_2", 60)
    assert second is not None
    assert (second.version.id, second.lease.attempt) == (first.version.id, 2)
    with pytest.raises(StaleLease):
        await at.store.built(first.version.id, first.lease.token, "0" * 64, "python-3.11")
    await at.store.end_owner("own_1")  # it has nothing of it any more
    await at.store.renew(second.version.id, second.lease.token, 60)


async def test_an_attached_sandbox_belongs_to_its_versions_namespace(at: Setting) -> None:
    user = await at.user()
    _, version = await at.deploy(user)
    await at.store.save_sandboxes(
        [
            SandboxRow("sb_1", "own_1", "bubblewrap", "slot", "attached", "h", version.id, 5),
            SandboxRow("sb_2", "own_1", "bubblewrap", "slot", "attached", "h", "ver_deleted", 5),
        ]
    )
    assert sql(at, "SELECT id, namespace_id FROM sandboxes ORDER BY id") == [
        ("sb_1", user.namespace_id),
        ("sb_2", None),
    ]


async def test_invocations_are_kept_whatever_became_of_their_function(at: Setting) -> None:
    row = InvocationRow(
        "inv_1", "ns_x", "fn_x", "ver_x", "sync", "succeeded", 200, None, True, 5, 0.5, 1.5, 2.5, "req_1"
    )
    await at.store.save_invocations([row])
    await at.store.save_invocations([row])
    assert sql(at, "SELECT id, cold, function_ms FROM invocations") == [("inv_1", 1, 2.5)]
    await at.store.save_invocations([])
