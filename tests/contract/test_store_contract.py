"""What every store must do. The first adapter is SQLite on a file; the next one runs the same suite."""

from __future__ import annotations

import asyncio

import pytest

from hearth.core.errors import NotFound, StaleLease
from hearth.core.permissions import Action, KeyScope
from hearth.core.records import Failure, InvocationRow, SandboxRow
from hearth.core.version import VersionState

from .store_setup import Setting, sql

DAY = 86_400_000


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
