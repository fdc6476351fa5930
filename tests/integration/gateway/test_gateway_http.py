"""HTTP/1.1 at the edge, by raw sockets: framing, limits, pipelining. A function is what a test answers."""

from __future__ import annotations

import asyncio
import json

import pytest

from hearth.core import limits
from tests.integration.gateway.kit import (
    Shard,
    echo,
    first_guest,
    next_call,
    reflect,
    route_row,
    shard,
)

GET = b"GET /fn/ann/hello HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /fn/ann/hello HTTP/1.1\r\nHost: a\r\n"


async def test_a_call_and_what_both_sides_are_told(front: Shard) -> None:
    reply = await front.ask(
        b"POST /fn/ann/hello/a%2Fb/../c?x=1&y=%20 HTTP/1.1\r\nHost: example.org:80\r\nX-Thing:  two words \r\n"
        b"X-Request-Id: mine-1\r\nContent-Length: 3\r\n\r\nabc"
    )
    assert reply.status == 200
    told = json.loads(reply.body)
    invocation, left, method, path, prefix, caller, client, scheme = told["parts"]
    headers = dict(told["headers"])
    assert (method, path, prefix) == ("POST", "/a%2Fb/../c?x=1&y=%20", "/fn/ann/hello")
    assert (caller, client, scheme) == ("", "127.0.0.1", "http")
    assert 0 < int(left) <= 30_000
    assert told["body"] == "abc"
    assert headers["x-thing"] == "two words"
    assert headers["host"] == headers["x-forwarded-host"] == "example.org:80"
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert headers["x-forwarded-prefix"] == "/fn/ann/hello"
    assert headers["x-request-id"] == "mine-1"
    assert headers["traceparent"].startswith("00-") and len(headers["traceparent"]) == 55
    assert reply.headers["x-request-id"] == "mine-1"
    assert reply.headers["x-hearth-invocation"] == invocation
    assert reply.headers["x-hearth-version"] == "1"
    assert [part.split(";")[0] for part in reply.headers["server-timing"].split(", ")] == [
        "queue",
        "cold",
        "fn",
    ]
    assert "x-hearth-error" not in reply.headers


async def test_a_request_id_that_is_not_well_formed_is_replaced(front: Shard) -> None:
    reply = await front.ask(GET[:-2] + b"X-Request-Id: no spaces\r\n\r\n")
    assert reply.headers["x-request-id"].startswith("inv_")


async def test_a_traceparent_is_passed_on_and_nonsense_replaced(front: Shard) -> None:
    good = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for sent, same in ((good, True), (b"nonsense", False)):
        reply = await front.ask(GET[:-2] + b"traceparent: " + sent + b"\r\n\r\n")
        assert (dict(json.loads(reply.body)["headers"])["traceparent"] == sent.decode()) is same


async def test_two_calls_have_two_ids(front: Shard) -> None:
    client = await front.client()
    await client.send(GET + GET)
    first, second = await client.reply(), await client.reply()
    assert first.headers["x-hearth-invocation"] != second.headers["x-hearth-invocation"]
    told = [dict(json.loads(reply.body)["headers"])["traceparent"] for reply in (first, second)]
    assert told[0] != told[1]
    await client.close()


MALFORMED = {
    "no host": b"GET /fn/ann/hello HTTP/1.1\r\n\r\n",
    "two hosts": GET[:-2] + b"Host: b\r\n\r\n",
    "bad host": b"GET /fn/ann/hello HTTP/1.1\r\nHost: a b\r\n\r\n",
    "te and cl": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "cl and te": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two cl": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "cl list": POST + b"Content-Length: 3, 3\r\n\r\nabc",
    "cl plus": POST + b"Content-Length: +3\r\n\r\nabc",
    "cl minus": POST + b"Content-Length: -1\r\n\r\nabc",
    "cl hex": POST + b"Content-Length: 0x3\r\n\r\nabc",
    "cl empty": POST + b"Content-Length:\r\n\r\n",
    "cl huge": POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "te gzip": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "te gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "te chunked, chunked": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "te twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "te xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "te tab": POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "te identity": POST + b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc",
    "te in 1.0": POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "obs-fold": GET[:-2] + b"A: b\r\n c\r\n\r\n",
    "leading fold": b"GET /fn/ann/hello HTTP/1.1\r\n Host: a\r\n\r\n",
    "space before colon": GET[:-2] + b"Content-Length : 3\r\n\r\n",
    "nul in value": GET[:-2] + b"A: b\0c\r\n\r\n",
    "bare cr": GET[:-2] + b"A: b\rc\r\n\r\n",
    "bare lf": b"GET /fn/ann/hello HTTP/1.1\nHost: a\n\n",
    "empty name": GET[:-2] + b": b\r\n\r\n",
    "name with space": GET[:-2] + b"A B: c\r\n\r\n",
    "non-ascii name": GET[:-2] + b"\xe9: c\r\n\r\n",
    "http/2.0": b"GET /fn/ann/hello HTTP/2.0\r\nHost: a\r\n\r\n",
    "http/1.2": b"GET /fn/ann/hello HTTP/1.2\r\nHost: a\r\n\r\n",
    "http/0.9": b"GET /fn/ann/hello\r\n\r\n",
    "h2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "unknown method": b"FOO /fn/ann/hello HTTP/1.1\r\nHost: a\r\n\r\n",
    "lower method": b"get /fn/ann/hello HTTP/1.1\r\nHost: a\r\n\r\n",
    "connect": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "other scheme": b"GET ftp://a/fn/ann/hello HTTP/1.1\r\nHost: a\r\n\r\n",
    "user in target": b"GET http://u:p@a/fn/ann/hello HTTP/1.1\r\nHost: a\r\n\r\n",
    "fragment": b"GET /fn/ann/hello#x HTTP/1.1\r\nHost: a\r\n\r\n",
    "nul in target": b"GET /fn/ann/hello\0 HTTP/1.1\r\nHost: a\r\n\r\n",
    "space in target": b"GET /fn/ann/he llo HTTP/1.1\r\nHost: a\r\n\r\n",
    "chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "chunk overflow": POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    "chunk bare lf": POST + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n",
    "chunk too long": POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    "chunk minus": POST + b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
    "two authorizations": GET[:-2] + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
    "expectation": POST + b"Expect: miracles\r\nContent-Length: 3\r\n\r\nabc",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 40 + b"\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_is_not_one_clear_request_is_refused_and_the_connection_closed(
    front: Shard, data: bytes
) -> None:
    client = await front.client()
    await client.send(data + GET)  # what follows must not be taken for a request
    reply = await client.reply()
    assert reply.status == 400
    assert reply.headers["x-hearth-error"] == "malformed_request"
    assert reply.headers["connection"] == "close"
    assert reply.headers["x-request-id"]
    assert json.loads(reply.body)["error"]["source"] == "request"
    assert await client.eof() == b""
    assert all(call.body == b"" for guest in front.guests.opened for call in guest.seen)
    await client.close()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
async def test_the_framing_does_not_depend_on_how_bytes_arrive(size: int) -> None:
    async with shard(reflect) as front:
        client = await front.client()
        data = (
            GET
            + POST
            + b"Content-Length: 3\r\n\r\nabc"
            + POST
            + b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nde\r\n1\r\nf\r\n0\r\nT: v\r\n\r\n"
            + GET
        )
        for at in range(0, len(data), size):
            client.writer.write(data[at : at + size])
            await asyncio.sleep(0)
        bodies = [json.loads((await client.reply()).body)["body"] for _ in range(4)]
        assert bodies == ["", "abc", "def", ""]
        await client.close()


async def test_pipelined_requests_are_answered_in_order_one_at_a_time() -> None:
    async with shard(None, route_row("hello", concurrency=64)) as front:
        client = await front.client()
        await client.send(b"".join(GET.replace(b"hello", b"hello/%d" % n) for n in range(40)))
        for number in range(40):
            guest = await first_guest(front)
            call = await next_call(guest, number)
            assert len(guest.calls) == 1  # the next waits until this one is answered
            assert call.parts[3] == f"/{number}"
            call.respond(b"200", b"%d" % number)
            assert (await client.reply()).body == b"%d" % number
        await client.close()


async def test_what_is_sent_ahead_is_held_and_bounded() -> None:
    async with shard(None) as front:
        client = await front.client()
        await client.send(GET)
        call = await next_call(await first_guest(front), 0)
        sent = 0
        for _ in range(400):  # far more than socket buffers take
            client.writer.write(GET * 1000)
            sent += 1000
            try:
                await asyncio.wait_for(client.writer.drain(), 0.2)
            except TimeoutError:
                break
        (connection,) = front.door.connections
        assert len(connection._held) < 1 << 20
        assert connection._paused
        assert len(connection._parser.heads) <= 32
        call.respond(b"200", b"first")
        assert (await client.reply()).body == b"first"
        client.writer.transport.abort()


async def test_a_memory_of_the_last_head_never_crosses_requests(front: Shard) -> None:
    client = await front.client()
    for path, extra in ((b"a", b""), (b"a", b""), (b"b", b""), (b"a", b"X: 1\r\n"), (b"a", b"")):
        await client.send(b"GET /fn/ann/hello/" + path + b" HTTP/1.1\r\nHost: a\r\n" + extra + b"\r\n")
        told = json.loads((await client.reply()).body)
        assert told["parts"][3] == "/" + path.decode()
        assert ("x" in dict(told["headers"])) is bool(extra)
    await client.close()


async def test_keep_alive_and_close(front: Shard) -> None:
    client = await front.client()
    for _ in range(3):
        await client.send(GET)
        assert "connection" not in (await client.reply()).headers
    await client.send(GET[:-2] + b"Connection: close\r\n\r\n")
    assert (await client.reply()).headers["connection"] == "close"
    assert await client.eof() == b""
    await client.close()


async def test_http_1_0(front: Shard) -> None:
    client = await front.client()
    await client.send(b"GET /fn/ann/hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert (await client.reply()).headers["connection"] == "keep-alive"
    await client.send(b"GET /fn/ann/hello HTTP/1.0\r\n\r\n")
    reply = await client.reply()
    assert reply.headers["connection"] == "close"
    assert await client.eof() == b""
    await client.close()


async def test_absolute_form_names_the_host(front: Shard) -> None:
    reply = await front.ask(b"GET http://other.example:81/fn/ann/hello/x HTTP/1.1\r\nHost: a\r\n\r\n")
    told = json.loads(reply.body)
    assert told["parts"][3] == "/x"
    assert dict(told["headers"])["host"] == "other.example:81"


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket"])
@pytest.mark.parametrize(
    ("framing", "body"),
    [(b"", b""), (b"Content-Length: 5\r\n", b"GET /"), (b"Transfer-Encoding: chunked\r\n", b"GET /")],
)
async def test_an_upgrade_is_refused_by_being_ignored(
    front: Shard, upgrade: bytes, framing: bytes, body: bytes
) -> None:
    client = await front.client()
    sent = b"5\r\n" + body + b"\r\n0\r\n\r\n" if b"chunked" in framing else body
    head = POST + b"Connection: Upgrade\r\nUpgrade: " + upgrade + b"\r\n" + framing + b"\r\n"
    await client.send(head + sent + GET)
    told = json.loads((await client.reply()).body)
    assert told["body"].encode() == body
    assert not {"upgrade", "connection"} & set(dict(told["headers"]))
    assert json.loads((await client.reply()).body)["parts"][2] == "GET"
    await client.close()


async def test_hop_by_hop_headers_are_dropped_those_named_too(front: Shard) -> None:
    reply = await front.ask(
        GET[:-2]
        + b"Connection: keep-alive, X-Mine, Foo\r\nX-Mine: 1\r\nFoo: 2\r\nKeep-Alive: 5\r\nTE: trailers\r\n"
        b"Proxy-Authorization: x\r\nTrailer: a\r\nX-Stays: 3\r\n\r\n"
    )
    names = {name for name, _ in json.loads(reply.body)["headers"]}
    assert "x-stays" in names
    assert not names & {"connection", "x-mine", "foo", "keep-alive", "te", "proxy-authorization", "trailer"}


async def test_head_has_no_body_but_says_its_length() -> None:
    async with shard(echo) as front:
        client = await front.client()
        await client.send(GET.replace(b"GET", b"HEAD") + GET)
        reply = await client.reply(head_only=True)
        assert reply.headers["content-length"] == "5"
        assert (await client.reply()).body == b"hello"
        await client.close()


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_that_never_have_a_body(status: int) -> None:
    async with shard(lambda call: call.respond(b"%d" % status, b"")) as front:
        client = await front.client()
        await client.send(GET + GET)
        for _ in range(2):
            reply = await client.reply()
            assert reply.status == status
            assert "content-length" not in reply.headers
            assert "transfer-encoding" not in reply.headers
        await client.close()


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (
            b"GET /fn/ann/hello?" + b"a" * limits.URL_MAX + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            414,
            "uri_too_long",
        ),
        (b"GET /fn/ann/hello?" + b"a" * 200_000, 414, "uri_too_long"),
        (GET[:-2] + b"A: " + b"b" * 90_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (GET[:-2] + b"A: " + b"b" * 200_000, 431, "headers_too_large"),
        (GET[:-2] + b"A: b\r\n" * 129 + b"\r\n", 431, "headers_too_large"),
        (b"\r\n" * 100_000, 431, "headers_too_large"),
        (POST + b"Content-Length: 7000000\r\n\r\n", 413, "too_large"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nT: " + b"x" * 200_000, 431, "headers_too_large"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 200_000, 431, "headers_too_large"),
    ],
)
async def test_limits(front: Shard, data: bytes, status: int, code: str) -> None:
    reply = await front.ask(data)
    assert (reply.status, reply.headers["x-hearth-error"]) == (status, code)
    assert reply.headers["connection"] == "close"


async def test_health(front: Shard) -> None:
    for path in (b"/healthz", b"/readyz", b"/healthz?x=1"):
        reply = await front.ask(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (reply.status, reply.body) == (200, b"ok\n")
    reply = await front.ask(b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


async def test_async_is_not_there_yet(front: Shard) -> None:
    reply = await front.ask(b"POST /async/ann/hello HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    assert (reply.status, reply.headers["x-hearth-error"]) == (501, "not_yet_supported")
