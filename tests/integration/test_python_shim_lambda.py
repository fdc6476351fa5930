"""Lambda-shaped Python handlers in a real shim: events, answers, errors, streams, cancellation."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.integration.python_shim import function
from tests.integration.shim_host import BODY, CANCEL, DRAIN, END, WINDOW, Answer, frame, request, window

ENGINES = [1, 4]  # the serial loop, the threaded one
EARLY = 4  # of the shim: answers that leave before the others are made


@pytest.fixture(params=["serial", "threads", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def settings(kind: str) -> dict[str, Any]:
    return {"concurrency": 1 if kind == "serial" else 4}


def handler(kind: str, body: str, before: str = "") -> str:
    lines = "\n".join("    " + line for line in body.strip("\n").split("\n"))
    word = "async def" if kind == "async" else "def"
    return f"{before}\n{word} handler(event, context):\n{lines}\n"


def test_the_event(tmp_path: Path) -> None:
    headers = (
        "host:hello--ann.example.com:8443",
        "user-agent:curl/8",
        "content-type:application/json",
        "x-a:1",
        "x-a:2",
        "cookie:a=1; b=2",
    )
    with function(tmp_path, "def handler(event, context): return event") as host:
        event = host.call(
            1, b'{"x": 1}', target="/a%2Fb/c?q=1&q=2&e=&p=a%20b+c", headers=headers, caller="user:usr_1"
        ).json
        bare = host.call(2, method="GET", target="/", headers=()).json
        binary = host.call(3, b"\xff\x00", headers=("content-type:image/png",)).json
        broken = host.call(4, b"\xff", headers=("content-type:text/plain",)).json
        time = event["requestContext"].pop("time")
        epoch = event["requestContext"].pop("timeEpoch")
    assert event == {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/a%2Fb/c",
        "rawQueryString": "q=1&q=2&e=&p=a%20b+c",
        "cookies": ["a=1", "b=2"],
        "headers": {
            "host": "hello--ann.example.com:8443",
            "user-agent": "curl/8",
            "content-type": "application/json",
            "x-a": "1,2",
        },
        "queryStringParameters": {"q": "1,2", "e": "", "p": "a b c"},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "hello",
            "authorizer": {"hearth": {"caller": "user:usr_1"}},
            "domainName": "hello--ann.example.com",
            "domainPrefix": "hello--ann",
            "http": {
                "method": "POST",
                "path": "/a%2Fb/c",
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.9",
                "userAgent": "curl/8",
            },
            "requestId": "inv_1",
            "routeKey": "$default",
            "stage": "$default",
        },
        "body": '{"x": 1}',
        "isBase64Encoded": False,
    }
    assert time.endswith("+0000") and isinstance(epoch, int)
    assert {"body", "cookies", "queryStringParameters"}.isdisjoint(bare)
    assert (binary["body"], binary["isBase64Encoded"]) == ("/wA=", True)
    assert (broken["body"], broken["isBase64Encoded"]) == ("/w==", True)


def test_an_event_is_the_handlers_own(tmp_path: Path) -> None:
    source = """
    def handler(event, context):
        seen = dict(event["headers"]), dict(event["queryStringParameters"]), list(event["cookies"])
        event["headers"].clear(), event["queryStringParameters"].clear(), event["cookies"].clear()
        return seen
    """
    with function(tmp_path, source) as host:
        for number in (1, 2):
            answer = host.call(number, target="/?a=1", headers=("cookie:a=1", "x-b:2"))
            assert answer.json == [{"x-b": "2"}, {"a": "1"}, ["a=1"]]


def test_the_context(tmp_path: Path) -> None:
    source = """
    def handler(event, context):
        return [context.aws_request_id, context.function_name, context.function_version,
                context.memory_limit_in_mb, context.invoked_function_arn, context.get_remaining_time_in_millis()]
    """
    with function(tmp_path, source) as host:
        *names, left = host.call(1, inv="inv_abc", deadline_ms=5000).json
        assert names == ["inv_abc", "hello", "3", "256", "hearth:ann/hello:3"]
        assert 3000 < left <= 5000
        assert host.call(2, deadline_ms=0).json[-1] == 0


ANSWERS: list[tuple[str, int, dict[str, str], bytes]] = [
    ("'text'", 200, {"content-type": "text/plain; charset=utf-8"}, b"text"),
    ("'h\\u00e9'", 200, {"content-type": "text/plain; charset=utf-8"}, "hé".encode()),
    ("'\\ud800'", 200, {"content-type": "text/plain; charset=utf-8"}, b"?"),
    ("b'\\x00\\xff'", 200, {"content-type": "application/octet-stream"}, b"\x00\xff"),
    ("bytearray(b'x')", 200, {"content-type": "application/octet-stream"}, b"x"),
    ("None", 200, {"content-type": "application/json"}, b"null"),
    ("{'a': [1, 2.5, True, None, 'h\\u00e9']}", 200, {"content-type": "application/json"}, '{"a": [1, 2.5, true, null, "hé"]}'.encode()),
    ("['\\ud800']", 200, {"content-type": "application/json"}, b'["\\ud800"]'),
    ("42", 200, {"content-type": "application/json"}, b"42"),
    ("{'statusCode': 404}", 404, {"content-type": "application/json"}, b""),
    ("{'statusCode': '201', 'body': 'x'}", 201, {"content-type": "application/json"}, b"x"),
    ("{'statusCode': 200, 'headers': {'Content-Type': 'text/html', 'X-N': 5, 'X-B': True}, 'body': '<p>'}", 200,
     {"content-type": "text/html", "x-n": "5", "x-b": "true"}, b"<p>"),
    ("{'statusCode': 200, 'body': '/wA=', 'isBase64Encoded': True}", 200, {"content-type": "application/json"}, b"\xff\x00"),
    ("{'statusCode': 200, 'body': {'a': 1}}", 200, {"content-type": "application/json"}, b'{"a": 1}'),
    ("{'statusCode': 200, 'body': b'raw'}", 200, {"content-type": "application/octet-stream"}, b"raw"),
    ("{'statusCode': 204, 'body': 'dropped'}", 204, {}, b""),
    ("{'statusCode': 200, 'headers': {'Content-Length': '99', 'Connection': 'close', 'x-none': None}}", 200,
     {"content-type": "application/json"}, b""),
]  # fmt: skip


@pytest.mark.parametrize("returned", ANSWERS, ids=lambda told: told[0][:60])
def test_answers(returned: tuple[str, int, dict[str, str], bytes], kind: str, tmp_path: Path) -> None:
    value, status, headers, body = returned
    with function(tmp_path, handler(kind, f"return {value}"), **settings(kind)) as host:
        answer = host.call(1)
        assert (answer.error, answer.status, dict(answer.headers), answer.body) == (
            None,
            status,
            headers,
            body,
        )


def test_repeated_headers_and_cookies(tmp_path: Path) -> None:
    value = "{'statusCode': 200, 'headers': {'x-a': ['1', '2']}, 'multiValueHeaders': {'X-B': [3]}, 'cookies': ['a=1', 'b=2']}"
    with function(tmp_path, f"def handler(event, context): return {value}") as host:
        assert host.call(1).headers == [
            ("x-a", "1"), ("x-a", "2"), ("x-b", "3"), ("set-cookie", "a=1"), ("set-cookie", "b=2"),
            ("content-type", "application/json"),
        ]  # fmt: skip


BAD = [
    "object()",
    "{1, 2}",
    "{'a': object()}",
    "float('nan')",
    "{(1, 2): 3}",
    "{'statusCode': 99}",
    "{'statusCode': 101}",
    "{'statusCode': 'ok'}",
    "{'statusCode': True}",
    "{'statusCode': None}",
    "{'statusCode': 200, 'headers': []}",
    "{'statusCode': 200, 'headers': {'bad name': '1'}}",
    "{'statusCode': 200, 'headers': {5: '1'}}",
    "{'statusCode': 200, 'headers': {'x': 'a\\r\\nset-cookie: b'}}",
    "{'statusCode': 200, 'headers': {'x': {}}}",
    "{'statusCode': 200, 'cookies': 'a=1'}",
    "{'statusCode': 200, 'body': 'not base64!', 'isBase64Encoded': True}",
    "{'statusCode': 200, 'body': '###', 'isBase64Encoded': True}",
    "{'statusCode': 200, 'body': object()}",
    "(lambda loop: loop.append(loop) or loop)([])",
]


def test_answers_that_make_no_sense(kind: str, tmp_path: Path) -> None:
    body = f"return eval({BAD!r}[int(event['rawQueryString'])])"
    with function(tmp_path, handler(kind, body), **settings(kind)) as host:
        for number, bad in enumerate(BAD):
            error = host.call(number + 1, target=f"/?{number}").error
            assert error is not None and error["type"] == "BadResponse", bad
            assert error["traceback"] == "" and len(error["message"]) > 10, bad


RAISES = {
    "raise ValueError('no')": ("ValueError", "no"),
    "raise SystemExit(3)": ("SystemExit", "the handler called sys.exit(3)"),
    "import sys; sys.exit()": ("SystemExit", "the handler called sys.exit(None)"),
    "raise KeyboardInterrupt": ("KeyboardInterrupt", ""),
    "raise BaseException('odd')": ("BaseException", "odd"),
    "return (lambda f: f(f))(lambda f: f(f))": ("RecursionError", "maximum recursion depth exceeded"),
    "raise MemoryError": ("MemoryError", ""),
    "import asyncio; raise asyncio.CancelledError": ("CancelledError", ""),
    "class E(Exception):\n    def __str__(self): raise ValueError\nraise E": ("E", ""),
    "exit(4)": ("SystemExit", "the handler called sys.exit(4)"),
}


def test_what_a_handler_raises(kind: str, tmp_path: Path) -> None:
    body = "\n".join(
        f"if event['rawQueryString'] == '{number}':\n" + "\n".join("    " + line for line in text.split("\n"))
        for number, text in enumerate(RAISES)
    )
    with function(tmp_path, handler(kind, body), **settings(kind)) as host:
        for number, (name, message) in enumerate(RAISES.values()):
            error = host.call(number + 1, target=f"/?{number}").error
            assert error is not None
            assert (error["type"], error["message"][:32]) == (name, message[:32])
        assert host.call(99).body == b"null"  # the instance goes on


def test_a_traceback_without_the_shim(kind: str, tmp_path: Path) -> None:
    files = {
        "handler.py": handler(kind, "return helper.work()", "import helper"),
        "helper.py": "def work():\n    try:\n        1 / 0\n    except ZeroDivisionError as e:\n        raise ValueError('x') from e\n",
    }
    with function(tmp_path, files, **settings(kind)) as host:
        error = host.call(1).error
        assert error is not None
        text = error["traceback"]
        host.log_lines(text.count("\n"))
    assert "hearth_shim" not in text and str(tmp_path) not in text
    assert 'File "handler.py", line 3, in handler' in text and 'File "helper.py", line 3, in work' in text
    assert [log["text"] for log in host.logs] == text.rstrip("\n").split("\n")
    assert {(log["inv"], log["level"], log["stream"]) for log in host.logs} == {("inv_1", "error", "stderr")}


def test_large_bodies_both_ways(kind: str, tmp_path: Path) -> None:
    body = "import base64\nreturn base64.b64decode(event['body'])[::-1]"
    data = os.urandom(3_000_000)
    with function(tmp_path, handler(kind, body), **settings(kind)) as host:
        answer = host.answers.setdefault(1, Answer())
        host.send(request(1, b"", end=False, headers=("content-type:image/png",)))
        sent = 0
        while sent < len(data):
            part = data[sent : sent + min(200_000, 262144 + answer.granted - sent)]
            sent += len(part)
            host.send(frame(BODY, 1, part, END if sent == len(data) else 0))
            if sent < len(data):
                host.until(lambda: 262144 + answer.granted > sent)  # noqa: B023
        while not answer.ended:
            before = len(answer.body)
            host.until(lambda: answer.ended or len(answer.body) > before)  # noqa: B023
            host.send(window(1, len(answer.body) - before))
        assert answer.body == data[::-1]


STREAMS = {
    "yield 'a'; yield 'b'": (200, "text/plain; charset=utf-8", b"ab"),
    "yield b'a'; yield 'b'": (200, "application/octet-stream", b"ab"),
    "yield {'statusCode': 201, 'headers': {'content-type': 'text/event-stream'}, 'body': '0'}; yield '1'": (
        201,
        "text/event-stream",
        b"01",
    ),
    "if False: yield": (200, "text/plain; charset=utf-8", b""),
}


@pytest.mark.parametrize("body", STREAMS)
def test_streams(body: str, kind: str, tmp_path: Path) -> None:
    with function(tmp_path, handler(kind, body), **settings(kind)) as host:
        answer = host.call(1)
        assert (answer.status, answer.header("content-type"), answer.body) == STREAMS[body]


def test_a_body_that_streams(kind: str, tmp_path: Path) -> None:
    body = "return {'statusCode': 202, 'headers': {'content-type': 'text/csv'}, 'body': (f'{n},' for n in range(3))}"
    with function(tmp_path, handler(kind, body), **settings(kind)) as host:
        answer = host.call(1)
        assert (answer.status, answer.header("content-type"), answer.body) == (202, "text/csv", b"0,1,2,")


def test_a_stream_that_fails_midway(kind: str, tmp_path: Path) -> None:
    body = "yield 'a'\nif event['rawQueryString']:\n    yield 5\nraise ValueError('late')"
    with function(tmp_path, handler(kind, body), **settings(kind)) as host:
        answer = host.call(1)
        assert (answer.status, answer.body) == (200, b"a") and answer.error is not None
        assert answer.error["type"] == "ValueError"
        answer = host.call(2, target="/?x")
        assert answer.error is not None and answer.error["type"] == "BadResponse"


def test_a_long_stream_waits_for_credit_and_grows_no_memory(kind: str, tmp_path: Path) -> None:
    # ru_maxrss would also tell of the process that started this one, and hide what is looked for
    before = "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) // 1024"
    body = "if event['rawQueryString']:\n    yield str(peak())\n    return\nfor _ in range(1000):\n    yield b'x' * 100_000"
    with function(tmp_path, handler(kind, body, before), **settings(kind)) as host:
        first = int(host.call(1, target="/?peak").body)
        answer = host.answers.setdefault(2, Answer())
        host.send(request(2))
        got = 0
        while not answer.ended:
            host.until(lambda: answer.ended or answer.body)
            got += len(answer.body)
            host.send(window(2, len(answer.body)))
            answer.body = b""
        assert got == 100_000_000
        assert int(host.call(3, target="/?peak").body) < first + 16


def test_cancel_stops_a_stream(kind: str, tmp_path: Path) -> None:
    body = "try:\n    while True:\n        yield b'x' * 1000\nfinally:\n    print('closed')"
    with function(tmp_path, handler(kind, body), **settings(kind)) as host:
        host.send(request(1))
        host.until(lambda: len(host.answers[1].body) >= 200_000 if 1 in host.answers else False)
        host.send(frame(CANCEL, 1, b'{"reason":"client_gone"}'))
        assert host.log_lines(1)[0]["text"] == "closed"
        assert host.answer(1).cancelled


def test_cancel_of_an_async_handler(tmp_path: Path) -> None:
    source = """
    import asyncio
    async def handler(event, context):
        print("started")
        try:
            await asyncio.sleep(60)
        finally:
            print("cancelled")
    """
    with function(tmp_path, source) as host:
        host.send(request(1))
        host.log_lines(1)
        host.send(frame(CANCEL, 1, b'{"reason":"timeout"}'))
        assert host.log_lines(2)[1]["text"] == "cancelled"
        assert host.answer(1).cancelled and host.answers[1].error is None


@pytest.mark.parametrize("concurrency", ENGINES)
def test_cancel_of_a_sync_handler_lets_it_run_on(concurrency: int, tmp_path: Path) -> None:
    source = """
    import time
    def handler(event, context):
        print("started")
        time.sleep(0.2)
        print("ended")
        return "late"
    """
    with function(tmp_path, source, concurrency=concurrency) as host:
        host.send(request(1))
        host.log_lines(1)
        host.send(frame(CANCEL, 1, b'{"reason":"client_gone"}'))
        answer = host.answer(1)
        assert host.logs[-1]["text"] == "ended"
        assert (answer.status, answer.cancelled) in {
            (0, True),
            (200, False),
        }  # the serial loop has not read it
        assert host.call(2).body == b"late"


def test_several_really_run_at_once(tmp_path: Path) -> None:
    source = """
    import threading
    together = threading.Barrier(4)
    def handler(event, context):
        together.wait(10)
        return threading.current_thread().name
    """
    with function(tmp_path, source, concurrency=4) as host:
        for round_ in range(3):
            streams = range(round_ * 4 + 1, round_ * 4 + 5)
            host.send(*(request(stream) for stream in streams))
            assert len({host.answer(stream).body for stream in streams}) == 4


def test_never_more_than_concurrency_at_once(tmp_path: Path) -> None:
    source = """
    import threading, time
    lock, now, most = threading.Lock(), 0, 0
    def handler(event, context):
        global now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.005)
        with lock:
            now -= 1
        return most
    """
    with function(tmp_path, source, concurrency=3) as host:
        host.send(*(request(stream) for stream in range(1, 61)))
        assert max(host.answer(stream).json for stream in range(1, 61)) == 3


def test_quick_answers_beside_slow_ones(tmp_path: Path) -> None:
    source = """
    import time
    def handler(event, context):
        if event["rawQueryString"]:
            time.sleep(0.3)
        return event["rawQueryString"]
    """
    with function(tmp_path, source, concurrency=4) as host:
        host.send(request(1, target="/?slow"), request(2), request(3, target="/?slow"), request(4))
        host.answer(4)
        host.answer(2)
        assert 1 not in host.answers and 3 not in host.answers
        assert host.answer(1).body == host.answer(3).body == b"slow"


def test_the_leader_pumps_when_no_thread_can_start(tmp_path: Path) -> None:
    source = """
    import threading
    real = threading.Thread.start
    def start(self):
        if self.name != "hearth-watchdog":
            raise RuntimeError("can't start new thread")
        real(self)
    threading.Thread.start = start
    def handler(event, context):
        return b"x" * 400_000
    """
    with function(tmp_path, source, concurrency=4) as host:
        host.send(request(1))
        host.until(lambda: 1 in host.answers and len(host.answers[1].body) == 262144)
        host.send(frame(WINDOW, 1, (200_000).to_bytes(4, "big")))
        assert len(host.answer(1).body) == 400_000


def test_drain_waits_for_all(kind: str, tmp_path: Path) -> None:
    before = "import atexit, asyncio, time\natexit.register(print, 'bye')"
    wait = "await asyncio.sleep(0.1)" if kind == "async" else "time.sleep(0.1)"
    with function(tmp_path, handler(kind, f"{wait}\nreturn 'done'", before), **settings(kind)) as host:
        host.send(request(1), frame(DRAIN, 0))
        assert host.answer(1).body == b"done"
        assert host.gone() == 0
        assert [log["text"] for log in host.logs] == ["bye"]


@pytest.mark.parametrize(
    ("source", "body"),
    [
        ("def handler(event): return event['rawPath']", b"/"),
        ("def handler(): return 'none'", b"none"),
        ("def handler(*args): return str(len(args))", b"2"),
        ("def handler(event, context, extra=5): return str(extra)", b"5"),
        ("class H:\n    def __call__(self, event, context): return 'object'\nhandler = H()", b"object"),
        ("class H:\n    async def __call__(self, event, context): return 'async object'\nhandler = H()", b"async object"),
        ("import functools\ndef f(x, event, context): return x\nhandler = functools.partial(f, 'partial')", b"partial"),
        ("async def f(event, context): return 'wrapped'\nhandler = lambda event, context: f(event, context)", b"wrapped"),
        ("from functools import wraps\ndef f(event, context): return 'x'\n@wraps(f)\ndef handler(*a, **k): return f(*a, **k)", b"x"),
    ],
)  # fmt: skip
def test_shapes_of_handlers(source: str, body: bytes, tmp_path: Path) -> None:
    with function(tmp_path, source, concurrency=1) as host:
        assert host.call(1).body == body


def test_json_dumps_of_event(tmp_path: Path) -> None:
    with function(tmp_path, "import json\ndef handler(event, context): return json.dumps(event)") as host:
        assert json.loads(host.call(1).body)["version"] == "2.0"


@pytest.mark.parametrize("kind", ["threads", "async"])
def test_answers_do_not_wait_for_every_request_that_came_with_theirs(kind: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    # The watchdog of the threaded loop would have another thread send what is made; here it sleeps.
    before = "from hearth_shim import threads\nthreads.TICK = 3600\n"
    source = handler(
        kind, f"if event['rawPath'] == '/last': open({str(gate)!r}).close()\nreturn 'done'", before
    )
    with function(tmp_path / "code", source, concurrency=16) as host:
        host.send(
            *(request(stream) for stream in range(1, EARLY + 1)), request(EARLY + 1, target="/last")
        )  # in one write
        for stream in range(1, EARLY + 1):
            assert host.answer(stream).body == b"done"
        with gate.open("w"):
            assert host.answer(EARLY + 1).body == b"done"
