"""The Node shim in a real process, over a real socket: shapes, errors, logs, credit, ends."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.shim_host import (
    DRAIN,
    INIT_ERROR,
    LOG_WINDOW,
    READY,
    Host,
    cancel,
    frame,
    request,
    run_session,
    shim,
    window,
    write_files,
)
from tests.toolchains import on_the_host

TOOLCHAIN = on_the_host("node")
SHIM = Path(__file__).parents[2] / "src/hearth/runtimes/shims/node/main.mjs"
VECTORS = json.loads((Path(__file__).parents[1] / "contract/guest_vectors.json").read_text())
pytestmark = pytest.mark.skipif(TOOLCHAIN is None, reason="no node on this machine")

ECHO = """export const handler = async (event) => ({
  statusCode: 200, headers: {'content-type': 'application/octet-stream'},
  body: event.body ?? '', isBase64Encoded: event.isBase64Encoded })"""
FETCH_ECHO = """export default { fetch: (request) =>
  new Response(request.body, {headers: {'content-type': 'application/octet-stream'}}) }"""


@contextmanager
def loaded(folder: Path, files: dict[str, str] | str, **more: Any) -> Iterator[Host]:
    write_files(folder, {"handler.mjs": files} if isinstance(files, str) else files)
    with shim([TOOLCHAIN.bin, str(SHIM)]) as host:
        kind, said = host.load(folder, **more)
        assert kind == READY, said
        host.ready = said
        yield host


def refused(folder: Path, files: dict[str, str], **more: Any) -> dict[str, Any]:
    write_files(folder, files)
    with shim([TOOLCHAIN.bin, str(SHIM)]) as host:
        kind, said = host.load(folder, **more)
        assert kind == INIT_ERROR
        assert host.gone() == 1
        return said


@pytest.mark.parametrize("echo", [ECHO, FETCH_ECHO], ids=["lambda", "fetch"])
@pytest.mark.parametrize("vector", VECTORS["guest_sessions"], ids=lambda vector: vector["name"])
def test_vectors(tmp_path: Path, vector: dict[str, Any], echo: str) -> None:
    with loaded(tmp_path, echo) as host:
        run_session(host, vector["steps"])


def test_hello_names_the_runtime(tmp_path: Path) -> None:
    with shim([TOOLCHAIN.bin, str(SHIM)]) as host:
        assert (host.hello["version"], host.hello["runtime"]) == (1, "node")
        assert host.hello["window"] == 262144


def test_event_and_context(tmp_path: Path) -> None:
    source = """export const handler = async (event, context) => ({event, context, cwd: process.cwd(),
      env: process.env.GREETING, left: context.getRemainingTimeInMillis()})"""
    with loaded(tmp_path, source) as host:
        headers = ("host:fn.test:81", "cookie:a=1; b=2", "x-a:1", "x-a:2", "content-type:application/json")
        told = host.call(
            1, b'{"k":1}', target="/o%20r?id=7&id=8&x=%26", headers=headers, caller="user:u1"
        ).json
    event = told["event"]
    assert (event["version"], event["rawPath"], event["rawQueryString"]) == (
        "2.0",
        "/o%20r",
        "id=7&id=8&x=%26",
    )
    assert event["queryStringParameters"] == {"id": "7,8", "x": "&"}
    assert event["cookies"] == ["a=1", "b=2"]
    assert event["headers"]["x-a"] == "1,2"
    assert event["headers"]["x-forwarded-prefix"] == "/fn/ann/hello"
    assert (event["body"], event["isBase64Encoded"]) == ('{"k":1}', False)
    assert event["requestContext"]["http"]["sourceIp"] == "203.0.113.9"
    assert event["requestContext"]["domainName"] == "fn.test"
    assert event["requestContext"]["authorizer"] == {"hearth": {"caller": "user:u1"}}
    assert told["context"]["awsRequestId"] == "inv_1"
    assert (told["context"]["functionName"], told["context"]["functionVersion"]) == ("hello", "3")
    assert told["context"]["memoryLimitInMB"] == "256"
    assert 5_000 < told["left"] <= 10_000
    assert (told["cwd"], told["env"]) == (str(tmp_path), "hei")


def test_a_body_that_is_no_text_comes_as_base64(tmp_path: Path) -> None:
    with loaded(tmp_path, "export const handler = async (e) => [e.body, e.isBase64Encoded]") as host:
        plain = ("content-type:text/plain",)
        assert host.call(1, b"\xff", headers=plain).json == [base64.b64encode(b"\xff").decode(), True]
        assert host.call(2, b"x", headers=()).json == ["eA==", True]
        assert host.call(3, b"x", headers=plain).json == ["x", False]


VALUES = [
    ("'text'", 200, "text/plain; charset=utf-8", b"text"),
    ("Buffer.from('by')", 200, "application/octet-stream", b"by"),
    ("({a: 'é'})", 200, "application/json", '{"a":"é"}'.encode()),
    ("[1]", 200, "application/json", b"[1]"),
    ("null", 200, "application/json", b"null"),
    ("undefined", 200, "application/json", b"null"),
    ("({statusCode: 201, body: 'x'})", 201, "application/json", b"x"),
    ("({statusCode: '418', body: {a: 1}})", 418, "application/json", b'{"a":1}'),
    ("({statusCode: 200, body: 'eHk=', isBase64Encoded: true})", 200, "application/json", b"xy"),
    ("({statusCode: 200, headers: {'Content-Type': 'a/b', 'content-length': 99}})", 200, "a/b", b""),
    (
        "({statusCode: 200, headers: {'content-type': 'a/b'}, body: ReadableStream.from(['o', 'k'])})",
        200,
        "a/b",
        b"ok",
    ),
    ("(function* () { yield 'a'; yield 'b' })()", 200, "text/plain; charset=utf-8", b"ab"),
    ("(async function* () { yield Buffer.from('a') })()", 200, "application/octet-stream", b"a"),
    ("(function* () { yield {statusCode: 202, body: 'h'}; yield 'i' })()", 202, "application/json", b"hi"),
    (
        "new Response('r', {status: 203, headers: {'content-type': 'text/html'}})",
        203,
        "text/html",
        b"r",
    ),
]


def test_what_returned_values_become(tmp_path: Path) -> None:
    cases = ",".join(f"() => {value}" for value, *_ in VALUES)
    source = (
        f"const cases = [{cases}]; export const handler = async (e) => cases[Number(e.rawPath.slice(1))]()"
    )
    with loaded(tmp_path, source) as host:
        for at, (value, status, content_type, body) in enumerate(VALUES):
            answer = host.call(at + 1, target=f"/{at}")
            assert (answer.status, answer.header("content-type"), answer.body) == (
                status,
                content_type,
                body,
            ), value
            assert answer.header("content-length") is None


NONSENSE = [
    "10n",
    "Symbol('x')",
    "(() => 1)",
    "({statusCode: 99})",
    "({statusCode: 'abc'})",
    "({statusCode: 200, headers: {'x-a': 'a\\r\\nset-cookie: b'}})",
    "({statusCode: 200, headers: {'x a': 'b'}})",
    "({statusCode: 200, headers: 7})",
    "({statusCode: 200, cookies: 'a=1'})",
    "({statusCode: 200, body: '###', isBase64Encoded: true})",
    "(function* () { yield 7 })()",
]


def test_values_that_are_no_answer(tmp_path: Path) -> None:
    source = f"const cases = [{','.join(NONSENSE)}]; export const handler = async (e) => cases[Number(e.rawPath.slice(1))]"
    with loaded(tmp_path, source) as host:
        for at, value in enumerate(NONSENSE):
            answer = host.call(at + 1, target=f"/{at}")
            assert answer.error is not None and answer.error["type"] == "BadResponse", value


def test_repeated_headers_and_cookies(tmp_path: Path) -> None:
    source = """export const handler = async () => ({statusCode: 200, cookies: ['a=1', 'b=2'],
      multiValueHeaders: {'X-M': ['1', 2]}, headers: {connection: 'close'}})"""
    with loaded(tmp_path, source) as host:
        headers = host.call(1).headers
    assert [pair for pair in headers if pair[0] != "content-type"] == [
        ("x-m", "1"),
        ("x-m", "2"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
    ]


def test_callbacks(tmp_path: Path) -> None:
    source = """exports.handler = (event, context, callback) => {
      if (event.rawPath === '/bad') setTimeout(() => callback(new TypeError('no')), 1)
      else setTimeout(() => callback(null, {statusCode: 202, body: 'later'}), 1) }"""
    with loaded(tmp_path, {"index.js": source}) as host:
        assert host.ready == {"handler": "index.handler", "shape": "lambda"}
        assert (host.call(1).status, host.answer(1).body) == (202, b"later")
        assert host.call(2, target="/bad").error["type"] == "TypeError"


@pytest.mark.parametrize(
    ("files", "handler", "found"),
    [
        ({"handler.js": "exports.handler = async () => 'x'"}, "", "handler.handler"),
        ({"handler.cjs": "module.exports = { handler: async () => 'x' }"}, "", "handler.handler"),
        ({"index.mjs": "export async function handler() { return 'x' }"}, "", "index.handler"),
        ({"src/a.mjs": "export const go = async () => 'x'"}, "src/a.go", "src/a.go"),
        ({"a.js": "exports.b = { c: () => 'x' }"}, "a.b.c", "a.b.c"),
        ({"a.mjs": "export const handler = () => 'x'"}, "a.mjs", "a.handler"),
        (
            {"package.json": '{"main": "lib/m"}', "lib/m.js": "exports.handler = () => 'x'"},
            "",
            "lib/m.handler",
        ),
        ({"handler.mjs": "export default { fetch: () => new Response('x') }"}, "", "handler.default"),
        ({"handler.mjs": "export default (request) => new Response('x')"}, "", "handler.default"),
        ({"handler.js": "module.exports = { fetch: () => new Response('x') }"}, "", "handler.default"),
        ({"app.mjs": "export default () => new Response('x')"}, "app.default", "app.default"),
    ],
)
def test_handlers_found(tmp_path: Path, files: dict[str, str], handler: str, found: str) -> None:
    with loaded(tmp_path, files, handler=handler) as host:
        assert host.ready["handler"] == found
        assert host.call(1).body == b"x"


def test_fetch_sees_the_request(tmp_path: Path) -> None:
    source = """export default { async fetch(request, context) { return Response.json({
      url: request.url, method: request.method, body: await request.text(),
      prefix: request.headers.get('x-forwarded-prefix'), id: context.awsRequestId }, {status: 201}) } }"""
    with loaded(tmp_path, source) as host:
        answer = host.call(1, b"hello", target="/a%20b?c=d", method="PUT")
    assert answer.status == 201
    assert answer.json == {
        "url": "https://fn.test/a%20b?c=d",
        "method": "PUT",
        "body": "hello",
        "prefix": "/fn/ann/hello",
        "id": "inv_1",
    }


def test_fetch_streams_both_ways(tmp_path: Path) -> None:
    source = """export default { fetch(request) { return new Response(request.body.pipeThrough(
      new TransformStream({ transform(chunk, out) { out.enqueue(Buffer.from(String(chunk).toUpperCase())) } }))) } }"""
    with loaded(tmp_path, source) as host:
        host.send(request(1, b"one", end=False))
        host.until(lambda: host.answers.get(1) and host.answers[1].body == b"ONE")
        host.send(frame(7, 1, b"two", 1))
        assert host.answer(1).body == b"ONETWO"


def test_head_and_bodiless_answers(tmp_path: Path) -> None:
    source = """export default { fetch: (r) => new URL(r.url).pathname === '/no'
      ? new Response(null, {status: 204}) : new Response('hello', {headers: {'content-length': '5'}}) }"""
    with loaded(tmp_path, source) as host:
        head = host.call(1, method="HEAD")
        assert (head.body, head.header("content-length")) == (b"", "5")
        assert (host.call(2, target="/no").status, host.answer(2).body) == (204, b"")
        assert host.call(3, method="TRACE").status == 405


def test_streamify_response(tmp_path: Path) -> None:
    source = """export const handler = awslambda.streamifyResponse(async (event, out, context) => {
      out = awslambda.HttpResponseStream.from(out, {statusCode: 206, headers: {'x-a': 'b'}})
      out.write('one'); out.write('two'); out.end() })"""
    with loaded(tmp_path, source) as host:
        answer = host.call(1)
    assert (answer.status, answer.header("x-a"), answer.body) == (206, "b", b"onetwo")


def test_a_slow_reader_holds_a_stream(tmp_path: Path) -> None:
    source = """let made = 0
    export const handler = async (event) => event.rawPath === '/made' ? String(made)
      : (async function* () { for (; made < 50; made += 1) yield Buffer.alloc(1000, 'x') })()"""
    with loaded(tmp_path, source, window=10_000) as host:
        host.send(request(1))
        host.until(lambda: host.answers.get(1) and len(host.answers[1].body) == 10_000)
        assert int(host.call(2, target="/made").body) <= 11
        host.send(window(1, 100_000))
        assert len(host.answer(1).body) == 50_000


def test_requests_run_beside_each_other(tmp_path: Path) -> None:
    source = """let wake; export const handler = async (e) => {
      if (e.rawPath === '/wait') { await new Promise((go) => { wake = go }); return 'woken' }
      wake(); return 'done' }"""
    with loaded(tmp_path, source) as host:
        host.send(request(1, target="/wait"), request(2, target="/wake"))
        assert (host.answer(2).body, host.answer(1).body) == (b"done", b"woken")


def test_an_error_is_told_and_the_instance_lives(tmp_path: Path) -> None:
    source = """function inner() { throw new RangeError('too far') }
    export const handler = async (e) => { if (e.rawPath === '/bad') inner(); return 'fine' }"""
    with loaded(tmp_path, source) as host:
        error = host.call(1, target="/bad").error
        assert (error["type"], error["message"]) == ("RangeError", "too far")
        assert "at inner (handler.mjs:1:" in error["traceback"]
        assert "hearth" not in error["traceback"] and "node:" not in error["traceback"]
        assert {"inv": "inv_1", "stream": "stderr", "level": "error"}.items() <= host.log_lines(1)[0].items()
        assert host.call(2).body == b"fine"


@pytest.mark.parametrize(
    "thrown", ["'text'", "null", "{a: 1}", "(() => { const e = new Error('x'); e.cause = e; return e })()"]
)
def test_whatever_is_thrown(tmp_path: Path, thrown: str) -> None:
    with loaded(tmp_path, f"export const handler = async () => {{ throw ({thrown}) }}") as host:
        assert host.call(1).error["traceback"]


def test_an_unhandled_rejection_is_its_requests_error(tmp_path: Path) -> None:
    source = """export const handler = async (e) => {
      if (e.rawPath === '/bad') { (async () => { throw new Error('forgotten') })(); await new Promise(() => {}) }
      return 'fine' }"""
    with loaded(tmp_path, source) as host:
        assert host.call(1, target="/bad").error["message"] == "forgotten"
        assert host.call(2).body == b"fine"


def test_an_uncaught_error_ends_the_instance_and_is_told(tmp_path: Path) -> None:
    source = """export const handler = async () => {
      setTimeout(() => { throw new Error('in a timer') }, 1); await new Promise(() => {}) }"""
    with loaded(tmp_path, source) as host:
        assert host.call(1).error["message"] == "in a timer"
        assert host.gone() == 1


def test_a_rejection_of_nobody_ends_the_instance(tmp_path: Path) -> None:
    source = """export const handler = async () => 'x'
    setTimeout(() => Promise.reject(new Error('of the module')), 50)"""
    with loaded(tmp_path, source) as host:
        assert host.gone() == 1
        assert "of the module" in json.dumps(host.logs)


def test_exit_ends_the_instance_and_last_words_are_heard(tmp_path: Path) -> None:
    source = "export const handler = async () => { console.log('bye'); process.exit(7) }"
    with loaded(tmp_path, source) as host:
        host.send(request(1))
        assert host.gone() == 7
        assert [line["text"] for line in host.logs] == ["bye"]


def test_what_is_printed_carries_the_invocation(tmp_path: Path) -> None:
    source = """console.log('at import')
    export const handler = async (e) => { await 1
      console.log('a %d', 1); console.error('b\\nc'); console.warn('w'); console.debug('d')
      process.stdout.write('par'); process.stdout.write('tial'); return '' }"""
    with loaded(tmp_path, source) as host:
        host.send(request(1, inv="inv_a"), request(2, inv="inv_b"))
        host.answer(1), host.answer(2)
        logs = host.log_lines(13)
        assert host.output() == ""
    assert logs[0]["inv"] is None and logs[0]["text"] == "at import"
    mine = [(line["stream"], line["level"], line["text"]) for line in logs if line["inv"] == "inv_a"]
    assert mine == [
        ("stdout", "info", "a 1"),
        ("stderr", "error", "b"),
        ("stderr", "error", "c"),
        ("stderr", "warning", "w"),
        ("stdout", "debug", "d"),
        ("stdout", "info", "partial"),
    ]


def test_lines_beyond_the_credit_are_dropped_and_counted(tmp_path: Path) -> None:
    source = "export const handler = async () => { for (let i = 0; i < 1000; i++) console.log('x'.repeat(100)); return 'ok' }"
    with loaded(tmp_path, source, log_window=2000) as host:
        assert host.call(1).body == b"ok"
        sent = len(host.logs)
        assert 0 < sent < 20
        host.send(frame(LOG_WINDOW, 0, (100_000).to_bytes(4, "big")))
        said = host.log_lines(sent + 1)[sent]
    assert said["text"] == f"{1000 - sent} lines were dropped here: more is logged than is taken"


def test_a_gap_is_counted_once(tmp_path: Path) -> None:
    """Though there was credit left for a count, and none for a line."""
    source = "export const handler = async () => { for (let i = 0; i < 1000; i++) console.log('x'.repeat(5000)); return 'ok' }"
    with loaded(tmp_path, source, log_window=23_000) as host:
        assert host.call(1).body == b"ok"
        assert {log["text"] for log in host.logs} == {"x" * 5000}


def test_cancel_aborts_the_signal_and_is_answered_when_the_handler_is_done(tmp_path: Path) -> None:
    source = """export const handler = (event, context) => new Promise((resolve) =>
      context.signal.addEventListener('abort', () => { console.log(context.signal.reason.name); resolve('x') }))"""
    with loaded(tmp_path, source) as host:
        host.send(request(1), request(2), cancel(1, "client_gone"), cancel(2, "timeout"))
        assert host.answer(1).cancelled and host.answer(2).cancelled
        assert {(line["inv"], line["text"]) for line in host.log_lines(2)} == {
            ("inv_1", "AbortError"),
            ("inv_2", "TimeoutError"),
        }


def test_cancel_aborts_a_fetch_request(tmp_path: Path) -> None:
    source = """export default { async fetch(request) {
      await new Promise((go) => request.signal.addEventListener('abort', go)); return new Response('late') } }"""
    with loaded(tmp_path, source) as host:
        host.send(request(1), cancel(1, "client_gone"))
        assert host.answer(1).cancelled
        assert host.answers[1].status == 0


def test_cancel_ends_a_stream(tmp_path: Path) -> None:
    source = """export const handler = async function* () {
      try { for (;;) yield 'x'.repeat(1000) } finally { console.log('closed') } }"""
    with loaded(tmp_path, source, window=5000) as host:
        host.send(request(1))
        host.until(lambda: host.answers.get(1) and len(host.answers[1].body) == 5000)
        host.send(cancel(1, "client_gone"))
        assert host.answer(1).cancelled
        assert host.log_lines(1)[0]["text"] == "closed"


WAITING = {
    "fetch": "export default { fetch: () => new Response(new ReadableStream({ pull: () => new Promise(() => {}), cancel() { console.log('closed') } })) }",
    "node-stream": "import { Readable } from 'node:stream'\nexport const handler = async () => ({ statusCode: 200, body: new Readable({ read() {}, destroy(e, done) { console.log('closed'); done(e) } }) })",
}


@pytest.mark.parametrize("source", WAITING.values(), ids=WAITING)
def test_a_stream_that_waits_has_sent_its_head_and_ends_with_the_caller(tmp_path: Path, source: str) -> None:
    with loaded(tmp_path, source) as host:
        host.send(request(1))
        host.until(lambda: host.answers.get(1) and host.answers[1].status == 200)
        host.send(cancel(1, "client_gone"))
        assert host.answer(1).cancelled
        assert [line["text"] for line in host.log_lines(1)] == ["closed"]


def test_a_stream_that_fails_before_its_first_piece_fails_the_request(tmp_path: Path) -> None:
    source = "export default { fetch: () => new Response(new ReadableStream({ pull() { throw new Error('no') } })) }"
    with loaded(tmp_path, source) as host:
        assert host.call(1).error["message"] == "no"


def test_drain_waits_for_what_is_in_work(tmp_path: Path) -> None:
    source = (
        "export const handler = async () => { await new Promise((go) => setTimeout(go, 20)); return 'x' }"
    )
    with loaded(tmp_path, source) as host:
        host.send(request(1), frame(DRAIN, 0))
        assert host.answer(1).body == b"x"
        assert host.gone() == 0


def test_the_hosts_end_is_the_shims(tmp_path: Path) -> None:
    with loaded(tmp_path, "setInterval(() => {}, 1000); export const handler = async () => 'x'") as host:
        host.connection.close()
        assert host.process.wait(10) == 0


REFUSED = [
    ({"handler.mjs": "import x\nexport const a = 1"}, "SyntaxError", "handler.mjs", 2),
    ({"handler.js": "\n\nexports.handler = (\n"}, "SyntaxError", "handler.js", 4),
    ({"handler.mjs": "\nconst x = 1\nx.y.z()\n"}, "TypeError", "handler.mjs", 3),
    ({"handler.mjs": "\nimport x from 'not-there'\n"}, "Error", "handler.mjs", 2),
    ({"handler.js": "\n\nrequire('not-there')\n"}, "Error", "handler.js", 3),
    ({"handler.mjs": "import './b.mjs'", "b.mjs": "\nthrow new RangeError('b')"}, "RangeError", "b.mjs", 2),
    ({"handler.mjs": "export const other = 1"}, "LoadError", None, None),
    ({"readme.txt": ""}, "LoadError", None, None),
]


@pytest.mark.parametrize(("files", "kind", "file", "line"), REFUSED)
def test_import_errors_have_their_place(
    tmp_path: Path, files: dict[str, str], kind: str, file: str | None, line: int | None
) -> None:
    said = refused(tmp_path, files)
    assert (said["type"], said["file"], said["line"]) == (kind, file, line)
    assert said["message"]


def test_handler_setting_that_names_nothing(tmp_path: Path) -> None:
    files = {"a.mjs": "export const b = () => 1"}
    assert "exported: b" in refused(tmp_path, files, handler="a.c")["message"]
    assert "no file z" in refused(tmp_path, files, handler="z.c")["message"]


def test_exit_at_import(tmp_path: Path) -> None:
    write_files(tmp_path, {"handler.mjs": "console.log('going'); process.exit(3)"})
    with shim([TOOLCHAIN.bin, str(SHIM)]) as host, pytest.raises(AssertionError, match="before ready"):
        host.load(tmp_path)
    assert host.process.returncode == 3
    assert [line["text"] for line in host.logs] == ["going"]
