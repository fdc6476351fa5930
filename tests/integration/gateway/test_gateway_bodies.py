"""Bodies both ways, with back-pressure; deadlines, clients that leave, and the drain."""

from __future__ import annotations

import asyncio

import pytest

from hearth.core import limits
from tests.integration.gateway.kit import (
    FakeCall,
    Shard,
    echo,
    first_guest,
    next_call,
    route_row,
    shard,
    until,
)

GET = b"GET /fn/ann/hello HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /fn/ann/hello HTTP/1.1\r\nHost: a\r\n"


async def test_a_stream_to_http_1_0_ends_with_the_connection() -> None:
    def stream(call: FakeCall) -> None:
        call.respond(b"200", b"one", end=False)
        call.send_body(b"two", end=True)

    async with shard(stream) as front:
        reply = await front.ask(b"GET /fn/ann/hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert reply.headers["connection"] == "close"
        assert "transfer-encoding" not in reply.headers
        assert reply.body == b"onetwo"


async def test_expect_continue_is_answered_once_an_instance_is_there() -> None:
    async with shard(None) as front:
        client = await front.client()
        await client.send(POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        status, _ = await client.head()
        assert status == 100
        call = await next_call(await first_guest(front), 0)
        assert call.body == b""
        await client.send(b"abc")
        await until(lambda: call.end)
        assert call.body == b"abc"
        call.respond(b"200", b"ok")
        assert (await client.reply()).body == b"ok"
        await client.close()


@pytest.mark.parametrize("path", [b"/fn/ann/nobody", b"/fn/ann/hello"])
async def test_no_continue_for_what_is_refused(path: bytes) -> None:
    async with shard(echo, max_body=2) as front:
        reply = await front.ask(
            b"POST " + path + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        )
        assert reply.status == (413 if b"hello" in path else 404)
        assert reply.headers["connection"] == "close"


async def test_a_chunked_body_is_counted_while_it_streams() -> None:
    async with shard(None, max_body=100_000) as front:
        client = await front.client()
        await client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        chunk = b"%x\r\n" % 50_000 + b"x" * 50_000 + b"\r\n"
        await client.send(chunk + chunk)
        call = await next_call(await first_guest(front), 0)
        await client.send(chunk)
        reply = await client.reply()
        assert reply.status == 413
        assert call.cancelled is not None
        call.release()
        await client.close()


async def test_a_large_body_streams_with_the_guests_credit() -> None:
    async with shard(None) as front:
        client = await front.client()
        size = 5 << 20
        await client.send(POST + b"Content-Length: %d\r\n\r\n" % size + b"a" * 100_000)
        call = await next_call(await first_guest(front), 0)
        call.blocked = True
        sending = asyncio.create_task(client.send(b"b" * (size - 100_000)))
        await asyncio.sleep(0.2)
        assert not sending.done()
        assert len(call.body) < 2 << 20  # what was under way, and then nothing more
        call.unblock()
        await sending
        await until(lambda: call.end)
        assert len(call.body) == size
        call.respond(b"200", b"ok")
        assert (await client.reply()).status == 200
        await client.close()


async def test_a_slow_client_stops_its_own_stream_only() -> None:
    async with shard(None, route_row("hello", concurrency=8)) as front:
        slow = await front.client()
        await slow.send(GET)
        call = await next_call(await first_guest(front), 0)
        call.respond(b"200", b"x" * 1000, end=False)
        sent = 1000
        while call.credit_returned == sent:
            call.send_body(b"y" * 65536)
            sent += 65536
            await asyncio.sleep(0)
            assert sent < 64 << 20
        other = await front.client()
        await other.send(GET)
        quick = await next_call(await first_guest(front), 1)
        quick.respond(b"200", b"quick")
        assert (await other.reply()).body == b"quick"
        _, fields = await slow.head()
        assert ("transfer-encoding", "chunked") in fields
        reading = asyncio.create_task(slow._body({"transfer-encoding": "chunked"}))
        await until(lambda: call.credit_returned == sent)  # it reads: all of the credit comes back
        call.send_body(b"", end=True)
        body, _ = await asyncio.wait_for(reading, 10)
        assert len(body) == sent
        await slow.close()
        await other.close()


async def test_a_streamed_answer_with_trailers() -> None:
    def stream(call: FakeCall) -> None:
        call.respond(b"200\ncontent-type:text/plain", b"", end=False)
        call.send_body(b"one ")
        call.send_body(b"two")
        call.trailers(b"x-sum:3\ncontent-length:9\nx-hearth-error:fake")

    async with shard(stream) as front:
        client = await front.client()
        await client.send(GET + GET)
        for _ in range(2):
            reply = await client.reply()
            assert reply.body == b"one two"
            assert reply.trailers == b"x-sum: 3\r\n"
        await client.close()


async def test_an_announced_length_is_kept_for_a_stream() -> None:
    def stream(call: FakeCall) -> None:
        call.respond(b"200\ncontent-length:6", b"one", end=False)
        call.send_body(b"two", end=True)

    async with shard(stream) as front:
        reply = await front.ask(GET)
        assert reply.headers["content-length"] == "6"
        assert "transfer-encoding" not in reply.headers
        assert reply.body == b"onetwo"


async def test_an_answer_before_the_end_of_the_request_closes_the_connection() -> None:
    async with shard(lambda call: call.respond(b"200", b"early")) as front:
        client = await front.client()
        await client.send(POST + b"Content-Length: 1000000\r\n\r\n" + b"a" * 100_000)
        reply = await client.reply()
        assert (reply.body, reply.headers["connection"]) == (b"early", "close")
        await client.send(b"a" * 100_000)  # read and dropped: no reset may take the answer away
        assert await client.eof() == b""
        await client.close()


async def test_a_client_that_leaves_cancels_and_the_instance_waits_for_the_guest() -> None:
    async with shard(None) as front:
        client = await front.client()
        await client.send(GET)
        call = await next_call(await first_guest(front), 0)
        client.writer.transport.abort()
        await until(lambda: call.cancelled == "client_gone")
        (instance,) = front.pool.instances
        assert instance.in_flight == 1  # a synchronous handler may still be running
        call.release()
        assert instance.in_flight == 0
        await front.recorder.flush()
        assert [row.status for row in front.rows.invocations] == ["cancelled"]


async def test_a_client_that_is_slow_with_its_head_or_body_gets_408(
    front: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEADER_TIMEOUT", 0.15)
    monkeypatch.setattr(limits, "BODY_TIMEOUT", 0.15)
    for data in (b"GET /fn/ann", POST + b"Content-Length: 5\r\n\r\nab"):
        reply = await front.ask(data)
        assert (reply.status, reply.headers["x-hearth-error"]) == (408, "request_timeout")


async def test_idle_connections_are_closed_without_a_word(
    front: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "KEEP_ALIVE_TIMEOUT", 0.1)
    client = await front.client()
    await client.send(GET)
    await client.reply()
    assert await client.eof() == b""
    await client.close()


async def test_a_drain_serves_what_is_there_and_tells_to_go() -> None:
    async with shard(None) as front:
        working, idle = await front.client(), await front.client()
        await working.send(GET)
        call = await next_call(await first_guest(front), 0)
        await idle.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        await idle.reply()
        draining = asyncio.create_task(front.door.drain(5.0))
        await until(lambda: front.door.draining)
        with pytest.raises(OSError):
            await front.client()
        await idle.send(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
        reply = await idle.reply()
        assert (reply.status, reply.headers["connection"]) == (503, "close")
        assert reply.headers["retry-after"] == "1"
        call.respond(b"200", b"done")
        reply = await working.reply()
        assert (reply.body, reply.headers["connection"]) == (b"done", "close")
        assert await draining == 0
        await working.close()
        await idle.close()


async def test_after_the_grace_new_requests_are_refused_and_none_in_work_is_cut() -> None:
    async with shard(None) as front:
        working, idle = await front.client(), await front.client()
        await working.send(GET)
        call = await next_call(await first_guest(front), 0)
        assert await front.door.drain(0.0) == 1
        assert await idle.eof() == b""
        call.respond(b"200", b"done")
        assert (await working.reply()).body == b"done"
        await working.close()
        await idle.close()
