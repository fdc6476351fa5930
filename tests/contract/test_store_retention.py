"""Where traffic goes and what may go: what every store must do."""

from __future__ import annotations

import asyncio

import pytest

from hearth.core.errors import Conflict, NotFound
from hearth.core.limits import ALIASES_MAX
from hearth.core.records import Failure, FunctionRow, InvocationRow, SandboxRow, User, VersionRow
from hearth.core.traffic import Share
from hearth.store import retention as rows

from .store_setup import Setting, sql


async def deployed(at: Setting, user: User, count: int) -> tuple[FunctionRow, list[VersionRow]]:
    """A function with that many versions, each of its own source and artifact, all of them live in turn."""
    versions = []
    for number in range(1, count + 1):
        function, version = await at.deploy(user, source=f"{number:064}")
        await at.publish(version, f"{number + 1000:064}")
        versions.append(version)
    return function, versions


async def live(at: Setting, function: FunctionRow) -> dict[int, int]:
    aliases = {row.name: row for row in await at.store.aliases(function.id)}
    return {share.version: share.weight for share in aliases["live"].shares}


async def point(at: Setting, function: FunctionRow, name: str, *shares: Share) -> None:
    await at.store.point_alias(function.id, at.ids.new("alias"), name, shares, "usr_1")


def sandbox(version: VersionRow, state: str = "attached", owner: str = "own_1") -> SandboxRow:
    return SandboxRow(f"sb_{version.number}", owner, "bubblewrap", "slot", state, "h", version.id, 5)


# aliases


async def test_an_alias_is_moved_in_one_step(at: Setting) -> None:
    user = await at.user()
    function, _ = await deployed(at, user, 3)
    assert await live(at, function) == {3: 100}
    seen = await at.store.last_event()
    await point(at, function, "live", Share(1, 90), Share(3, 10))
    await point(at, function, "beta", Share(2, 100))
    assert await live(at, function) == {1: 90, 3: 10}
    assert [row.name for row in await at.store.aliases(function.id)] == ["beta", "live"]
    events = await at.store.events_after(seen, 9)
    assert [(event.kind, event.subject) for event in events] == [("route", function.id)] * 2
    route = await at.store.route(function.id)
    assert route is not None
    assert {name: [(t.version.number, t.weight) for t in targets] for name, targets in route.aliases} == {
        "beta": [(2, 100)],
        "live": [(1, 90), (3, 10)],
    }
    await at.store.remove_alias(function.id, "beta", user.id)
    with pytest.raises(NotFound):
        await at.store.remove_alias(function.id, "beta", user.id)


async def test_traffic_goes_only_to_what_is_ready(at: Setting) -> None:
    user = await at.user()
    function, _ = await deployed(at, user, 1)
    _, second = await at.deploy(user)
    with pytest.raises(Conflict, match="version 2 is pending"):
        await point(at, function, "live", Share(1, 50), Share(2, 50))
    job = await at.claimed_build()
    await at.store.fail(second.id, job.lease.token, Failure("build_failed", "no"))
    with pytest.raises(Conflict, match="version 2 is failed"):
        await point(at, function, "live", Share(2, 50))
    with pytest.raises(NotFound, match="no version 7"):
        await point(at, function, "live", Share(7, 50))
    assert await live(at, function) == {1: 100}
    await at.store.delete_function(function.id)
    with pytest.raises(NotFound, match="no such function"):
        await point(at, function, "live", Share(1, 50))


async def test_aliases_are_bounded(at: Setting) -> None:
    function, _ = await deployed(at, await at.user(), 1)
    for number in range(ALIASES_MAX - 1):
        await point(at, function, f"a{number}", Share(1, 1))
    with pytest.raises(Conflict, match="50 aliases"):
        await point(at, function, "one-more", Share(1, 1))
    await point(at, function, "a0", Share(1, 2))


async def test_a_version_knows_whose_it_is_and_what_it_replaced(at: Setting) -> None:
    user = await at.user()
    function, _ = await deployed(at, user, 3)
    await point(at, function, "live", Share(1, 100))  # rolled back
    _, fourth = await at.deploy(user)
    await at.publish(fourth)
    uses = {use.version.number: use for use in await at.store.version_uses(function.id, None, 9)}
    assert {number: use.replaced for number, use in uses.items()} == {4: 1, 3: 2, 2: 1, 1: None}
    assert {use.made_by for use in uses.values()} == {user.email}
    assert {number: use.aliases for number, use in uses.items() if use.aliases} == {4: (("live", 100),)}
    assert await at.store.version_use(function.id, 2) == uses[2]
    assert await at.store.version_use(function.id, 9) is None


async def test_what_is_older_than_what_was_rolled_back_takes_no_traffic(at: Setting) -> None:
    user = await at.user()
    function, _ = await deployed(at, user, 1)
    _, second = await at.deploy(user)
    slow = await at.claimed_build("slow")
    _, third = await at.deploy(user)
    await at.publish(third)
    await point(at, function, "live", Share(1, 100))
    await at.store.built(second.id, slow.lease.token, "b" * 64, "python-3.11.2", 7)
    proof = await at.store.claim_proof("prover", 30)
    assert proof is not None and proof.version.id == second.id
    await at.store.publish(second.id, proof.lease.token, "handler.handler")
    assert await live(at, function) == {1: 100}
    use = await at.store.version_use(function.id, 2)
    assert use is not None and use.size == 7


# versions


async def prune(at: Setting, function: FunctionRow, kept: int = 3) -> list[int]:
    doomed = await at.store.expendable_versions(function.id, kept)
    return await at.store.remove_versions(function.id, [version.id for version in doomed], kept)


async def test_the_newest_versions_stay(at: Setting) -> None:
    function, _ = await deployed(at, await at.user(), 5)
    assert await at.store.crowded(5) == []
    assert await at.store.crowded(3) == [function.id]
    seen = await at.store.last_event()
    assert await prune(at, function) == [1, 2]
    assert [use.version.number for use in await at.store.version_uses(function.id, None, 9)] == [5, 4, 3]
    events = await at.store.events_after(seen, 9)
    assert [(e.kind, e.subject, e.details) for e in events] == [
        ("route", function.id, {"version": number, "did": "removed"}) for number in (1, 2)
    ]
    assert await prune(at, function) == []
    sources, artifacts = await at.store.digests_in_use()
    assert sources == {f"{n:064}" for n in (3, 4, 5)} and artifacts == {f"{n + 1000:064}" for n in (3, 4, 5)}


async def test_what_is_used_meanwhile_stays(at: Setting) -> None:
    """Between the look and the removal: an alias, an instance."""
    user = await at.user()
    function, versions = await deployed(at, user, 6)
    await at.store.start_owner("own_1", "node", "shard")
    doomed = [version.id for version in await at.store.expendable_versions(function.id, 3)]
    assert doomed == [version.id for version in versions[:3]]
    await point(at, function, "old", Share(1, 100))
    await at.store.save_sandboxes([sandbox(versions[1])])
    assert await at.store.remove_versions(function.id, doomed, 3) == [3]
    await at.store.save_sandboxes([sandbox(versions[1], "gone")])
    assert await prune(at, function) == [2]


async def test_a_dead_processs_instances_hold_nothing(at: Setting) -> None:
    user = await at.user()
    function, versions = await deployed(at, user, 5)
    for owner in ("own_1", "own_2"):
        await at.store.start_owner(owner, owner, "shard")
    await at.store.save_sandboxes([sandbox(versions[0]), sandbox(versions[1], owner="own_2")])
    assert await prune(at, function) == []
    await at.store.end_owner("own_2")
    assert await prune(at, function) == [2]
    sql(at, "UPDATE owners SET heartbeat_ms = heartbeat_ms - ?", rows.SILENT_MS + 1000)  # killed
    assert await prune(at, function) == [1]


async def test_an_instance_of_a_deleted_function_keeps_its_artifact(at: Setting) -> None:
    function, [version] = await deployed(at, await at.user(), 1)
    await at.store.start_owner("own_1", "node", "shard")
    await at.store.save_sandboxes([sandbox(version)])
    await at.store.delete_function(function.id)
    assert await at.store.digests_in_use() == (set(), {f"{1001:064}"})
    await at.store.save_sandboxes([sandbox(version, "retiring")])  # another word of it, after the deletion
    assert await at.store.digests_in_use() == (set(), {f"{1001:064}"})
    await at.store.save_sandboxes([sandbox(version, "gone")])
    assert await at.store.digests_in_use() == (set(), set())


async def test_builds_of_what_is_gone_are_forgotten(at: Setting) -> None:
    for key in ("one", "two", "three"):
        await at.store.remember_artifact(key, f"of {key}")
    await at.store.forget_builds({"of one", "of two", "unheard of"})
    assert [await at.store.cached_artifact(key) for key in ("one", "two", "three")] == [
        None,
        None,
        "of three",
    ]


# records


def invocation(at: Setting, function: str = "fn_x", status: str = "succeeded") -> InvocationRow:
    made = at.ids.new("invocation")
    return InvocationRow(
        made, "ns_x", function, "ver_x", "sync", status, 200, None, False, at.clock.now_ms(), 0, 0, 1, "req"
    )


async def test_invocations_are_bounded_by_age_and_number(
    at: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "BATCH", 3)
    old, edge = [], 0
    for number in range(20):
        if number == 10:
            edge = at.clock.now_ms()
        old.append(invocation(at, f"fn_{number % 2}", "queued" if number == 0 else "succeeded"))
        at.clock.advance(1)
    await at.store.save_invocations(old)
    now = at.clock.now_ms()

    def left() -> list[tuple[object, ...]]:
        return sql(at, "SELECT id FROM invocations ORDER BY id")

    assert await at.store.prune_invocations(now - 86_400_000, 100, 100) == 0
    assert await at.store.prune_invocations(edge, 100, 100) == 9  # what is queued stays
    assert left() == [(row.id,) for row in [old[0], *old[10:]]]
    assert await at.store.prune_invocations(0, 4, 100) == 2  # the oldest of each
    assert await at.store.prune_invocations(0, 100, 5) == 3
    assert left() == [(row.id,) for row in [old[0], *old[15:]]]


async def test_events_are_bounded(at: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BATCH", 2)
    user = await at.user()
    await at.deploy(user)
    at.clock.advance(100)
    edge, seen = at.clock.now_ms(), await at.store.last_event()
    for _ in range(5):
        await at.deploy(user)
    assert await at.store.prune_events(edge, 1000) == seen
    last = await at.store.last_event()
    assert last == seen + 5
    assert await at.store.prune_events(0, 2) == 3
    assert [event.seq for event in await at.store.events_after(0, 9)] == [last - 1, last]
    await at.deploy(user)
    assert await at.store.last_event() == last + 1  # a number is not given twice


async def test_rows_of_what_has_ended_go(at: Setting) -> None:
    user = await at.user()
    _, versions = await deployed(at, user, 2)
    await at.store.start_owner("own_1", "node", "shard")
    await at.store.start_owner("own_2", "node", "shard")
    await at.store.save_sandboxes([sandbox(versions[0], owner="own_2"), sandbox(versions[1], "gone")])
    await at.store.end_owner("own_2")
    ((now,),) = sql(at, "SELECT max(heartbeat_ms) FROM owners")
    assert isinstance(now, int)
    at.clock.advance(10)
    assert await at.store.prune_processes(at.clock.now_ms()) == 2
    assert sql(at, "SELECT id FROM sandboxes") == []
    assert await at.store.prune_processes(now + 60_000) == 2
    assert sql(at, "SELECT id FROM owners") == []


# leases


async def test_one_at_a_time_does_it(at: Setting) -> None:
    won = await asyncio.gather(*(at.store.hold("work", f"own_{n}", 60) for n in range(8)))
    assert sum(won) == 1
    holder = f"own_{won.index(True)}"
    assert await at.store.hold("work", holder, 60)  # again: a renewal
    assert await at.store.hold("other work", "own_9", 60)
    await at.store.let_go("work", "own_9")
    assert not await at.store.hold("work", "own_9", 60)
    await at.store.let_go("work", holder)
    assert await at.store.hold("work", "own_9", 0.0)
    sql(at, "UPDATE leases SET until_ms = until_ms - 1000")  # its holder died
    assert await at.store.hold("work", "own_10", 60)
    assert not await at.store.hold("work", "own_9", 60)
