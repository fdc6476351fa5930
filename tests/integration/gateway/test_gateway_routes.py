"""A shard that has not heard of a change yet."""

from __future__ import annotations

from hearth.core.records import Event
from tests.integration.gateway.kit import echo, get, route_row, shard


async def test_a_function_is_found_by_its_first_caller_though_no_hint_has_come() -> None:
    async with shard(echo, route_row("hello")) as front:
        row = route_row("new")
        front.rows.rows[row.function.id] = row
        front.rows.events.append(Event(len(front.rows.events) + 1, "route", row.function.id, 0))
        assert (await front.ask(get("new"))).status == 200
        assert (await front.ask(get("newer"))).status == 404
