"""What every store must do about accounts: users, sessions, keys, log-ins, and the record of them."""

from __future__ import annotations

import asyncio
import json

import pytest

from hearth.core.errors import Conflict, NotFound, RegistrationClosed
from hearth.core.permissions import Action, KeyScope, Role

from .store_setup import Setting, sql

DAY = 86_400_000


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
    rows = sql(at, "SELECT kind, subject, actor, details, namespace_id FROM events ORDER BY seq")
    read = [json.loads(row[3]) if isinstance(row[3], str) else row[3] for row in rows]
    told = [(*row[:3], details["did"], row[4]) for row, details in zip(rows, read, strict=True)]
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
