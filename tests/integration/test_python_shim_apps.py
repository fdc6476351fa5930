"""ASGI and WSGI applications in a real Python shim."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.python_shim import function, refused
from tests.integration.shim_host import BODY, CANCEL, DRAIN, END, Answer, frame, request, window

HEADERS = (
    "host:fn.test:8080",
    "content-type:text/plain",
    "x-a:1",
    "x-a:2",
    "cookie:a=1",
    "cookie:b=2",
    "x_evil:1",
)


def asgi(body: str) -> str:
    lines = "\n".join("    " + line for line in body.strip("\n").split("\n"))
    return f"""
import asyncio, json
async def answer(send, body, status=200, headers=()):
    await send({{"type": "http.response.start", "status": status, "headers": headers}})
    await send({{"type": "http.response.body", "body": body}})
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("no lifespan here")
{lines}
"""


def test_asgi_scope(tmp_path: Path) -> None:
    body = """
scope["headers"] = [[n.decode(), v.decode("latin-1")] for n, v in scope["headers"]]
scope["raw_path"], scope["query_string"] = scope["raw_path"].decode(), scope["query_string"].decode()
await answer(send, json.dumps(scope).encode(), 201, [(b"X-Upper", b" v "), (b"set-cookie", b"a"), (b"set-cookie", b"b")])
"""
    with function(tmp_path, asgi(body)) as host:
        assert host.ready == {"handler": "handler.app", "shape": "asgi"}  # type: ignore[attr-defined]
        answer = host.call(
            1, target="/a%20b/%C3%A9?x=%20", prefix="/fn/ann/hello", headers=HEADERS, caller="key:k"
        )
    assert answer.status == 201
    assert answer.headers == [("x-upper", "v"), ("set-cookie", "a"), ("set-cookie", "b")]
    assert answer.json == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "https",
        "path": "/fn/ann/hello/a b/é",
        "raw_path": "/fn/ann/hello/a%20b/%C3%A9",
        "query_string": "x=%20",
        "root_path": "/fn/ann/hello",
        "headers": [line.split(":", 1) for line in HEADERS],
        "client": ["203.0.113.9", 0],
        "server": ["fn.test", 8080],
        "state": {},
        "extensions": {},
        "hearth.caller": "key:k",
    }


def test_asgi_body_comes_in_parts_and_gives_credit(tmp_path: Path) -> None:
    body = """
size, messages = 0, 0
while True:
    message = await receive()
    size, messages = size + len(message["body"]), messages + 1
    if not message["more_body"]:
        break
await answer(send, f"{size} {messages > 10}".encode())
"""
    with function(tmp_path, asgi(body)) as host:
        answer = host.answers.setdefault(1, Answer())
        host.send(request(1, b"", end=False))
        sent, total = 0, 20_000_000
        while sent < total:
            host.until(lambda: 262144 + answer.granted > sent)  # noqa: B023
            part = min(100_000, 262144 + answer.granted - sent, total - sent)
            sent += part
            host.send(frame(BODY, 1, b"x" * part, END if sent == total else 0))
        assert host.answer(1).body == b"20000000 True"
        assert answer.granted <= total


def test_asgi_that_does_not_read_holds_the_sender(tmp_path: Path) -> None:
    body = """
await receive()
await asyncio.sleep(0.1)
await answer(send, b"enough")
"""
    with function(tmp_path, asgi(body)) as host:
        host.send(request(1, b"x" * 200_000, end=False), frame(BODY, 1, b"x" * 62_144))
        answer = host.answer(1)
        assert answer.body == b"enough" and answer.granted <= 200_000
        host.send(frame(BODY, 1, b"", END))
        assert host.call(2, b"").body == b"enough"


def test_asgi_streams_within_credit(tmp_path: Path) -> None:
    body = """
await send({"type": "http.response.start", "status": 200, "headers": []})
for _ in range(300):
    await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
await send({"type": "http.response.body"})
"""
    with function(tmp_path, asgi(body)) as host:
        answer = host.answers.setdefault(1, Answer())
        host.send(request(1))
        host.until(lambda: len(answer.body) == 262144)
        got = 0
        while not answer.ended:
            host.until(lambda: answer.ended or answer.body)
            got += len(answer.body)
            host.send(window(1, len(answer.body)))
            answer.body = b""
        assert got == 30_000_000


def test_asgi_hears_of_a_caller_that_left(tmp_path: Path) -> None:
    body = """
await receive()
print("started")
print((await receive())["type"])
try:
    await answer(send, b"nobody reads this")
except OSError as error:
    print(type(error).__name__)
"""
    with function(tmp_path, asgi(body)) as host:
        host.send(request(1))
        host.log_lines(1)
        host.send(frame(CANCEL, 1, b'{"reason":"client_gone"}'))
        assert [log["text"] for log in host.log_lines(3)] == ["started", "http.disconnect", "Disconnected"]
        assert host.answer(1).cancelled


def test_asgi_out_of_time_is_cancelled(tmp_path: Path) -> None:
    body = "print('started')\ntry:\n    await asyncio.sleep(60)\nfinally:\n    print('stopped')"
    with function(tmp_path, asgi(body)) as host:
        host.send(request(1))
        host.log_lines(1)
        host.send(frame(CANCEL, 1, b'{"reason":"timeout"}'))
        assert host.answer(1).cancelled
        assert [log["text"] for log in host.logs] == ["started", "stopped"]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ("pass", "BadResponse", 0),
        ("await send({'type': 'http.response.start', 'status': 200})", "BadResponse", 0),
        ("await send({'type': 'http.response.body'})", "RuntimeError", 0),
        ("await answer(send, b''); await answer(send, b'')", "", 200),
        ("await send({'type': 'nonsense'})", "RuntimeError", 0),
        ("raise ValueError('no')", "ValueError", 0),
        ("raise SystemExit(1)", "SystemExit", 0),
        ("await answer(send, b'', headers=[(b'a', b'x\\r\\ny: z')])", "BadResponse", 0),
        ("await send({'type': 'http.response.start', 'status': 200}); await send({'type': 'http.response.body', "
         "'body': b'x', 'more_body': True}); raise ValueError('late')", "ValueError", 200),
        ("await answer(send, b'fine'); raise ValueError('afterwards')", "", 200),
    ],
)  # fmt: skip
def test_asgi_mistakes(body: str, kind: str, status: int, tmp_path: Path) -> None:
    with function(tmp_path, asgi(body)) as host:
        answer = host.call(1)
        assert (answer.status, (answer.error or {"type": ""})["type"]) == (status, kind)
        assert host.call(2).status == status


def test_asgi_lifespan(tmp_path: Path) -> None:
    source = """
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                print(message["type"])
                if message["type"] == "lifespan.startup":
                    scope["state"]["n"] = 7
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": str(scope["state"]["n"]).encode()})
    """
    with function(tmp_path, source) as host:
        assert host.call(1).body == b"7"
        host.send(frame(DRAIN, 0))
        assert host.gone() == 0
        assert [log["text"] for log in host.logs] == ["lifespan.startup", "lifespan.shutdown"]


@pytest.mark.parametrize(
    ("fails", "kind"),
    [
        ("await send({'type': 'lifespan.startup.failed', 'message': 'no database'})", "StartupFailed"),
        ("raise SystemExit(2)", "SystemExit"),
    ],
)
def test_asgi_startup_that_fails(fails: str, kind: str, tmp_path: Path) -> None:
    source = f"""
    async def app(scope, receive, send):
        await receive()
        {fails}
    """
    said = refused(tmp_path, source)
    assert said["type"] == kind
    assert kind != "StartupFailed" or said["message"] == "no database"


WSGI_ENVIRON = """
import json
def app(environ, start_response):
    environ["body"] = environ["wsgi.input"].read().decode()
    told = {k: v for k, v in environ.items() if isinstance(v, (str, bool)) or k == "wsgi.version"}
    start_response("200 OK", [("Content-Type", "application/json"), ("X-A", "1"), ("X-A", "2")])
    return [json.dumps(told).encode()]
"""


@pytest.mark.parametrize("concurrency", [1, 4])
def test_wsgi_environ(concurrency: int, tmp_path: Path) -> None:
    with function(tmp_path, WSGI_ENVIRON, concurrency=concurrency) as host:
        assert host.ready == {"handler": "handler.app", "shape": "wsgi"}  # type: ignore[attr-defined]
        answer = host.call(1, b"hello", target="/a%20b/%C3%A9?x=%20", headers=HEADERS, caller="key:k")
    assert answer.headers == [("content-type", "application/json"), ("x-a", "1"), ("x-a", "2")]
    assert answer.json == {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "/fn/ann/hello",
        "PATH_INFO": "/a b/\u00c3\u00a9",
        "RAW_URI": "/fn/ann/hello/a%20b/%C3%A9?x=%20",
        "QUERY_STRING": "x=%20",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "fn.test",
        "SERVER_PORT": "8080",
        "REMOTE_ADDR": "203.0.113.9",
        "REMOTE_USER": "key:k",
        "CONTENT_TYPE": "text/plain",
        "HTTP_HOST": "fn.test:8080",
        "HTTP_X_A": "1,2",
        "HTTP_COOKIE": "a=1; b=2",
        "wsgi.version": [1, 0],
        "wsgi.url_scheme": "https",
        "wsgi.input_terminated": True,
        "wsgi.multithread": concurrency > 1,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "hearth.invocation": "inv_1",
        "body": "hello",
    }


@pytest.mark.parametrize("concurrency", [1, 4])
def test_wsgi_input(concurrency: int, tmp_path: Path) -> None:
    source = """
    def app(environ, start_response):
        read = environ["wsgi.input"]
        got = [read.read(3), read.readline(), read.readline(2), read.readline(100), read.read(0)]
        got += [next(iter(read)), *read.readlines(), read.read(), read.readline(), read.read(5)]
        start_response("200 OK", [])
        return [b"|".join(got)]
    """
    with function(tmp_path, source, concurrency=concurrency) as host:
        host.send(request(1, b"ab", end=False))
        for part in (b"cdef\ngh", b"ij\n", b"k", b"l\nm\n", b"n"):
            host.send(frame(BODY, 1, part))
        host.send(frame(BODY, 1, b"", END))
        assert host.answer(1).body == b"abc|def\n|gh|ij\n||kl\n|m\n|n|||"


@pytest.mark.parametrize("concurrency", [1, 4])
def test_wsgi_large_upload_and_stream(concurrency: int, tmp_path: Path) -> None:
    source = """
    class Items:
        def __init__(self, read): self.read = read
        def __iter__(self):
            while data := self.read.read(50_000):
                yield data
        def close(self): print("closed")
    def app(environ, start_response):
        start_response("200 OK", [("content-type", "application/octet-stream")])
        return Items(environ["wsgi.input"])
    """
    with function(tmp_path, source, concurrency=concurrency) as host:
        answer = host.answers.setdefault(1, Answer())
        host.send(request(1, b"", end=False))
        sent = got = 0
        total = 5_000_000
        while not answer.ended:
            part = min(100_000, 262144 + answer.granted - sent, total - sent)
            if part > 0:
                sent += part
                host.send(frame(BODY, 1, b"x" * part, END if sent == total else 0))
            used = sent - 262144  # of what was granted beyond the first window
            host.until(lambda: answer.ended or answer.body or (sent < total and answer.granted > used))  # noqa: B023
            if answer.body:
                got += len(answer.body)
                host.send(window(1, len(answer.body)))
                answer.body = b""
        assert got + len(answer.body) == total
        assert host.log_lines(1)[0]["text"] == "closed"


@pytest.mark.parametrize(
    ("body", "kind", "status", "sent"),
    [
        ("return [b'']", "BadResponse", 0, b""),
        ("return []", "BadResponse", 0, b""),
        ("start('200 OK', []); return ['text']", "BadResponse", 0, b""),
        ("start('OK', []); return []", "BadResponse", 0, b""),
        ("start('200 OK', [('a', 'x\\r\\ny')]); return []", "BadResponse", 0, b""),
        ("start('200 OK', []); start('200 OK', []); return []", "AssertionError", 0, b""),
        ("raise ValueError('no')", "ValueError", 0, b""),
        ("start('204 No Content', []); return []", "", 204, b""),
        ("write = start('200 OK', []); write(b'a'); write(b'b'); return [b'c']", "", 200, b"abc"),
        ("start('200 OK', []); yield b'a'; yield b''; yield b'b'", "", 200, b"ab"),
        ("start('200 OK', []); yield b'a'; raise ValueError('late')", "ValueError", 200, b"a"),
        ("start('200 OK', [])\n    try: 1/0\n    except ZeroDivisionError: start('500 E', [], sys.exc_info())\n    return [b'x']", "", 500, b"x"),
        ("start('200 OK', [('Connection', 'close'), ('Content-Length', '1')]); return [b'x']", "", 200, b"x"),
    ],
)  # fmt: skip
def test_wsgi_answers(body: str, kind: str, status: int, sent: bytes, tmp_path: Path) -> None:
    with function(
        tmp_path, f"import sys\ndef app(environ, start_response):\n    start = start_response\n    {body}\n"
    ) as host:
        answer = host.call(1)
        assert (answer.status, answer.body, (answer.error or {"type": ""})["type"]) == (status, sent, kind)
        assert host.call(2).status == status


@pytest.mark.parametrize("concurrency", [1, 4])
def test_wsgi_whose_caller_left(concurrency: int, tmp_path: Path) -> None:
    source = """
    def app(environ, start_response):
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 1000
        finally:
            print("closed")
    """
    with function(tmp_path, source, concurrency=concurrency) as host:
        host.send(request(1))
        host.until(lambda: 1 in host.answers and len(host.answers[1].body) > 100_000)
        host.send(frame(CANCEL, 1, b'{"reason":"client_gone"}'))
        assert host.log_lines(1)[0]["text"] == "closed"
        assert host.answer(1).cancelled


@pytest.mark.parametrize("concurrency", [1, 4])
def test_wsgi_whose_caller_left_while_it_read(concurrency: int, tmp_path: Path) -> None:
    source = """
    def app(environ, start_response):
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            print(type(error).__name__)
            raise
    """
    with function(tmp_path, source, concurrency=concurrency) as host:
        host.send(request(1, b"x", end=False), frame(CANCEL, 1, b'{"reason":"client_gone"}'))
        assert host.answer(1).cancelled
        assert [log["text"] for log in host.logs] in (["Disconnected"], [])  # it may not have begun
