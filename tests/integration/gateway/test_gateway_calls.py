"""Calls of functions: who may, what crosses the door in either direction, how failures and deadlines look."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import replace

import pytest

from hearth.core.errors import (
    FunctionBadResponse,
    FunctionCrashed,
    FunctionFailed,
    FunctionLoadFailed,
    HearthError,
    NoCapacity,
)
from hearth.core.function import Scale
from hearth.core.launch import Exit
from hearth.core.records import Event, Failure, FunctionSummary, RouteRow, Target
from hearth.core.version import VersionState
from tests.integration.gateway.kit import (
    FakeCall,
    FakeGuest,
    Reply,
    echo,
    first_guest,
    function_row,
    get,
    next_call,
    reflect,
    route_row,
    shard,
    until,
    version_row,
)


def code(reply: Reply) -> str:
    return str(json.loads(reply.body)["error"]["code"])


AS_MEMBER = b"X-Hearth-Key: member"  # as the command line does: understood on public functions too
MEMBER, STRANGER = b"Authorization: Bearer member", b"Authorization: Bearer stranger"
BAD, BASIC = b"Authorization: Bearer expired", b"Authorization: Basic eDp5"
KEY, OTHER_KEY, BAD_KEY = b"X-Hearth-Key: hk_invoke", b"X-Hearth-Key: hk_other", b"X-Hearth-Key: hk_bad"


@pytest.mark.parametrize(
    ("auth", "headers", "status"),
    [
        ("public", [], 200),
        ("public", [BAD], 200),  # not ours on a public function
        ("public", [KEY], 200),
        ("public", [BAD_KEY], 401),
        ("key", [], 401),
        ("key", [BASIC], 401),
        ("key", [KEY], 200),
        ("key", [b"Authorization: Bearer hk_invoke"], 200),
        ("key", [BAD_KEY], 401),
        ("key", [MEMBER], 200),
        ("key", [STRANGER], 401),
        ("key", [OTHER_KEY], 401),
        ("members", [], 404),
        ("members", [BASIC], 404),
        ("members", [MEMBER], 200),
        ("members", [KEY], 200),
        ("members", [STRANGER], 404),
        ("members", [OTHER_KEY], 404),
        ("members", [BAD], 401),
        ("members", [BAD_KEY], 401),
        (None, [], 404),
        (None, [MEMBER], 404),
        (None, [BAD], 401),
        (None, [BAD_KEY], 401),
    ],
)
async def test_who_may_call(auth: str | None, headers: list[bytes], status: int) -> None:
    async with shard(reflect, route_row("hello", auth=auth or "public")) as front:
        for _ in range(2):  # once looked up, once from memory
            reply = await front.ask(get("hello" if auth else "none", *headers))
            assert reply.status == status
            assert ("www-authenticate" in reply.headers) is (status == 401)
        assert front.keys.looked <= 2


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (MEMBER, "ns-a/new has no live version yet: version 1 failed, it does not import"),
        (KEY, "ns-a/new has no live version yet"),
        (OTHER_KEY, "there is no such function, or you may not know of it"),
        (STRANGER, "there is no such function, or you may not know of it"),
        (b"Accept: */*", "there is no such function, or you may not know of it"),
    ],
)
async def test_a_member_hears_why_nothing_is_live_and_a_stranger_hears_nothing(
    header: bytes, told: str
) -> None:
    async with shard(reflect) as front:
        function = route_row("new").function
        failed = replace(
            version_row("new", 1), state=VersionState.FAILED, failure=Failure("x", "it does not import")
        )
        front.rows.unrouted[function.namespace, "new"] = FunctionSummary(function, None, failed)
        reply = await front.ask(get("new", header))
        assert (reply.status, code(reply)) == (404, "not_found")
        message = json.loads(reply.body)["error"]["message"]
        assert message == told.replace("ns-a", function.namespace)


async def test_one_lookup_serves_all_who_wait_for_it() -> None:
    async with shard(echo, route_row("hello", auth="members", concurrency=64)) as front:
        replies = await asyncio.gather(*(front.ask(get("hello", MEMBER)) for _ in range(20)))
        assert {reply.status for reply in replies} == {200}
        assert front.keys.looked < 20


async def test_the_function_knows_its_caller_and_sees_no_credential_of_ours() -> None:
    async with shard(reflect, route_row("hello", auth="members"), route_row("open")) as front:
        told = json.loads(
            (
                await front.ask(
                    get(
                        "hello",
                        MEMBER,
                        b"X-Hearth-Caller: user:root",
                        b"X-Hearth-Foo: 1",
                        b"Cookie: a=1; hearth_session=s; b=2",
                    )
                )
            ).body
        )
        headers = dict(told["headers"])
        assert told["parts"][5] == headers["x-hearth-caller"] == "user:usr_1"
        assert headers["cookie"] == "a=1; b=2"
        assert not {"authorization", "x-hearth-foo", "x-hearth-key"} & set(headers)
        told = json.loads((await front.ask(get("open", STRANGER, b"X-Hearth-Caller: user:root"))).body)
        headers = dict(told["headers"])
        assert told["parts"][5] == ""
        assert headers["authorization"] == "Bearer stranger"
        assert "x-hearth-caller" not in headers
        told = json.loads((await front.ask(get("open", KEY, BASIC))).body)
        headers = dict(told["headers"])
        assert headers["x-hearth-caller"] == "key:key_1"
        assert headers["authorization"] == "Basic eDp5"
        assert "x-hearth-key" not in headers


async def test_versions_and_aliases_by_header_are_for_members() -> None:
    first, second = version_row("hello", 1), version_row("hello", 2)
    row = RouteRow(function_row("hello"), (("live", (Target(first, 1),)), ("beta", (Target(second, 1),))))
    async with shard(echo, row) as front:
        front.rows.versions["fn_hello", 3] = version_row("hello", 3)

        async def ask(*headers: bytes) -> Reply:
            return await front.ask(get("hello", *headers))

        assert (await ask()).headers["x-hearth-version"] == "1"
        for headers, version in (
            ([b"X-Hearth-Alias: beta"], "2"),
            ([b"X-Hearth-Version: 1"], "1"),
            ([b"X-Hearth-Version: 3"], "3"),
        ):
            assert (await ask(*headers)).status == 403
            assert (await ask(*headers, STRANGER)).status == 403
            reply = await ask(*headers, b"X-Hearth-Key: hk_invoke")
            assert (reply.status, reply.headers["x-hearth-version"]) == (200, version)
        for headers in ([b"X-Hearth-Alias: gamma"], [b"X-Hearth-Version: 9"], [b"X-Hearth-Version: 1x"]):
            assert (await ask(*headers, KEY)).status == 404


async def test_what_a_function_may_not_say_is_removed() -> None:
    head = (
        b"200\ncontent-type:text/html\nservice-worker-allowed:/\nclear-site-data:*\nalt-svc:h3\n"
        b"strict-transport-security:max-age=1\nx-hearth-error:fake\nx-hearth-version:99\nserver-timing:x\n"
        b"connection:x-mine\nx-mine:1\ntransfer-encoding:chunked\ndate:never\nx-kept:yes\n"
        b"content-security-policy:default-src 'self'"
    )
    async with shard(lambda call: call.respond(head, b"<p>")) as front:
        for _ in range(2):
            reply = await front.ask(get("hello"))
            names = [name.lower() for name, _ in reply.raw_headers]
            policies = [value for name, value in reply.raw_headers if name == "content-security-policy"]
            assert policies == [
                "default-src 'self'",
                "sandbox allow-scripts allow-forms allow-popups allow-downloads",
            ]
            assert reply.headers["x-hearth-version"] == "1"
            assert reply.headers["x-kept"] == "yes"
            assert reply.headers["date"] != "never"
            assert names.count("date") == names.count("server-timing") == names.count("content-length") == 1
            assert not set(names) & {
                "service-worker-allowed",
                "clear-site-data",
                "alt-svc",
                "strict-transport-security",
                "x-hearth-error",
                "x-mine",
                "connection",
            }


async def test_cookies_reach_their_own_function_only() -> None:
    head = (
        b"200\nset-cookie:a=1; Path=/; Domain=example.org; HttpOnly\nset-cookie:b=2\nset-cookie:c=3; path=/fn/ann/hello/x\n"
        b"set-cookie:d=4; Path=/fn/ann/hello/../../..\nset-cookie:hearth_session=evil\nset-cookie:__Host-x=1; Path=/; Secure\n"
        b"set-cookie:e=5; Path=/fn/ann/hello2"
    )
    async with shard(lambda call: call.respond(head, b"")) as front:
        reply = await front.ask(get("hello"))
        assert [value for name, value in reply.raw_headers if name == "set-cookie"] == [
            "a=1; HttpOnly; Path=/fn/ann/hello",
            "b=2; Path=/fn/ann/hello",
            "c=3; Path=/fn/ann/hello/x",
            "d=4; Path=/fn/ann/hello",
            "e=5; Path=/fn/ann/hello",
        ]


async def test_forwarded_headers_are_believed_from_trusted_proxies_only() -> None:
    headers = [
        b"X-Forwarded-For: 6.6.6.6, 203.0.113.9, 127.0.0.2",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: pub.example",
    ]
    async with shard(reflect) as front:
        told = json.loads((await front.ask(get("hello", *headers))).body)
        assert told["parts"][6:8] == ["127.0.0.1", "http"]
        assert dict(told["headers"])["x-forwarded-for"] == "127.0.0.1"
        assert dict(told["headers"])["x-forwarded-host"] == "a"
    async with shard(reflect, trusted_proxies=("127.0.0.0/8",)) as front:
        told = json.loads((await front.ask(get("hello", *headers))).body)
        assert told["parts"][6:8] == ["203.0.113.9", "https"]
        assert dict(told["headers"])["x-forwarded-for"] == "6.6.6.6, 203.0.113.9, 127.0.0.2, 127.0.0.1"
        assert dict(told["headers"])["x-forwarded-host"] == "pub.example"


@pytest.mark.parametrize(
    "path", [b"/fn", b"/fn/", b"/fn/ann", b"/fn/ann/", b"/fn/ann//x", b"/fn/../etc", b"/fn/ann/h%65llo"]
)
async def test_paths_that_are_no_functions(path: bytes) -> None:
    async with shard(echo) as front:
        reply = await front.ask(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert reply.status == 404


async def test_a_query_right_after_the_name() -> None:
    async with shard(reflect) as front:
        reply = await front.ask(get("hello?a=/x/y"))
        assert json.loads(reply.body)["parts"][3] == "/?a=/x/y"


@pytest.mark.parametrize(
    ("error", "status", "plain"),
    [
        (FunctionFailed("ZeroDivisionError: secret"), 502, "the function raised an error"),
        (FunctionBadResponse("its status is 42"), 502, "the function's answer makes no sense"),
    ],
)
async def test_a_functions_own_error_is_told_to_members_and_hidden_from_others(
    error: HearthError, status: int, plain: str
) -> None:
    detail = {"type": "ZeroDivisionError", "message": "secret", "traceback": "Traceback: secret line"}

    def fail(call: FakeCall) -> None:
        call.fail(type(error)(error.message), dict(detail))

    async with shard(fail) as front:
        reply = await front.ask(get("hello"))
        assert reply.status == status
        assert b"secret" not in reply.body
        told = json.loads(reply.body)["error"]
        assert (told["message"], told["source"]) == (plain, "function")
        assert reply.headers["x-hearth-error"] == told["code"] == error.code
        assert told["request_id"] == reply.headers["x-request-id"]
        assert reply.headers["x-hearth-version"] == "1"
        assert [name for name, _ in reply.raw_headers].count("date") == 1
        told = json.loads((await front.ask(get("hello", KEY))).body)["error"]
        assert "details" not in told or "traceback" not in told["details"], "a key that invokes may not read"
        told = json.loads((await front.ask(get("hello", AS_MEMBER))).body)["error"]
        assert (told["message"], told["details"]["traceback"]) == (error.message, detail["traceback"])
        assert len(front.pool.instances) == 1  # it lives on


async def test_a_crash_is_explained_and_the_next_call_has_a_new_instance() -> None:
    async with shard(None, route_row("hello", auth="members", memory=64 << 20)) as front:
        asking = asyncio.create_task(front.ask(get("hello", MEMBER)))
        guest = await first_guest(front)
        await next_call(guest, 0)
        (handle,) = front.driver.running
        front.driver.end(handle, Exit(None, 9, oom=True))
        guest.die()
        reply = await asking
        assert (reply.status, code(reply)) == (502, "function_crashed")
        assert "64MiB" in json.loads(reply.body)["error"]["message"]
        asking = asyncio.create_task(front.ask(get("hello", MEMBER)))
        await until(lambda: len(front.guests.opened) == 2)
        (await next_call(front.guests.opened[1], 0)).respond(b"200", b"again")
        assert (await asking).body == b"again"
        await until(lambda: len(front.pool.instances) == 1)


async def test_a_function_that_does_not_load_is_told_at_once_and_not_tried_for_every_request() -> None:
    error = FunctionLoadFailed("ImportError: nope", details={"traceback": "Traceback"})
    async with shard(
        None, route_row("hello", auth="members"), make_guest=lambda fd: FakeGuest(ready=error)
    ) as front:
        replies = await asyncio.gather(*(front.ask(get("hello", MEMBER)) for _ in range(10)))
        assert {(reply.status, code(reply)) for reply in replies} == {(502, "function_load_failed")}
        started = len(front.driver.sandboxes)
        assert started <= 4
        assert (await front.ask(get("hello", MEMBER))).status == 502
        assert len(front.driver.sandboxes) == started
        await until(lambda: not front.driver.running)


async def test_no_capacity_is_503_with_advice_when_to_come_back() -> None:
    async with shard(echo) as front:
        front.driver.script.start.extend([NoCapacity("the node is full", retry_after=2)] * 8)
        reply = await front.ask(get("hello"))
        assert (reply.status, code(reply), reply.headers["retry-after"]) == (503, "no_capacity", "2")


async def test_a_full_queue_is_429() -> None:
    scale = Scale(max=1, queue=2)
    async with shard(None, route_row("hello", scale=scale)) as front:
        asking = [asyncio.create_task(front.ask(get("hello")))]
        guest = await first_guest(front)
        await next_call(guest, 0)
        asking += [asyncio.create_task(front.ask(get("hello"))) for _ in range(2)]
        await until(lambda: front.pool.waiting == 2)
        reply = await front.ask(get("hello"))
        assert (reply.status, code(reply)) == (429, "queue_full")
        assert int(reply.headers["retry-after"]) >= 1
        for number in range(3):
            (await next_call(guest, number)).respond(b"200", b"%d" % number)
        assert [(await task).body for task in asking] == [b"0", b"1", b"2"]


async def test_who_leaves_the_queue_makes_room() -> None:
    async with shard(None, route_row("hello", scale=Scale(max=1, queue=1))) as front:
        first = asyncio.create_task(front.ask(get("hello")))
        guest = await first_guest(front)
        call = await next_call(guest, 0)
        waiting = await front.client()
        await waiting.send(get("hello"))
        await until(lambda: front.pool.waiting == 1)
        await waiting.close()
        await until(lambda: front.pool.waiting == 0)
        call.respond(b"200", b"")
        await first
        assert len(guest.seen) == 1


async def test_a_timeout_kills_an_instance_that_serves_one_at_a_time() -> None:
    async with shard(None, route_row("hello", timeout=0.2)) as front:
        asking = asyncio.create_task(front.ask(get("hello")))
        guest = await first_guest(front)
        call = await next_call(guest, 0)
        reply = await asking
        assert (reply.status, code(reply)) == (504, "function_timeout")
        assert call.cancelled == "timeout"
        await until(lambda: guest.closed and not front.driver.running)
        asking = asyncio.create_task(front.ask(get("hello")))
        await until(lambda: len(front.guests.opened) == 2)
        (await next_call(front.guests.opened[1], 0)).respond(b"200", b"")
        assert (await asking).status == 200


async def test_a_timeout_among_others_lets_them_finish_first() -> None:
    async with shard(None, route_row("hello", timeout=0.3, concurrency=4)) as front:
        slow = asyncio.create_task(front.ask(get("hello")))
        guest = await first_guest(front)
        await next_call(guest, 0)
        streaming = await front.client()
        await streaming.send(get("hello"))
        other = await next_call(guest, 1)
        other.respond(b"200", b"begun", end=False)
        assert (await slow).status == 504
        assert not guest.closed
        asking = asyncio.create_task(front.ask(get("hello")))
        await until(lambda: len(front.guests.opened) == 2)  # the first takes no new requests
        (await next_call(front.guests.opened[1], 0)).respond(b"200", b"")
        assert (await asking).status == 200
        other.send_body(b" and done", end=True)
        assert (await streaming.reply()).body == b"begun and done"
        await until(lambda: guest.closed)
        await streaming.close()


async def test_an_abandoned_request_that_never_ends_costs_its_instance_at_the_deadline() -> None:
    async with shard(None, route_row("hello", timeout=0.3)) as front:
        client = await front.client()
        await client.send(get("hello"))
        guest = await first_guest(front)
        call = await next_call(guest, 0)
        await client.close()
        await until(lambda: call.cancelled == "client_gone")
        assert not guest.closed
        await until(lambda: guest.closed)
        assert not front.door.shared.abandoned


async def test_a_stream_that_dies_is_cut_and_not_ended() -> None:
    async with shard(None) as front:
        client = await front.client()
        await client.send(get("hello"))
        guest = await first_guest(front)
        call = await next_call(guest, 0)
        call.respond(b"200", b"part", end=False)
        await client.head()
        guest.die(FunctionCrashed("gone"))
        assert b"0\r\n\r\n" not in await client.eof()
        await client.close()


async def test_every_kind_of_end_is_recorded() -> None:
    answers = iter([b"200", b"500"])
    async with shard(lambda call: call.respond(next(answers), b"")) as front:
        await front.ask(get("hello"))
        await front.ask(get("hello"))
        await front.ask(get("none"))
        await front.recorder.flush()
        rows = front.rows.invocations
        assert [(row.status, row.http_status, row.cold) for row in rows] == [
            ("succeeded", 200, True),
            ("failed", 500, False),
        ]
        figures = front.recorder.figures()["fn_hello"]
        assert (figures.calls, figures.failed, figures.cold) == (2, 1, 1)


async def test_a_member_may_have_a_call_kept() -> None:
    async with shard(echo, route_row("hello", concurrency=1)) as front:
        for _ in range(200):
            await front.ask(get("hello"))
        await front.recorder.flush()
        before = len(front.rows.invocations)
        for headers in ([b"X-Hearth-Trace: 1"], [KEY, b"X-Hearth-Trace: 1"], [KEY]):
            sampler = front.recorder._functions["fn_hello"][1]
            sampler.left, sampler.look, sampler.second_ends = 0, math.inf, math.inf
            await front.ask(get("hello", *headers, b"X-Request-Id: " + str(len(headers)).encode()))
        await front.recorder.flush()
        assert "2" in [
            row.request_id for row in front.rows.invocations[before:]
        ]  # a slow one may be kept beside it


async def test_a_hundred_at_once_to_a_cold_function_all_succeed() -> None:
    async def answer(call: FakeCall) -> None:
        await asyncio.sleep(0.005)
        call.respond(b"200", b"ok")

    tasks: set[asyncio.Task[None]] = set()

    def later(call: FakeCall) -> None:
        task = asyncio.get_running_loop().create_task(answer(call))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async with shard(later) as front:
        replies = await asyncio.gather(*(front.ask(get("hello")) for _ in range(100)))
        assert {reply.status for reply in replies} == {200}
        assert 1 <= len(front.driver.sandboxes) <= 10


async def test_a_new_version_takes_over_and_the_old_one_finishes() -> None:
    async with shard(None) as front:
        client = await front.client()
        await client.send(get("hello"))
        old = await first_guest(front)
        call = await next_call(old, 0)
        await front.put(route_row("hello", 2))
        asking = asyncio.create_task(front.ask(get("hello")))
        await until(lambda: len(front.guests.opened) == 2)
        (await next_call(front.guests.opened[1], 0)).respond(b"200", b"new")
        reply = await asking
        assert (reply.headers["x-hearth-version"], reply.body) == ("2", b"new")
        assert not old.closed
        call.respond(b"200", b"old")
        reply = await client.reply()
        assert (reply.headers["x-hearth-version"], reply.body) == ("1", b"old")
        await until(lambda: old.closed)
        await client.close()


async def test_a_deleted_function_is_gone() -> None:
    async with shard(echo) as front:
        assert (await front.ask(get("hello"))).status == 200
        del front.rows.rows["fn_hello"]
        front.rows.events.append(Event(1, "route", "fn_hello", 0))
        await front.routes.follow()
        assert (await front.ask(get("hello"))).status == 404
        await until(lambda: not front.driver.running)
