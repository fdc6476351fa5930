"""Secrets from the command line: values come in by standard input, a file or a prompt, and never go out."""

from __future__ import annotations

import base64
import json
import os
import pty
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hearth.core.function import FunctionConfig, config_to_json
from hearth.core.limits import SECRET_MAX
from hearth.core.records import SealedSecret
from hearth.security.rootkey import RootKey
from hearth.security.vault import LABEL, Vault

from .cli_platform import Platform, Program, running

VALUE = "sk_live_4eC39HqLyjWDarjtT1zdp7dc"
VAULT = Vault([RootKey(bytes(range(32))).derive(LABEL)])


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with running(tmp_path_factory.mktemp("platform")) as found:
        yield found


@pytest.fixture
def hearth(platform: Platform, tmp_path: Path, request: pytest.FixtureRequest) -> Program:
    program = Program(platform.url, tmp_path)
    program.register(f"{request.node.name.removeprefix('test_').replace('_', '-')[:24]}@example.com")
    return program


def value(platform: Platform, hearth: Program, name: str, function: str | None = None) -> bytes:
    """What is stored, opened with the platform's key."""
    namespace = json.loads(hearth("whoami", "--json").stdout)["current_namespace"]
    query = (
        "SELECT s.namespace_id, s.function_id, s.key_id, s.sealed FROM secrets s JOIN namespaces n ON n.id = s.namespace_id "
        "LEFT JOIN functions f ON f.id = s.function_id WHERE n.name = ? AND s.name = ? AND f.name IS ?"
    )
    with closing(sqlite3.connect(platform.folder / "hearth.db")) as connection:
        [(namespace_id, function_id, key, sealed)] = connection.execute(query, (namespace, name, function))
    return VAULT.open(SealedSecret(name, namespace_id, function_id, key, sealed))


def test_set_by_pipe(hearth: Program, platform: Platform) -> None:
    for given, kept in (
        (f"{VALUE}\n", VALUE), (f"{VALUE}\r\n", VALUE), (VALUE, VALUE), ("two\n\n", "two\n"), ("a\r", "a\r"), ("ä\nb\n", "ä\nb"),
    ):  # fmt: skip
        done = hearth("secrets", "set", "TOKEN", stdin=given)
        assert done.stdout.startswith("Set TOKEN of ") and VALUE not in done.stdout + done.stderr
        assert value(platform, hearth, "TOKEN") == kept.encode()
    made = json.loads(hearth("secrets", "set", "TOKEN", "--json", stdin=VALUE).stdout)
    assert set(made) == {
        "name", "namespace", "function", "environment", "function_made", "created_at", "updated_at",
    }  # fmt: skip


def test_set_from_a_file(hearth: Program, platform: Platform) -> None:
    raw = b"\x00\xff line\n"
    (hearth.folder / "raw").write_bytes(raw)
    said = hearth("secrets", "set", "RAW", "--from-file", "raw").stderr
    assert "functions find it at /run/secrets/RAW only" in said
    assert value(platform, hearth, "RAW") == raw
    hearth("secrets", "set", "TOKEN", "--from-file", "-", stdin="exact\n")
    assert value(platform, hearth, "TOKEN") == b"exact\n"
    assert "nowhere: No such file" in hearth("secrets", "set", "A", "--from-file", "nowhere", code=1).stderr


def typed(hearth: Program, text: str) -> tuple[int, bytes]:
    """`secrets set TOKEN` on a real terminal: its exit code, and what the terminal has shown."""
    leader, follower = pty.openpty()
    try:
        program = subprocess.Popen(
            [Path(sys.executable).parent / "hearth", "secrets", "set", "TOKEN"],
            cwd=hearth.folder, env=hearth.env, stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
        )  # fmt: skip
        seen = b""
        while b"TOKEN (one line):" not in seen:
            seen += os.read(leader, 1000)
        os.write(leader, text.encode())
        code = program.wait(30)
        os.write(follower, b"\nend")  # what it has written comes before
        while not seen.endswith(b"\nend"):
            seen += os.read(leader, 1000)
    finally:
        os.close(leader)
        os.close(follower)
    return code, seen


def test_set_by_prompt(hearth: Program, platform: Platform) -> None:
    code, shown = typed(hearth, f"{VALUE}\n")
    assert code == 0 and b"Set TOKEN of" in shown and VALUE.encode() not in shown
    assert value(platform, hearth, "TOKEN") == VALUE.encode()
    code, shown = typed(hearth, f"-----BEGIN PRIVATE KEY-----\n{VALUE}\n-----END PRIVATE KEY-----\n")
    assert code == 2 and b"--from-file FILE" in shown and VALUE.encode() not in shown
    assert value(platform, hearth, "TOKEN") == VALUE.encode()


def test_a_value_does_not_stand_in_the_arguments(hearth: Program, platform: Platform) -> None:
    platform.paths()
    for options in ((), ("--json",)):
        said = hearth("secrets", "set", f"TOKEN={VALUE}", *options, code=2).stderr
        assert "a value does not belong on the command line" in said and "hearth secrets set TOKEN" in said
        assert VALUE not in said and "history" in said
    assert platform.paths() == []


def test_what_is_refused(hearth: Program) -> None:
    for arguments, stdin, code, what in (
        (("A",), "", 2, "there is no value"),
        (("A",), "\n", 2, "there is no value"),
        (("a-b",), "x", 2, "'a-b' is not a name for a secret"),
        (("PATH",), "x", 2, "a meaning of its own"),
        (("A",), "x" * (SECRET_MAX + 1), 1, "a secret has at most 64KiB"),
        (("A", "--function", "nobody/such"), "x", 4, "there is no function nobody/such"),
    ):
        said = hearth("secrets", "set", *arguments, stdin=stdin, code=code).stderr
        assert what in said and ". hint: " in said, (arguments, said)
    hearth("secrets", "set", "A", stdin="x" * SECRET_MAX + "\n")


def test_list_and_delete(hearth: Program, platform: Platform) -> None:
    namespace = json.loads(hearth("whoami", "--json").stdout)["current_namespace"]
    assert hearth("secrets", "list", "--json").stdout.strip() == "[]"
    assert hearth("secrets", "list").stdout.startswith(f"There is no secret of {namespace} yet.")
    hearth("secrets", "set", "B", stdin=VALUE)
    hearth("secrets", "set", "A", "--from-file", "-", stdin="\0")
    said = hearth("secrets", "set", "B", "--function", "pay", stdin=VALUE)
    assert f"Nothing is deployed as {namespace}/pay yet" in said.stderr
    shown = hearth("secrets", "list").stdout
    assert [line.split()[:2] for line in shown.splitlines()[1:]] == [
        ["A", namespace], ["B", namespace], ["B", f"{namespace}/pay"],
    ]  # fmt: skip
    assert VALUE not in shown and base64.b64encode(VALUE.encode()).decode() not in shown
    items = json.loads(hearth("secrets", "list", "--function", f"{namespace}/pay", "--json").stdout)
    assert [(item["name"], item["function"], item["environment"]) for item in items] == [
        ("A", None, False), ("B", "pay", True),
    ]  # fmt: skip
    assert "nobody is there to confirm" in hearth("secrets", "delete", "A", code=2).stderr
    assert hearth("secrets", "delete", "A", "--yes").stdout == f"Deleted A of {namespace}.\n"
    assert "there is no secret A" in hearth("secrets", "delete", "A", "--yes", code=4).stderr
    hearth("secrets", "delete", "B", "--function", "pay", "-y")
    assert value(platform, hearth, "B") == VALUE.encode()


def test_one_that_is_needed(hearth: Program, platform: Platform) -> None:
    hearth("secrets", "set", "A", "--function", "pay", stdin=VALUE)
    config = json.dumps(config_to_json(FunctionConfig("pay", "python", secrets=("A",))))
    with closing(sqlite3.connect(platform.folder / "hearth.db", isolation_level=None)) as connection:
        connection.execute(
            "INSERT INTO versions (id, namespace_id, function_id, number, state, config, source, created_ms) "
            "SELECT 'ver_1', namespace_id, id, 1, 'pending', ?, 's', 0 FROM functions WHERE name = 'pay' "
            "ORDER BY id DESC LIMIT 1",
            (config,),
        )
    said = hearth("secrets", "delete", "A", "--function", "pay", "--yes", code=1).stderr
    assert "pay can't run without A" in said and "--force" in said
    forced = hearth("secrets", "delete", "A", "--function", "pay", "--yes", "--force")
    assert "Without it can't run: pay." in forced.stderr
