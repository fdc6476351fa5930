"""The end of a shard: for a successor on the same socket, or for good; in peace, or in a hurry."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from hearth.gateway import door
from tests.integration.gateway.kit import FakeCall, Shard, first_guest, next_call, shard, until

GET = b"GET /fn/ann/hello HTTP/1.1\r\nHost: a\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
READY = b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"


def closing(now: bool = True) -> asyncio.Event:
    event = asyncio.Event()
    if now:
        event.set()
    return event


async def begun(front: Shard, event: asyncio.Event, grace: float = 60.0) -> asyncio.Task[int]:
    draining = asyncio.create_task(front.door.drain(grace, event))
    await until(lambda: front.door.draining)
    return draining


async def test_a_door_that_closes_for_good_turns_newcomers_away() -> None:
    def quick(call: FakeCall) -> None:
        if b"/quick" in call.head:
            call.respond(b"200", b"too")

    async with shard(quick) as front:
        working, kept = await front.client(), await front.client()
        await working.send(GET)
        call = await next_call(await first_guest(front), 0)
        await kept.send(HEALTH)
        await kept.reply()
        draining = await begun(front, closing())
        reply = await front.ask(GET)
        assert (reply.status, reply.headers["x-hearth-error"]) == (503, "draining")
        assert (reply.headers["retry-after"], reply.headers["connection"]) == ("1", "close")
        reply = await front.ask(
            b"POST /api/v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + bytes(100000)
        )
        assert (reply.status, reply.headers["x-hearth-error"]) == (503, "draining")
        assert (await front.ask(HEALTH)).status == 200
        assert (await front.ask(READY)).status == 503
        await kept.send(b"GET /fn/ann/hello/quick HTTP/1.1\r\nHost: a\r\n\r\n")
        reply = await kept.reply()  # who was here before is served once more
        assert (reply.body, reply.headers["connection"]) == (b"too", "close")
        assert not draining.done()
        call.respond(b"200", b"done")
        reply = await working.reply()
        assert (reply.body, reply.headers["connection"]) == (b"done", "close")
        assert await asyncio.wait_for(draining, 10) == 0
        await working.close()
        await kept.close()


async def test_a_kept_connection_does_not_hold_an_end_for_good_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "QUIET", 0.05)
    async with shard(None) as front:
        kept = await front.client()
        await kept.send(HEALTH)
        await kept.reply()
        draining = await begun(front, closing())
        assert await asyncio.wait_for(draining, 10) == 0
        assert await kept.eof() == b""
        await kept.close()


async def test_before_a_successor_a_kept_connection_is_served_until_all_is_to_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(door, "QUIET", 0.0)
    event = closing(False)
    async with shard(None) as front:
        kept = await front.client()
        await kept.send(HEALTH)
        await kept.reply()
        draining = await begun(front, event)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(draining), 0.2)
        assert not draining.done()
        event.set()
        assert await asyncio.wait_for(draining, 10) == 0
        await kept.close()


async def test_what_is_cut_hears_why_where_it_can() -> None:
    def half(call: FakeCall) -> None:
        if b"/half" in call.head:
            call.respond(b"200", b"one", end=False)

    async with shard(half) as front:
        waiting, streaming, kept = [await front.client() for _ in range(3)]
        await streaming.send(b"GET /fn/ann/hello/half HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await streaming.head())[0] == 200
        await waiting.send(GET)
        await until(lambda: sum(c.current is not None for c in front.door.connections) == 2)
        await kept.send(HEALTH)
        await kept.reply()
        assert await front.door.drain(0.0) == 2
        await front.door.close()
        reply = await waiting.reply()
        assert (reply.status, reply.headers["x-hearth-error"]) == (503, "draining")
        assert b"0\r\n\r\n" not in await streaming.eof()  # it can be told from a whole one
        assert await kept.eof() == b""
        for client in (waiting, streaming, kept):
            await client.close()
