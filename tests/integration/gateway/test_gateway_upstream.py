"""Everything that is no function is streamed to control and back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.integration.gateway.kit import Shard, echo, shard, until

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Control:
    """A control that a test scripts: answers each request head with `serve`."""

    def __init__(self, serve: Serve) -> None:
        self.connections = 0
        self.heads: list[bytes] = []
        self._serve = serve
        self.writers: list[asyncio.StreamWriter] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                await self._serve(reader, writer)
        writer.close()


@contextlib.asynccontextmanager
async def platform(serve: Serve) -> AsyncIterator[tuple[Shard, Control]]:
    control = Control(serve)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "api.sock")
        server = await asyncio.start_unix_server(control.handle, str(path))
        try:
            async with shard(echo, control=path) as front:
                yield front, control
        finally:
            server.close()
            for writer in control.writers:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Thing: y\r\nKeep-Alive: 5\r\nX-Request-Id: control\r\n\r\nhi"
    )


GET = b"GET /api/v1/whoami?x=1 HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\n"


async def test_a_request_and_its_answer_pass_and_connections_are_used_again() -> None:
    async with platform(hello) as (front, control):
        client = await front.client()
        for _ in range(3):
            await client.send(
                GET
                + b"Authorization: Bearer t\r\nCookie: hearth_session=s\r\nConnection: X-Mine\r\nX-Mine: 1\r\nX-Forwarded-For: 6.6.6.6\r\nX-Hearth-Key: k\r\n\r\n"
            )
            reply = await client.reply()
            assert (reply.status, reply.body, reply.headers["x-thing"]) == (200, b"hi", "y")
            assert reply.headers["x-request-id"] == "mine"
            assert "keep-alive" not in reply.headers
        assert control.connections == 1
        head = control.heads[0].decode()
        assert head.startswith("GET /api/v1/whoami?x=1 HTTP/1.1\r\n")
        for line in (
            "authorization: Bearer t",
            "cookie: hearth_session=s",
            "x-forwarded-for: 127.0.0.1",
            "x-hearth-key: k",
            "x-request-id: mine",
        ):
            assert line in head
        assert "x-mine" not in head.lower() and "6.6.6.6" not in head
        await client.close()


async def test_control_being_down_is_503_there_and_nothing_else() -> None:
    async with shard(echo) as front:
        reply = await front.ask(GET + b"\r\n")
        assert (reply.status, reply.headers["x-hearth-error"]) == (503, "control_unavailable")
        assert reply.headers["retry-after"] == "1"
        assert (await front.ask(b"GET /fn/ann/hello HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200


async def test_a_large_upload_is_streamed_with_back_pressure() -> None:
    gate, size, got = asyncio.Event(), 20 << 20, 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        await gate.wait()
        while got < size:
            got += len(await reader.readexactly(65536))
        await hello(reader, writer)

    async with platform(slow) as (front, _):
        client = await front.client()
        await client.send(b"POST /api/v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        sending = asyncio.create_task(client.send(b"x" * size))
        await asyncio.sleep(0.2)
        assert not sending.done()
        (connection,) = front.door.connections
        assert connection._paused
        gate.set()
        await sending
        assert (await client.reply()).body == b"hi"
        assert got == size
        await client.close()


async def test_chunks_pass_both_ways() -> None:
    bodies: list[bytes] = []

    async def chunked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b""
        while (count := int(await reader.readuntil(b"\r\n"), 16)) > 0:
            body += (await reader.readexactly(count + 2))[:-2]
        await reader.readexactly(2)
        bodies.append(body)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for line in (b'{"n":1}\n', b'{"n":2}\n'):
            writer.write(b"%x\r\n%b\r\n" % (len(line), line))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async with platform(chunked) as (front, control):
        client = await front.client()
        for _ in range(2):
            await client.send(
                b"POST /api HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
            )
            assert (await client.reply()).body == b'{"n":1}\n{"n":2}\n'
        assert bodies == [b"abcde", b"abcde"]
        assert control.connections == 1
        await client.close()


async def test_a_long_stream_arrives_line_by_line_and_a_client_that_leaves_ends_it() -> None:
    left = asyncio.Event()

    async def follow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\none\r\n\r\n")
        assert await reader.read() == b""
        left.set()

    async with platform(follow) as (front, _):
        client = await front.client()
        await client.send(GET + b"\r\n")
        await client.head()
        assert await client.reader.readexactly(10) == b"5\r\none\r\n\r\n"
        await client.close()
        async with asyncio.timeout(5):
            await left.wait()


async def test_a_slow_reader_of_a_big_answer_stops_control_and_not_memory() -> None:
    size, sent = 64 << 20, 0

    async def big(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    async with platform(big) as (front, _):
        client = await front.client()
        await client.send(GET + b"\r\n")
        await until(lambda: any(connection.full for connection in front.door.connections))
        await asyncio.sleep(0.1)
        assert sent < size // 2
        assert len((await client.reply()).body) == size
        await client.close()


async def test_an_early_refusal_of_an_upload_is_passed_on() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")

    async with platform(refuse) as (front, _):
        client = await front.client()
        await client.send(
            b"POST /api HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 200_000
        )
        reply = await client.reply()
        assert (reply.status, reply.body, reply.headers["connection"]) == (401, b"no", "close")
        await client.close()


async def test_expect_continue_is_controls_to_answer() -> None:
    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await reader.readexactly(3) == b"abc"
        await hello(reader, writer)

    async with platform(wait) as (front, control):
        client = await front.client()
        await client.send(
            b"POST /api HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await client.head())[0] == 100
        await client.send(b"abc")
        assert (await client.reply()).body == b"hi"
        assert b"expect: 100-continue" in control.heads[0]
        await client.close()


async def test_head_and_204() -> None:
    answers = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ]

    async def scripted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answers.pop(0))

    async with platform(scripted) as (front, _):
        client = await front.client()
        await client.send(
            GET.replace(b"GET", b"HEAD") + b"\r\n" + GET.replace(b"GET", b"DELETE") + b"\r\n" + GET + b"\r\n"
        )
        reply = await client.reply(head_only=True)
        assert reply.headers["content-length"] == "99"
        reply = await client.reply()
        assert reply.status == 204 and "transfer-encoding" not in reply.headers
        assert (await client.reply()).body == b"ok"
        await client.close()


async def test_a_body_that_ends_with_controls_connection() -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nto the end")
        await writer.drain()
        writer.close()

    async with platform(close) as (front, _):
        reply = await front.ask(GET + b"\r\n")
        assert reply.body == b"to the end"


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Le"])
async def test_control_that_dies_or_babbles(answer: bytes) -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        raise ConnectionError

    async with platform(die) as (front, _):
        reply = await front.ask(GET + b"\r\n")
        assert (reply.status, json.loads(reply.body)["error"]["code"]) == (503, "control_unavailable")


async def test_an_answer_that_breaks_off_is_cut() -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await writer.drain()
        writer.transport.abort()
        raise ConnectionError

    async with platform(die) as (front, _):
        client = await front.client()
        await client.send(GET + b"\r\n")
        await client.head()
        assert b"0\r\n\r\n" not in await client.eof()
        await client.close()


async def test_a_kept_connection_that_control_closed_is_not_used_again() -> None:
    async with platform(hello) as (front, control):
        client = await front.client()
        await client.send(GET + b"\r\n")
        await client.reply()
        control.writers[0].close()
        await control.writers[0].wait_closed()
        await client.send(GET + b"\r\n")
        assert (await client.reply()).body == b"hi"
        assert control.connections == 2
        await client.close()
