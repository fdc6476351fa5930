"""HEARTH_URL: who a function is to the functions that it calls, how long it may wait, how deep it goes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hearth.app.instances import Instance
from hearth.core import limits
from hearth.core.records import RouteRow
from hearth.gateway.inner import InnerDoors
from hearth.testing.guest import FakeCall
from tests.integration.gateway.kit import Client, Shard, function_row, get, reflect, route_row, shard, until


def theirs(name: str, **config: Any) -> RouteRow:
    """A function of somebody else's namespace."""
    row = route_row(name, **config)
    function = dataclasses.replace(function_row(name, "bob"), id=f"fn_bob_{name}")
    return dataclasses.replace(row, function=function)


ROUTES = (
    route_row("caller", concurrency=8, timeout=2.0),
    route_row("mine", auth="members", concurrency=8, timeout=30.0),
    theirs("hidden", auth="members"),
    theirs("open"),
)


def answer(call: FakeCall) -> None:
    """What calls `/wait` stays in work."""
    if call.parts[3] != "/wait":
        reflect(call)


@dataclasses.dataclass
class Inside:
    """A function's side of its own door."""

    front: Shard
    instance: Instance
    parents: contextlib.AsyncExitStack

    async def client(self) -> Client:
        port = int(self.instance.slot.url.rpartition(":")[2])
        return Client(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, target: str, *headers: str) -> tuple[int, Any]:
        client = await self.client()
        try:
            lines = "".join(f"{line}\r\n" for line in ("Host: x", *headers))
            await client.send(f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode())
            reply = await client.reply()
            told = json.loads(reply.body)
            return reply.status, {**told, "headers": dict(told.get("headers", ()))}
        finally:
            await client.close()

    async def parent(self, *headers: bytes) -> Any:
        """A call of the function that stays in work: its exchange."""
        count = len(self.instance.guest.in_work())
        client = await self.front.client()
        self.parents.push_async_callback(client.close)
        await client.send(get("caller/wait", *headers))
        await until(lambda: len(self.instance.guest.in_work()) > count)
        return self.instance.guest.in_work()[-1]


@pytest.fixture
async def inside() -> AsyncIterator[Inside]:
    async with shard(answer, *ROUTES) as front:
        await front.ask(get("caller"))
        instance = next(one for one in front.pool.instances if one.slot.version.name == "caller")  # type: ignore[union-attr]
        doors = InnerDoors()
        doors.door = front.door
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        await doors.open(instance.slot, sock.detach())
        async with contextlib.AsyncExitStack() as parents:
            yield Inside(front, instance, parents)


async def test_a_function_is_a_member_of_its_namespace(inside: Inside) -> None:
    status, told = await inside.ask("/fn/ann/mine/x?y=1", "X-Hearth-Caller: user:usr_1")
    assert status == 200
    assert told["headers"]["x-hearth-caller"] == "function:fn_caller"
    assert told["parts"][2:5] == ["GET", "/x?y=1", "/fn/ann/mine"]
    assert (await inside.front.ask(get("mine"))).status == 404  # who comes by the public door is nobody


async def test_in_another_namespace_it_is_a_stranger_who_may_be_known(inside: Inside) -> None:
    assert (await inside.ask("/fn/bob/hidden"))[0] == 404
    status, told = await inside.ask("/fn/bob/open")
    assert (status, told["headers"]["x-hearth-caller"]) == (200, "function:fn_caller")


async def test_a_key_that_it_sends_counts(inside: Inside) -> None:
    _, told = await inside.ask("/fn/ann/mine", "X-Hearth-Key: hk_invoke")
    assert told["headers"]["x-hearth-caller"] == "key:key_1"
    assert (await inside.ask("/fn/ann/mine", "X-Hearth-Key: hk_other"))[0] == 404


@pytest.mark.parametrize("target", ["/api/v1/functions", "/healthz", "/readyz", "/metrics", "/", "/fn/ann"])
async def test_only_functions_are_behind_it(target: str, inside: Inside) -> None:
    status, told = await inside.ask(target)
    assert (status, told["error"]["code"]) == (404, "not_found")


async def test_it_may_not_wait_longer_than_who_called_it(inside: Inside) -> None:
    parent = await inside.parent()
    _, told = await inside.ask("/fn/ann/mine")
    assert 0 < int(told["parts"][1]) <= 2000
    assert told["headers"]["traceparent"][3:35] == parent.trace[3:35].decode()
    assert told["headers"]["traceparent"] != parent.trace.decode()


async def test_on_behalf_of_no_call_it_has_the_time_of_the_function_that_it_calls(inside: Inside) -> None:
    _, told = await inside.ask("/fn/ann/mine")
    assert 2_000 < int(told["parts"][1]) <= 30_000


async def test_a_trace_that_it_passes_on_tells_which_call_it_is(inside: Inside) -> None:
    first = await inside.parent(b"traceparent: 00-%032x-%016x-01" % (1, 1))
    await inside.parent(b"traceparent: 00-%032x-%016x-01" % (2, 2))
    first.depth = limits.CALL_DEPTH_MAX
    assert (await inside.ask("/fn/ann/mine", f"traceparent: 00-{2:032x}-{7:016x}-01"))[0] == 200
    assert (await inside.ask("/fn/ann/mine", f"traceparent: 00-{1:032x}-{7:016x}-01"))[0] == 508
    status, told = await inside.ask("/fn/ann/mine")  # it may be either, so the deeper one counts
    assert (status, told["error"]["code"]) == (508, "calls_too_deep")


async def test_a_call_is_one_deeper_than_who_made_it(inside: Inside) -> None:
    parent = await inside.parent()
    parent.depth = 3
    client = await inside.client()
    await client.send(b"GET /fn/ann/mine/wait HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: any(guest.in_work() for guest in inside.front.guests.opened[1:]))
    made = [one for guest in inside.front.guests.opened[1:] for one in guest.in_work()]
    assert [one.depth for one in made] == [4]
    await client.close()


async def test_an_instance_holds_so_many_connections_and_no_more(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "INNER_CONNECTIONS_MAX", 2)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            stack.push_async_callback((await inside.client()).close)
        await asyncio.sleep(0)
        third = await inside.client()
        stack.push_async_callback(third.close)
        reply = await third.reply()
        assert (reply.status, reply.headers["connection"]) == (503, "close")
    await until(lambda: len(inside.front.door.connections) <= 2)
    assert (await inside.ask("/fn/ann/mine"))[0] == 200


async def test_it_ends_with_its_instance(inside: Inside) -> None:
    inside.instance.slot.close()
    with pytest.raises(OSError):
        await inside.ask("/fn/ann/mine")
