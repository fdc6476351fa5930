"""The route table: loaded page by page, kept up to date by the outbox, serving on when the store is down."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import pytest

from hearth.app import routes as module
from hearth.app.routes import Routes
from hearth.core.errors import NotFound, StoreUnavailable
from hearth.core.records import Event, RouteRow, SealedSecret, Target, VersionRow
from hearth.testing.clock import FakeClock
from hearth.testing.workshop import LocalBus
from tests.unit.pool_kit import function_row, version_row


class Rows:
    def __init__(self) -> None:
        self.rows: dict[str, RouteRow] = {}
        self.events: list[Event] = []
        self.reads = 0
        self.down = False
        self.names: tuple[str, ...] = ()  # that every version asked for by number names
        self.sealed = b"one"

    def put(self, name: str, number: int = 1) -> None:
        target = Target(version_row(name, number), 1)
        self.rows[f"fn_{name}"] = RouteRow(function_row(name), (("live", (target,)),))
        self.tell(name)

    def drop(self, name: str) -> None:
        del self.rows[f"fn_{name}"]
        self.tell(name)

    def tell(self, name: str, kind: str = "route") -> None:
        self.events.append(Event(len(self.events) + 1, kind, f"fn_{name}", 0))

    def _read(self) -> None:
        self.reads += 1
        if self.down:
            raise StoreUnavailable("down")

    async def routes(self, after: str | None, limit: int) -> list[RouteRow]:
        self._read()
        return [self.rows[key] for key in sorted(self.rows) if key > (after or "")][:limit]

    async def route(self, function_id: str) -> RouteRow | None:
        self._read()
        return self.rows.get(function_id)

    async def last_event(self) -> int:
        self._read()
        return len(self.events)

    async def events_after(self, seq: int, limit: int) -> Sequence[Event]:
        self._read()
        return self.events[seq : seq + limit]

    async def find_version_by_id(self, version_id: str) -> VersionRow | None:
        return None

    async def find_version(self, function_id: str, number: int) -> VersionRow | None:
        self._read()
        return version_row("a", number, secrets=self.names) if number < 5 else None

    async def sealed_secrets(
        self, namespace_id: str, function_id: str | None, names: Collection[str]
    ) -> tuple[SealedSecret, ...]:
        self._read()
        return tuple(SealedSecret(name, namespace_id, None, "k", self.sealed) for name in names)


def table(rows: Rows) -> tuple[Routes, LocalBus, FakeClock]:
    bus, clock = LocalBus(), FakeClock()
    return Routes(rows, rows, bus, clock), bus, clock  # type: ignore[arg-type]


async def test_all_pages_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 3)
    rows = Rows()
    for name in "abcdefgh":
        rows.put(name)
    routes, _, _ = table(rows)
    await routes.load()
    assert sorted(routes.entries) == [(b"ann", name.encode()) for name in "abcdefgh"]
    assert routes.loaded


async def test_a_change_replaces_one_entry_and_a_deletion_removes_it() -> None:
    rows = Rows()
    rows.put("a")
    rows.put("b")
    routes, _, _ = table(rows)
    await routes.load()
    kept = routes.entries[b"ann", b"b"]
    changes: list[int] = []
    routes.on_change = lambda: changes.append(len(routes.entries))
    rows.put("a", 2)
    assert await routes.follow() == 1
    assert routes.entries[b"ann", b"a"].live.pick(0).number == 2
    assert routes.entries[b"ann", b"b"] is kept
    rows.drop("a")
    await routes.follow()
    assert (b"ann", b"a") not in routes.entries
    rows.tell("b", "credential")
    await routes.follow()
    assert changes == [2, 1]


async def test_what_changes_while_the_table_is_loaded_is_not_missed() -> None:
    rows = Rows()
    rows.put("a")
    routes, _, _ = table(rows)
    inner = rows.routes

    async def meanwhile(after: str | None, limit: int) -> list[RouteRow]:
        found = await inner(after, limit)
        rows.put("a", 2)
        return found

    rows.routes = meanwhile  # type: ignore[method-assign]
    await routes.load()
    assert routes.entries[b"ann", b"a"].live.pick(0).number == 1
    await routes.follow()
    assert routes.entries[b"ann", b"a"].live.pick(0).number == 2


async def test_a_name_given_to_another_function_is_not_removed_with_the_old_one() -> None:
    rows = Rows()
    rows.put("a")
    routes, _, _ = table(rows)
    await routes.load()
    renewed = RouteRow(type(function_row("a"))("fn_new", "ns_ann", "ann", "a", 0), rows.rows["fn_a"].aliases)
    del rows.rows["fn_a"]
    rows.rows["fn_new"] = renewed
    rows.events += [Event(2, "route", "fn_new", 0), Event(3, "route", "fn_a", 0)]
    await routes.follow()
    assert routes.entries[b"ann", b"a"].function.id == "fn_new"


async def test_a_hint_wakes_the_follower_and_a_timer_repairs_a_lost_one() -> None:
    rows = Rows()
    routes, bus, clock = table(rows)
    follower = asyncio.create_task(routes.run())

    async def settle() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    await settle()
    rows.put("a")
    bus.publish("routes")
    await settle()
    assert (b"ann", b"a") in routes.entries
    rows.put("b")  # its hint is lost
    await settle()
    assert (b"ann", b"b") not in routes.entries
    clock.advance(module.EVERY)
    await settle()
    assert (b"ann", b"b") in routes.entries
    rows.down = True
    clock.advance(module.EVERY)
    await settle()
    assert len(routes.entries) == 2  # serves on
    rows.down = False
    rows.put("c")
    clock.advance(module.EVERY)
    await settle()
    assert len(routes.entries) == 3
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)


async def test_versions_by_number() -> None:
    rows = Rows()
    rows.put("a", 2)
    routes, _, _ = table(rows)
    await routes.load()
    route = routes.entries[b"ann", b"a"]
    reads = rows.reads
    assert (await routes.version(route, 2)) is route.live.only
    assert rows.reads == reads
    named = await routes.version(route, 1)
    assert named.number == 1 and named in routes.served
    assert (await routes.version(route, 1)) is named
    with pytest.raises(NotFound):
        await routes.version(route, 9)
    rows.drop("a")
    await routes.follow()
    assert routes.served == []


async def test_versions_by_number_have_the_secrets_of_now() -> None:
    rows = Rows()
    rows.put("a", 2)
    rows.names = ("A",)
    routes, _, _ = table(rows)
    await routes.load()
    first = await routes.version(routes.entries[b"ann", b"a"], 1)
    assert [secret.sealed for secret in first.secrets] == [b"one"]
    rows.sealed = b"two"
    rows.tell("a")  # as the store does when a secret changes
    await routes.follow()
    assert first not in routes.served
    again = await routes.version(routes.entries[b"ann", b"a"], 1)
    assert [secret.sealed for secret in again.secrets] == [b"two"]


async def test_who_asks_for_what_is_not_there_hears_of_what_was_committed_before() -> None:
    rows, clock = Rows(), FakeClock()
    routes = Routes(rows, rows, LocalBus(), clock)
    await routes.load()
    rows.put("new")
    await routes.catch_up()
    assert (b"ann", b"new") in routes.entries


async def test_many_who_ask_share_one_look_and_looks_are_apart() -> None:
    rows, clock = Rows(), FakeClock()
    routes = Routes(rows, rows, LocalBus(), clock)
    await routes.load()
    before = rows.reads
    await asyncio.gather(*(routes.catch_up() for _ in range(100)))
    assert rows.reads == before + 1
    later = [asyncio.create_task(routes.catch_up()) for _ in range(100)]
    await asyncio.sleep(0)
    rows.put("new")  # after they asked, before the look that they wait for
    await asyncio.sleep(0)
    assert rows.reads == before + 1
    assert not any(task.done() for task in later)
    clock.advance(module.APART)
    await asyncio.gather(*later)
    assert rows.reads == before + 3  # the events, and the one row
    assert (b"ann", b"new") in routes.entries


async def test_a_store_that_is_down_does_not_fail_who_asks() -> None:
    rows = Rows()
    routes = Routes(rows, rows, LocalBus(), FakeClock())
    await routes.load()
    rows.down = True
    await routes.catch_up()
    assert routes.entries == {}
