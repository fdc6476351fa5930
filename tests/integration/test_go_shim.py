"""The Go shim and its launcher: a function built by the real plan, in a real process, over a real socket."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hearth.runtimes.go import GoRuntime
from tests.integration import go_function
from tests.integration.shim_host import (
    BODY,
    DRAIN,
    END,
    HELLO,
    INIT_ERROR,
    LOG_WINDOW,
    PING,
    READY,
    TRAILERS,
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

TOOLCHAIN = on_the_host("go")
VECTORS = json.loads((Path(__file__).parents[1] / "contract/guest_vectors.json").read_text())
pytestmark = [
    pytest.mark.skipif(TOOLCHAIN is None, reason="no go on this machine"),
    pytest.mark.timeout(300),  # the first run compiles Go's standard library
]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a built function that behaves as the path of its request says."""
    folder = tmp_path_factory.mktemp("zoo")
    source = Path(__file__).with_name("zoo.go.txt").read_text()
    write_files(
        folder / "source", {"zoo.go": source, "data/a.txt": "a", "go.mod": "module zoo.test/z\n\ngo 1.21\n"}
    )
    done = go_function.build(folder, TOOLCHAIN)
    assert done.returncode == 0, done.stderr
    return folder / "out"


@pytest.mark.parametrize(
    ("packages", "compiled"),
    [
        (
            "net/http encoding/json log/slog html/template database/sql image/png crypto/x509 archive/zip",
            False,
        ),
        ("go/format", True),  # one of Go's own tools
    ],
)
def test_what_functions_import_is_compiled_ahead(tmp_path: Path, packages: str, compiled: bool) -> None:
    assert TOOLCHAIN is not None
    plan = GoRuntime().seed_plan(TOOLCHAIN)
    cache = tmp_path / "gocache"
    shutil.copytree(go_function.seed(TOOLCHAIN), cache)
    command = [TOOLCHAIN.bin, "build", "-x", *packages.split()]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **dict(plan.env), "GOCACHE": str(cache)}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ("/compile -o" in done.stderr) is compiled, done.stderr


@pytest.fixture
def host(zoo: Path) -> Iterator[Host]:
    with shim(go_function.LAUNCHER) as made:
        kind, made.ready = made.load(zoo, cpu=1.5)
        assert kind == READY, made.ready
        yield made


@pytest.mark.parametrize("vector", VECTORS["guest_sessions"], ids=lambda vector: vector["name"])
def test_vectors(host: Host, vector: dict[str, Any]) -> None:
    run_session(host, vector["steps"])


def test_the_artifact_is_a_static_binary_and_data(zoo: Path) -> None:
    assert sorted(str(path.relative_to(zoo)) for path in zoo.rglob("*")) == ["data", "data/a.txt", "function"]
    assert b"/lib64/ld-linux" not in (zoo / "function").read_bytes()


def test_hello_and_ready(host: Host) -> None:
    assert (host.hello["runtime"], host.hello["version"]) == ("go", 1)
    assert (host.ready["handler"], host.ready["shape"]) == ("Handler", "http")


def test_the_request_as_the_handler_sees_it(host: Host, zoo: Path) -> None:
    headers = ("host:fn.test", "x-a:1", "x-a:2")
    answer = host.call(1, b"abc", target="/request?a=%20b", headers=headers, caller="user:u1")
    first, second, third = answer.body.decode().splitlines()
    assert first == "POST /request?a=%20b a=%20b fn.test 203.0.113.9:0 3 abc"
    assert second == f"/fn/ann/hello [1 2] hei {zoo} false user:u1"
    assert third == f"2 {int(256 * 0.9 * 1024) * 1024}"
    assert answer.header("content-type") == "text/plain; charset=utf-8"


def test_status_and_headers(host: Host) -> None:
    answer = host.call(1, target="/json")
    assert (answer.status, answer.body) == (201, b"{}")
    assert sorted(answer.headers) == [
        ("content-type", "application/json"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
    ]


def test_content_types_are_sniffed(host: Host) -> None:
    assert host.call(1, target="/sniff").header("content-type") == "text/html; charset=utf-8"
    nothing = host.call(2, target="/nothing")
    assert (nothing.status, nothing.headers, nothing.body) == (200, [], b"")


def test_head_and_204(host: Host) -> None:
    head = host.call(1, target="/sniff", method="HEAD")
    assert (head.body, head.header("content-length")) == (b"", "23")
    assert (host.call(2, target="/204").status, host.answer(2).body) == (204, b"")
    assert host.log_lines(2)[1]["text"] == "refused is=true"


def test_flush_streams_and_requests_run_beside_each_other(host: Host) -> None:
    host.send(request(1, target="/flush"))
    host.until(lambda: host.answers.get(1) and host.answers[1].body == b"one")
    assert host.call(2, target="/go").status == 200
    assert host.answer(1).body == b"onetwo"


def test_a_slow_reader_holds_a_stream(zoo: Path) -> None:
    with shim(go_function.LAUNCHER) as host:
        host.load(zoo, window=30_000)
        host.send(request(1, target="/large"))
        host.until(lambda: host.answers.get(1) and len(host.answers[1].body) == 30_000)
        assert host.call(2, b"beside").body == b"beside"
        host.send(window(1, 100_000))
        assert host.answer(1).body == bytes(100_000)


def test_trailers_both_ways(host: Host) -> None:
    answer = host.call(1, target="/trailers")
    assert (answer.body, sorted(answer.trailers.split("\n"))) == (b"body", ["x-more:8", "x-sum:7"])
    assert answer.header("trailer") is None
    host.send(request(2, b"a", end=False, headers=("trailer:x-sum",)), frame(TRAILERS, 2, b"x-sum:1", END))
    assert host.answer(2).body == b"a"


def test_a_malformed_url_is_a_bad_request(host: Host) -> None:
    assert host.call(1, target="/%zz").status == 400


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("/panic", "*errors.errorString", "a real panic"),
        ("/nil", "runtime.plainError", "assignment to entry in nil map"),
        ("/goexit", "runtime.Goexit", "the handler called runtime.Goexit"),
        ("/newline", "BadResponse", "header X-A has a line break or a NUL, or no name"),
        ("/name", "BadResponse", '"x y" is not a name for a header'),
        ("/short", "BadResponse", "the handler declared a content-length of 5 and wrote 3 bytes"),
    ],
)
def test_failures_are_told_and_the_instance_lives(host: Host, path: str, kind: str, message: str) -> None:
    error = host.call(1, target=path).error
    assert error is not None
    assert (error["type"], error["message"]) == (kind, message)
    if path == "/panic":
        assert error["traceback"].startswith("panic: a real panic\n\nmain.Handler\n\tzoo.go:")
        assert "hearthshim" not in error["traceback"]
    host.until(lambda: any(line["inv"] == "inv_1" and line["level"] == "error" for line in host.logs))
    assert host.call(2, b"fine").body == b"fine"


def test_a_panic_amid_a_body(host: Host) -> None:
    answer = host.call(1, target="/late-panic")
    assert (answer.status, answer.body) == (200, b"begun")
    assert answer.error is not None and answer.error["message"] == "late"


def test_abort_is_no_error(host: Host) -> None:
    answer = host.call(1, target="/abort")
    assert answer.cancelled and answer.error is None
    assert [line for line in host.logs if line["level"] == "error"] == []


def test_more_than_the_declared_length_is_refused_to_the_handler(host: Host) -> None:
    assert host.call(1, target="/long").body == b"ab"
    assert "wrote more than the declared Content-Length" in host.log_lines(2)[1]["text"]


def test_there_is_no_hijacking(host: Host) -> None:
    assert host.call(1, target="/hijack").body == b"false true"


def test_the_deadline_is_that_of_the_head(host: Host) -> None:
    assert host.call(1, target="/deadline").body == b"true true false"


@pytest.mark.parametrize(
    ("reason", "cause"),
    [("timeout", "context deadline exceeded"), ("client_gone", "cancelled (client_gone): context canceled")],
)
def test_cancel_reaches_the_context(host: Host, reason: str, cause: str) -> None:
    host.send(request(1, target="/wait"), request(2, target="/wait"), cancel(1, reason))
    answer = host.answer(1)
    assert answer.cancelled and answer.status == 0
    host.until(lambda: len(host.logs) >= 3)
    assert {line["inv"] for line in host.logs[1:]} == {"inv_1"}
    assert cause in host.logs[1]["text"]
    assert host.logs[2]["text"] == "write error=true"


def test_logs_carry_level_attributes_and_invocation(host: Host) -> None:
    host.call(1, target="/log")
    lines = [(line["inv"], line["stream"], line["level"], line["text"]) for line in host.log_lines(4)]
    assert lines == [
        (None, "log", "info", "at init"),
        ("inv_1", "log", "warning", 'said app=zoo g.a=1 g.b="x y"'),
        ("inv_1", "log", "info", "plain"),
        ("inv_1", "log", "info", "lines"),
    ]


def test_lines_beyond_the_credit_are_dropped_and_counted(zoo: Path) -> None:
    with shim(go_function.LAUNCHER) as host:
        host.load(zoo, log_window=3000)
        assert host.call(1, target="/flood").status == 200
        sent = len(host.logs)
        assert 1 < sent < 30
        host.send(frame(LOG_WINDOW, 0, struct.pack(">I", 100_000)))
        assert host.log_lines(sent + 1)[sent]["text"].startswith(f"{1000 - sent + 1} lines were dropped")


def test_exit_ends_the_instance_and_last_words_are_heard(host: Host) -> None:
    host.send(request(1, target="/exit"))
    assert host.gone() == 7
    assert host.logs[-1]["text"] == "bye"


def test_the_hosts_end_is_the_shims(host: Host) -> None:
    host.connection.close()
    assert host.process.wait(10) == 0


def test_a_body_that_is_not_read_is_no_obstacle(host: Host) -> None:
    host.send(request(1, b"x" * 1000, target="/json", end=False))
    assert host.answer(1).body == b"{}"
    host.send(frame(BODY, 1, b"late", END))
    assert host.call(2, b"fine").body == b"fine"


def test_the_launcher_waits_and_answers_pings(zoo: Path) -> None:
    with shim(go_function.LAUNCHER) as host:
        host.send(frame(PING, 0, b"there?"))
        host.until(lambda: host.pongs)
        assert host.pongs == [b"there?"]
        # What follows load in the same write is the binary's to read.
        host.send(frame(HELLO, 0, b'{"version":1,"window":100000,"log_window":0}'))
        host.send(frame(LOG_WINDOW, 0, struct.pack(">I", 5000)))
        load = json.dumps({"code": str(zoo), "env": {}}).encode()
        host.send(frame(2, 0, load) + frame(PING, 0, b"and now?"))
        host.until(lambda: len(host.pongs) == 2)
        assert host.log_lines(1)[0]["text"] == "at init"


def test_the_launcher_leaves_when_drained_or_alone() -> None:
    with shim(go_function.LAUNCHER) as host:
        host.send(frame(DRAIN, 0))
        assert host.gone() == 0
    with shim(go_function.LAUNCHER) as host:
        host.connection.close()
        assert host.process.wait(10) == 0


def test_the_launcher_refuses_another_version() -> None:
    with shim(go_function.LAUNCHER) as host:
        host.send(frame(HELLO, 0, b'{"version":2}'))
        assert host.gone() == 1
        assert "speaks version 2" in host.output()


def test_code_without_a_binary_is_an_init_error(tmp_path: Path) -> None:
    with shim(go_function.LAUNCHER) as host:
        kind, said = host.load(tmp_path)
        assert (kind, said["type"]) == (INIT_ERROR, "FileNotFoundError")
        assert host.gone() == 1


def test_compile_errors_have_their_place(tmp_path: Path) -> None:
    body = 'package main\n\nimport "net/http"\n\nfunc Handler(w http.ResponseWriter, r *http.Request) {\n\tgone()\n}\n'
    write_files(tmp_path / "source", {"handler.go": body})
    done = go_function.build(tmp_path, TOOLCHAIN)
    assert done.returncode != 0
    assert "./handler.go:6:2: undefined: gone" in done.stderr


@pytest.mark.parametrize(
    "files", [{}, {"go.mod": "module old.test/x\n\ngo 1.17\n"}], ids=["no go.mod", "go 1.17"]
)
def test_modules_old_and_missing(tmp_path: Path, files: dict[str, str]) -> None:
    body = 'package main\n\nimport "net/http"\n\nfunc Hello(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("hi")) }\n'
    write_files(tmp_path / "source", {"handler.go": body, **files})
    before = sorted(path.name for path in (tmp_path / "source").iterdir())
    done = go_function.build(tmp_path, TOOLCHAIN)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "source").iterdir()) == before
    with shim(go_function.LAUNCHER) as host:
        assert host.load(tmp_path / "out") == (
            READY,
            host.ready | {"handler": "Hello", "shape": "http", "runtime_version": f"go{TOOLCHAIN.version}"},
        )
        assert host.call(1).body == b"hi"


def test_vendored_dependencies_need_no_network(tmp_path: Path) -> None:
    body = (
        'package main\n\nimport (\n\t"net/http"\n\n\t"dep.test/d"\n)\n\n'
        "func Handler(w http.ResponseWriter, r *http.Request) { w.Write([]byte(d.Word)) }\n"
    )
    files = {
        "handler.go": body,
        "go.mod": "module v.test/v\n\ngo 1.21\n\nrequire dep.test/d v1.0.0\n",
        "vendor/modules.txt": "# dep.test/d v1.0.0\n## explicit; go 1.21\ndep.test/d\n",
        "vendor/dep.test/d/d.go": 'package d\n\nconst Word = "vendored"\n',
    }
    write_files(tmp_path / "source", files)
    done = go_function.build(tmp_path, TOOLCHAIN, {"GOPROXY": "off"})
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out/vendor").exists()
    with shim(go_function.LAUNCHER) as host:
        host.load(tmp_path / "out")
        assert host.call(1).body == b"vendored"


GO_SUM = """\
golang.org/x/text v0.0.0-20170915032832-14c0d48ead0c h1:qgOY6WgZOaTkIIMiVjBQcw93ERBE4m30iBm00nkL0i8=
golang.org/x/text v0.0.0-20170915032832-14c0d48ead0c/go.mod h1:NqM8EUOU14njkJ3fqMW+pc6Ldnwhi/IjpwHt7yyuwOQ=
rsc.io/quote v1.5.2 h1:w5fcysjrx7yqtD/aO+QwRjYZOKnaM9Uh2b40tElTs3Y=
rsc.io/quote v1.5.2/go.mod h1:LzX7hefJvL54yjefDEDHNONDjII0t9xZLPXsUe+TKr0=
rsc.io/sampler v1.3.0 h1:7uVkIFmeBqHfdjD+gZwtXXI+RODJ2Wc4O7MPEh/QiW4=
rsc.io/sampler v1.3.0/go.mod h1:T1hPZKmBbMNahiBKFy5HrXp6adAjACjK9JXDnKaTXpA=
"""
GO_MOD = """\
module n.test/n

go 1.21

require rsc.io/quote v1.5.2

require (
	golang.org/x/text v0.0.0-20170915032832-14c0d48ead0c // indirect
	rsc.io/sampler v1.3.0 // indirect
)
"""


@pytest.mark.network
def test_modules_are_fetched_and_must_be_known(tmp_path: Path) -> None:
    body = (
        'package main\n\nimport (\n\t"net/http"\n\n\t"rsc.io/quote"\n)\n\n'
        "func Handler(w http.ResponseWriter, r *http.Request) { w.Write([]byte(quote.Hello())) }\n"
    )
    files = {"handler.go": body, "go.mod": GO_MOD}
    proxy = {name: os.environ[name] for name in ("GOPROXY", "GOSUMDB", "SSL_CERT_FILE") if name in os.environ}
    write_files(tmp_path / "source", files)
    done = go_function.build(tmp_path, TOOLCHAIN, proxy)
    assert "missing go.sum entry" in done.stderr
    write_files(tmp_path / "source", {"go.sum": GO_SUM})
    done = go_function.build(tmp_path, TOOLCHAIN, proxy)
    assert done.returncode == 0, done.stderr
    with shim(go_function.LAUNCHER) as host:
        host.load(tmp_path / "out")
        assert host.call(1, headers=("accept-language:en",)).body == b"Hello, world."
