"""Functions from the command line: make, deploy, list, describe, invoke, logs, delete."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hearth.wire.models import LogItem

from .cli_platform import Platform, Program, running


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with running(tmp_path_factory.mktemp("platform")) as found:
        Program(found.url, tmp_path_factory.mktemp("root")).register("ann@example.com")
        yield found


@pytest.fixture
def hearth(platform: Platform, tmp_path: Path) -> Program:
    platform.functions.known.clear()
    platform.functions.logs.clear()
    platform.functions.streams = 0
    hearth = Program(platform.url, tmp_path)
    hearth("login", "--email", "ann@example.com", "--password", "correct horse battery")
    platform.paths()
    return hearth


def project(hearth: Program, name: str, *lines: str) -> Path:
    folder = hearth.folder / name
    folder.mkdir()
    (folder / "function.yaml").write_text("\n".join([f"name: {name}", "runtime: python", *lines, ""]))
    (folder / "handler.py").write_text("def handler(event, context): return 1\n")
    return folder


def test_make_and_deploy_by_the_long_names(hearth: Program, platform: Platform) -> None:
    hearth("create-function", "-n", "hello", "-r", "python", program="serverless-cli")
    done = hearth("deploy-function", "-n", "hello", program="serverless-cli")
    url = f"{platform.url}/fn/ann/hello"
    assert done.stdout.splitlines() == [
        "function  ann/hello",
        "version   1 (live)",
        f"url       {url}",
        "may call  members of the namespace (auth: members)",
        'call it   KEY="$(hearth keys create --name curl --function ann/hello --secret-only)"',
        f'          curl -H "X-Hearth-Key: $KEY" {url}',
    ]
    assert "Deploying ann/hello from hello (5 files)" in done.stderr
    assert "  line one\n  line\\u2028two \\x1b[2J\n" in done.stderr
    assert "Starting one instance" in done.stderr
    assert platform.functions.known["ann", "hello"].files == [
        "README.md", "event.json", "function.yaml", "handler.py", "requirements.txt",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("here", "arguments"),
    [
        (".", ["-n", "web"]),
        (".", ["web"]),
        (".", ["./web/", "-n", "ann/web"]),
        ("web", []),
        ("web", ["-n", "web"]),
        ("web", ["."]),
    ],
)
def test_which_folder_is_meant(hearth: Program, platform: Platform, here: str, arguments: list[str]) -> None:
    project(hearth, "web")
    hearth.folder /= here
    assert json.loads(hearth("deploy", *arguments, "--json").stdout)["name"] == "web"
    assert platform.functions.known["ann", "web"].files == ["function.yaml", "handler.py"]


def test_which_folder_is_not_there(hearth: Program) -> None:
    project(hearth, "web")
    assert "there is no folder other" in hearth("deploy", "-n", "other", code=4).stderr
    assert "there is no function.yaml" in hearth("deploy", code=4).stderr
    assert "is of 'web', not of 'api'" in hearth("deploy", "web", "-n", "api", code=2).stderr
    assert "handler.py is not a folder" in hearth("deploy", "web/handler.py", code=2).stderr
    hearth.folder /= "web"
    assert "its function.yaml is not of other" in hearth("deploy", "-n", "other", code=4).stderr
    hearth("deploy", "-n", "Bad_Name", code=2)


def test_a_broken_manifest_is_found_before_anything_is_sent(hearth: Program, platform: Platform) -> None:
    folder = project(hearth, "web", "memroy: 1GiB")
    found = hearth("deploy", "web", code=1).stderr
    assert found == "error: web/function.yaml:3: unknown key 'memroy'. hint: did you mean memory?\n"
    as_json = json.loads(hearth("deploy", "web", "--json", code=1).stderr)["error"]
    assert as_json["code"] == "invalid_manifest" and as_json["details"]["line"] == 3
    (folder / "function.yaml").write_text("name: web\nruntime: [python\n")
    assert "function.yaml:" in hearth("deploy", "-n", "web", code=1).stderr
    hearth.folder /= "web"
    assert "function.yaml:" in hearth("deploy", "-n", "web", code=1).stderr
    assert platform.paths() == []


def test_a_project_that_may_not_be_packed(hearth: Program, platform: Platform) -> None:
    (project(hearth, "web") / "leak").symlink_to("/etc/passwd")
    assert "the link leak leaves the project" in hearth("deploy", "web", code=1).stderr
    assert platform.paths() == []


def test_a_deploy_that_fails(hearth: Program) -> None:
    project(hearth, "broken")
    failed = hearth("deploy", "broken", code=1)
    assert failed.stdout == ""
    assert failed.stderr.splitlines()[-1] == "error: SyntaxError: invalid syntax (handler.py, line 7)"
    assert "  \\x1b[1mSyntaxError\n" in failed.stderr
    as_json = hearth("deploy", "broken", "--json", code=1)
    error = json.loads(as_json.stderr.splitlines()[-1])["error"]
    assert (error["code"], error["details"]["line"]) == ("function_load_failed", 7)
    assert "SyntaxError" in hearth("versions", "broken").stdout
    shown = hearth("describe", "broken").stdout
    assert "live         no version yet" in shown and "version 2 failed (function_load_failed)" in shown


def test_a_deploy_whose_stream_breaks_is_followed_to_its_end(hearth: Program, platform: Platform) -> None:
    project(hearth, "drops")
    done = hearth("deploy", "drops")
    assert platform.functions.streams == 2
    assert done.stderr.count("line one") == 1 and done.stderr.count("Building") == 1
    assert "line\\u2028two" in done.stderr


def test_ctrl_c_while_it_builds(hearth: Program) -> None:
    project(hearth, "slow")
    process = hearth.start("deploy", "slow")
    assert process.stderr is not None
    seen = ""
    while "line one" not in seen:
        seen += process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == ""
    assert "Version 1 goes on without you. See how it ends with: hearth versions ann/slow" in err
    assert "Traceback" not in err


def test_public_and_key_in_the_environment_have_curl_lines_of_their_own(
    hearth: Program, platform: Platform
) -> None:
    project(hearth, "open", "auth: public")
    project(hearth, "warned")
    url = f"{platform.url}/fn/ann/"
    assert json.loads(hearth("deploy", "open", "--json").stdout)["call"] == [f"curl {url}open"]
    key = hearth("keys", "create", "--name", "ci", "--allow", "deploy", "--secret-only").stdout.strip()
    hearth("logout")
    done = hearth("deploy", "warned", "--json", HEARTH_TOKEN=key)
    assert json.loads(done.stdout)["call"] == [f'curl -H "X-Hearth-Key: $HEARTH_TOKEN" {url}warned']
    assert "warning: memory is not held on this machine" in done.stderr


def test_list_follows_pages(hearth: Program, platform: Platform) -> None:
    assert "There is no function in ann yet" in hearth("list").stdout
    assert json.loads(hearth("list", "--json").stdout) == []
    for name in ("one", "two", "three"):
        project(hearth, name)
        hearth("deploy", name)
    lines = hearth("list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "RUNTIME", "VERSION", "STATUS", "URL", "LAST", "DEPLOY"]
    assert [line.split()[0] for line in lines[1:]] == ["one", "three", "two"]
    assert f"{platform.url}/fn/ann/one" in lines[1] and "2026-11-24 01:18" in lines[1]
    assert not any(line.endswith(" ") or "─" in line for line in lines)
    items = json.loads(hearth("--json", "list").stdout)
    assert set(items[0]) >= {"name", "namespace", "runtime", "version", "status", "url", "deployed_at"}


def test_describe_versions_delete(hearth: Program, platform: Platform) -> None:
    project(hearth, "web")
    hearth("deploy", "web")
    shown = hearth("describe", "ann/web")
    assert "memory       256MiB" in shown.stdout and "handler      handler.handler" in shown.stdout
    assert shown.stderr == "warning: cpu is not held\n"
    assert json.loads(hearth("versions", "web", "--json").stdout)[0]["number"] == 1
    assert "hint: add --yes" in hearth("delete", "web", code=2).stderr
    assert hearth("delete", "web", "--yes").stdout == "Deleted ann/web.\n"
    for command in ("describe", "versions", "logs", "invoke"):
        assert hearth(command, "web", code=4).stderr.startswith("error: there is no function")
    hearth("delete", "web", code=4)
    hearth("describe", "a/b/c", code=2)


def test_invoke(hearth: Program, platform: Platform) -> None:
    project(hearth, "web")
    hearth("deploy", "web")
    assert hearth("invoke", "web").stdout == "GET ? "
    assert (
        hearth("invoke", "web", "-d", '{"a": 1}', "--path", "x/y z?q=1").stdout == 'POST /x/y z?q=1 {"a": 1}'
    )
    assert hearth("invoke", "web", "-f", "-", "--method", "put", stdin="hi").stdout == "PUT ? hi"
    (hearth.folder / "e.json").write_text("{}")
    answer = json.loads(hearth("invoke", "web", "-f", "e.json", "--json").stdout)
    assert answer["status"] == 200 and ["x-seen-type", "application/json"] in answer["headers"]
    answer = json.loads(hearth("invoke", "web", "-d", "x", "--header", "content-type: a/b", "--json").stdout)
    assert ["x-seen-type", "a/b"] in answer["headers"]
    assert "not yet supported" in hearth("invoke", "web", "--async", code=2).stderr
    assert "exclude each other" in hearth("invoke", "web", "-d", "x", "-f", "y", code=2).stderr
    missing = hearth("invoke", "web", "-f", "nothing.json", code=4).stderr
    assert missing.startswith("error: there is no file nothing.json. hint: name one that is there")
    assert "is a folder. hint:" in hearth("invoke", "web", "-f", ".", code=2).stderr
    for header in ("nocolon", ": x", "a b: c", "a: ü", "a: b\nc: d"):
        hearth("invoke", "web", "--header", header, code=2)
    hearth("invoke", "web", "--method", "G T", code=2)


def test_a_login_is_never_shown_to_a_public_function(hearth: Program, platform: Platform) -> None:
    project(hearth, "open", "auth: public")
    project(hearth, "web")
    hearth("deploy", "open")
    hearth("deploy", "web")
    key = hearth("keys", "create", "--name", "x", "--secret-only").stdout.strip()
    platform.paths()
    hearth("invoke", "open")
    hearth("invoke", "web")
    hearth("invoke", "open", HEARTH_TOKEN=key)
    saved = hearth.config / "credentials.json"
    saved.write_text(re.sub(r'"access_token": "[^"]+"', '"access_token": "stale"', saved.read_text()))
    hearth("invoke", "web")  # refused at the door, renewed, and called
    calls = [headers for _, path, headers in platform.functions.requests if path.startswith("/fn/")]
    assert len(calls) == 5
    assert all({"authorization", "x-hearth-key"} & set(headers) == {"x-hearth-key"} for headers in calls)
    hearth(
        "invoke", "open", "--header", "Authorization: mine", code=3
    )  # the double takes it for ours; Hearth does not
    assert "x-hearth-key" not in platform.functions.requests[-1][2]
    hearth("logout")
    assert hearth("invoke", "ann/open").stdout == "GET ? "
    hearth("invoke", "ann/web", code=4)


def test_a_function_that_fails(hearth: Program) -> None:
    for name in ("boom", "teapot", "bytes"):
        project(hearth, name)
        hearth("deploy", name)
    failed = hearth("invoke", "boom", code=1)
    assert failed.stdout == ""
    assert failed.stderr.splitlines() == [
        "Traceback (most recent call last):",
        '  File "handler.py", line 3, in handler',
        "KeyError: \\x1b[31mname",
        "error: the function raised KeyError. hint: its log: hearth logs boom --invocation inv_7",
    ]
    error = json.loads(hearth("invoke", "boom", "--json", code=1).stderr)["error"]
    assert error["code"] == "function_failed" and error["details"]["invocation"] == "inv_7"
    own = hearth("invoke", "teapot", code=1)
    assert own.stdout == "short and stout" and own.stderr == "error: the function answered 418 I'm a Teapot\n"
    assert json.loads(hearth("invoke", "bytes", "--json").stdout)["body_base64"] == "AP8bWzJK"


def test_logs(hearth: Program, platform: Platform) -> None:
    project(hearth, "web")
    hearth("deploy", "web")

    def line(text: str, *, at: int = 1_795_483_104_123, source: str = "run", version: int = 1) -> LogItem:
        return LogItem(
            at=at,
            source=source,
            stream="stdout",
            level="info",
            text=text,
            version=version,
            instance="i",
            invocation=None,
        )

    platform.functions.logs += [
        line("building", source="build"),
        line("one\nerror: \x1b[2Jtwo"),
        line("later", version=2, at=4_000_000_000_000),
    ]
    assert hearth("logs", "web").stdout.splitlines() == [
        "2026-11-24T01:18:24.123Z v1 build | building",
        "2026-11-24T01:18:24.123Z v1 stdout | one",
        "2026-11-24T01:18:24.123Z v1 stdout | error: \\x1b[2Jtwo",
        "2096-10-02T07:06:40.000Z v2 stdout | later",
    ]
    assert hearth("logs", "web", "--source", "build").stdout.endswith("| building\n")
    assert hearth("logs", "web", "--version", "2").stdout.endswith("| later\n")
    assert hearth("logs", "web", "--since", "10m").stdout.count("\n") == 1
    nothing = hearth("logs", "web", "--invocation", "inv_1", "--since", "1h")
    assert nothing.stdout == "" and "no log lines of invocation inv_1 since 1h" in nothing.stderr
    assert "--limit N shows more" not in hearth("logs", "web", "--limit", "1").stderr
    assert [json.loads(text)["version"] for text in hearth("logs", "web", "--json").stdout.splitlines()] == [
        1,
        1,
        2,
    ]
    for wrong in ("soon", "10", "2999-01-01", "2026-13-01"):
        assert "hint: write how long ago" in hearth("logs", "web", "--since", wrong, code=2).stderr
    process = hearth.start("logs", "web", "-f")
    assert process.stdout is not None
    while "later" not in process.stdout.readline():
        pass
    while platform.functions.followed < 3:  # it was cut off twice, once with lines that it had no cursor for
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out == "" and process.returncode == 130
    assert err == "the connection to the server broke; trying again\n"


def test_a_reader_that_leaves_is_no_error(hearth: Program, platform: Platform) -> None:
    project(hearth, "web")
    hearth("deploy", "web")
    platform.functions.logs += [
        LogItem(
            at=1,
            source="run",
            stream="stdout",
            level="info",
            text="x" * 1000,
            version=1,
            instance="i",
            invocation=None,
        )
    ] * 2000
    process = hearth.start("logs", "web")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.stdin is not None
    process.stdin.close()
