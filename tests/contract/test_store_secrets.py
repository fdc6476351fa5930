"""What a store must do with secrets: whose they are, who is told, what goes with what."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from sqlalchemy import inspect

from hearth.core import limits
from hearth.core.errors import Conflict, NotFound, TooLarge
from hearth.core.function import FunctionConfig
from hearth.core.records import Event, FunctionRow, SealedSecret, SecretRow, User, VersionRow
from hearth.store import secrets as module

from .store_setup import Setting, sql


async def put(
    at: Setting,
    user: User,
    name: str,
    value: bytes,
    function: FunctionRow | None = None,
    size: int | None = None,
) -> SecretRow:
    secret = SealedSecret(
        name, user.namespace_id, None if function is None else function.id, "k1", value, size or len(value)
    )
    return await at.store.put_secret(at.ids.new("secret"), secret, user.id)


async def deploy(
    at: Setting, user: User, names: Sequence[str], name: str = "resize"
) -> tuple[FunctionRow, VersionRow]:
    at.clock.advance(1)  # ids sort by time
    return await at.store.add_version(
        namespace_id=user.namespace_id,
        function_id=at.ids.new("function"),
        version_id=at.ids.new("version"),
        name=name,
        config=FunctionConfig(name, "python", secrets=tuple(names)),
        source="s" * 64,
        user_id=user.id,
    )


async def live(
    at: Setting, user: User, names: Sequence[str], name: str = "resize"
) -> tuple[FunctionRow, VersionRow]:
    function, version = await deploy(at, user, names, name)
    await at.publish(version)
    return function, version


async def events(at: Setting, kind: str) -> list[Event]:
    return [event for event in await at.store.events_after(0, 500) if event.kind == kind]


def values(secrets: Sequence[SealedSecret]) -> dict[str, bytes]:
    return {secret.name: secret.sealed for secret in secrets}


async def test_a_secret_is_set_and_replaced(at: Setting) -> None:
    user = await at.user()
    first = await put(at, user, "A", b"one")
    at.clock.advance(5)
    second = await put(at, user, "A", b"two!")
    assert (second.id, second.created_ms, second.size) == (first.id, first.created_ms, 4)
    assert second.updated_ms == first.updated_ms + 5000
    assert (second.name, second.function, second.namespace, second.updated_by) == (
        "A",
        None,
        user.namespace,
        user.id,
    )
    assert values(await at.store.sealed_secrets(user.namespace_id, None, ["A", "B"])) == {"A": b"two!"}
    assert sql(at, "SELECT count(*) FROM secrets") == [(1,)]


async def test_a_functions_own_wins_over_the_namespaces(at: Setting) -> None:
    user, other = await at.user(), await at.user("al@example.com")
    function, made = await at.store.ensure_function(user.namespace_id, at.ids.new("function"), "resize")
    again, made_again = await at.store.ensure_function(user.namespace_id, at.ids.new("function"), "resize")
    assert (made, made_again) == (True, False) and again == function
    await put(at, user, "A", b"shared")
    await put(at, user, "B", b"shared too")
    await put(at, user, "A", b"own", function)
    await put(at, other, "C", b"of somebody else")
    for name in "ABC":
        await put(at, other, name, b"of somebody else")
    names = ["A", "B", "C"]
    assert values(await at.store.sealed_secrets(user.namespace_id, function.id, names)) == {
        "A": b"own",
        "B": b"shared too",
    }
    assert values(await at.store.sealed_secrets(user.namespace_id, None, names))["A"] == b"shared"
    assert await at.store.sealed_secrets(user.namespace_id, function.id, []) == ()
    reached = await at.store.list_secrets(user.namespace_id, function.id, None, 10)
    assert sorted((row.name, row.function) for row in reached) == [("A", "resize"), ("B", None)]
    everything = await at.store.list_secrets(user.namespace_id, None, None, 10)
    assert sorted((row.name, row.function or "") for row in everything) == [
        ("A", ""),
        ("A", "resize"),
        ("B", ""),
    ]


async def test_the_list_comes_in_pages(at: Setting) -> None:
    user = await at.user()
    for name in "ABCDE":
        at.clock.advance(1)
        await put(at, user, name, b"x")
    seen, after = [], None
    while page := await at.store.list_secrets(user.namespace_id, None, after, 2):
        seen += [row.name for row in page]
        after = page[-1].id
    assert seen == list("ABCDE")


async def test_routes_and_proofs_bring_the_secrets_that_versions_name(at: Setting) -> None:
    user = await at.user()
    await put(at, user, "A", b"a")
    await put(at, user, "UNNAMED", b"u")
    function, version = await deploy(at, user, ["A", "MISSING"])
    build = await at.claimed_build()
    assert build.secrets == ()  # a build gets none
    await at.store.built(version.id, build.lease.token, "a" * 64, "python-3.11.2")
    proof = await at.store.claim_proof("prover", 30)
    assert proof is not None and values(proof.secrets) == {"A": b"a"}
    await at.store.publish(version.id, proof.lease.token, "handler.handler")
    route = await at.store.route(function.id)
    assert route is not None and values(route.secrets) == {"A": b"a"}
    assert [values(row.secrets) for row in await at.store.routes(None, 10)] == [{"A": b"a"}]
    plain, _ = await live(at, user, [], "plain")
    route = await at.store.route(plain.id)
    assert route is not None and route.secrets == ()


async def test_a_change_tells_the_functions_that_it_reaches_and_no_value(at: Setting) -> None:
    user = await at.user()
    await put(at, user, "KEY_A", b"a")
    one, _ = await live(at, user, ["KEY_A"], "one")
    two, _ = await live(at, user, ["KEY_A", "B"], "two")
    await live(at, user, ["KEYXA"], "three")  # `_` is no wildcard
    _, version = await at.store.add_version(  # it says KEY_A, but not as a secret
        namespace_id=user.namespace_id,
        function_id=at.ids.new("function"),
        version_id=at.ids.new("version"),
        name="four",
        config=FunctionConfig("four", "python", env=(("KEY_A", "KEY_A"),)),
        source="s" * 64,
        user_id=user.id,
    )
    await at.publish(version)
    seen = await at.store.last_event()
    at.topics.clear()
    await put(at, user, "KEY_A", b"n3w-value")
    told = await at.store.events_after(seen, 50)
    assert [(event.kind, event.subject) for event in told] == [
        ("secret", user.namespace_id),
        ("route", one.id),
        ("route", two.id),
    ]
    assert told[0].details == {"name": "KEY_A", "did": "set"}
    assert sql(at, "SELECT actor FROM events WHERE seq = ?", told[0].seq) == [(user.id,)]
    assert "routes" in at.topics and "n3w" not in repr(told)
    seen = await at.store.last_event()
    await put(at, user, "KEY_A", b"own", two)
    assert [event.subject for event in await at.store.events_after(seen, 50)] == [two.id, two.id]


async def test_a_secret_that_is_needed_is_not_deleted(at: Setting) -> None:
    user = await at.user()
    await put(at, user, "A", b"shared")
    function, _ = await live(at, user, ["A"])
    seen = await at.store.last_event()
    with pytest.raises(Conflict, match="resize") as refused:
        await at.store.delete_secret(user.namespace_id, None, "A", user.id, force=False)
    assert refused.value.details == {"functions": ["resize"]} and "--force" in str(refused.value.hint)
    assert len(await at.store.list_secrets(user.namespace_id, None, None, 10)) == 1  # nothing of it happened
    assert await at.store.last_event() == seen
    await put(at, user, "A", b"own", function)
    assert await at.store.delete_secret(user.namespace_id, None, "A", user.id, force=False) == []
    with pytest.raises(Conflict):
        await at.store.delete_secret(user.namespace_id, function.id, "A", user.id, force=False)
    assert await at.store.delete_secret(user.namespace_id, function.id, "A", user.id, force=True) == [
        "resize"
    ]
    assert (await events(at, "route"))[-1].subject == function.id
    with pytest.raises(NotFound):
        await at.store.delete_secret(user.namespace_id, function.id, "A", user.id, force=True)


async def test_old_and_failed_versions_hold_nothing_back(at: Setting) -> None:
    user = await at.user()
    await put(at, user, "A", b"a")
    await live(at, user, ["A"])
    await live(at, user, [])
    assert await at.store.delete_secret(user.namespace_id, None, "A", user.id, force=False) == []
    await put(at, user, "A", b"a")
    await deploy(at, user, ["A"])  # this one is about to take traffic
    with pytest.raises(Conflict):
        await at.store.delete_secret(user.namespace_id, None, "A", user.id, force=False)


async def test_they_go_with_their_function_and_their_namespace(at: Setting) -> None:
    user = await at.user()
    function, _ = await live(at, user, [])
    await put(at, user, "A", b"own", function)
    await put(at, user, "A", b"shared")
    await at.store.delete_function(function.id)
    assert sql(at, "SELECT sealed FROM secrets") == [(b"shared",)]
    with pytest.raises(Conflict):  # the function was deleted meanwhile
        await put(at, user, "A", b"own", function)
    again, _ = await live(at, user, ["A"])  # the next one of that name gets none of its secrets
    assert values(await at.store.sealed_secrets(user.namespace_id, again.id, ["A"])) == {"A": b"shared"}
    keys = inspect(at.store._db._readers).get_foreign_keys("secrets")
    assert [key["options"] for key in keys if key["referred_table"] == "namespaces"] == [
        {"ondelete": "CASCADE"}
    ]


async def test_what_is_too_much(at: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    user = await at.user()
    most = limits.SECRETS_BYTES_MAX
    await put(at, user, "A", b"a", size=most - 10)
    await put(at, user, "B", b"b", size=10)
    await live(at, user, ["A", "B"])
    with pytest.raises(TooLarge, match="resize"):
        await put(at, user, "B", b"new", size=11)
    assert values(await at.store.sealed_secrets(user.namespace_id, None, ["B"])) == {"B": b"b"}
    monkeypatch.setattr(module, "SECRETS_KEPT_MAX", 2)
    with pytest.raises(TooLarge, match="namespace has at most 2"):
        await put(at, user, "C", b"c")
    await put(at, user, "B", b"b2", size=10)  # replacing takes no room


def test_a_sealed_secret_is_plain_data() -> None:
    secret = SealedSecret("A", "ns", None, "k", b"x")
    assert dataclasses.replace(secret) == secret and hash(secret)
