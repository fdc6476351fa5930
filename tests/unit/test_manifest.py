"""function.yaml: every key is enforced or refused, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hearth.core import limits
from hearth.core.errors import HearthError, InvalidManifest, NotYetSupported
from hearth.core.function import FunctionConfig, Scale, config_from_json, config_to_json
from hearth.manifest.function import KNOWN, LATER, read, read_file

BASE = "name: hello\nruntime: python\n"
FULL = """\
name: resize
runtime: python3.12        # pinned
handler: pkg.handler.handler
memory: 512MiB
cpu: 0.5
timeout: 1m30s
concurrency: 4
scale: {min: 1, max: 5, idle: 2m, queue: 7}
env: {GREETING: hello, PORT2: 8080, FLAG: true, EMPTY: ""}
network: none
auth: public
files: {tmp: 32MiB}
build: {command: make all}
init_timeout: 20s
"""


def refused(text: str, error: type[HearthError] = InvalidManifest) -> HearthError:
    with pytest.raises(error) as caught:
        read(text)
    assert type(caught.value) is error
    assert caught.value.message.startswith("function.yaml")
    return caught.value


def test_every_key() -> None:
    config = read(FULL)
    assert config == FunctionConfig(
        name="resize",
        runtime="python",
        runtime_version="3.12",
        handler="pkg.handler.handler",
        memory=512 << 20,
        cpu=0.5,
        timeout=90.0,
        init_timeout=20.0,
        concurrency=4,
        scale=Scale(1, 5, 120.0, 7),
        env=(("EMPTY", ""), ("FLAG", "true"), ("GREETING", "hello"), ("PORT2", "8080")),
        network="none",
        auth="public",
        tmp=32 << 20,
        build_command="make all",
        written=("cpu", "memory", "network", "tmp"),
    )
    assert config_from_json(config_to_json(config)) == config


@pytest.mark.parametrize(
    ("runtime", "concurrency"), [("python", 1), ("node", 32), ("go", 64), ("node22", 32)]
)
def test_defaults(runtime: str, concurrency: int) -> None:
    config = read(f"name: hello\nruntime: {runtime}\n")
    assert config.concurrency == concurrency
    assert (config.memory, config.timeout, config.auth) == (256 << 20, 30.0, "members")
    assert (config.network, config.tmp, config.written) == ("internet", 64 << 20, ())


def test_tmp_counts_towards_memory() -> None:
    assert read(BASE + "memory: 32MiB\n").tmp == 32 << 20
    error = refused(BASE + "memory: 32MiB\nfiles:\n  tmp: 33MiB\n")
    assert error.details["line"] == 5


@pytest.mark.parametrize(
    ("line", "near"),
    [("memroy: 1GiB", "memory"), ("time_out: 3s", "timeout"), ("Env: {}", "env"), ("scal: {}", "scale")],
)
def test_unknown_key_names_the_nearest(line: str, near: str) -> None:
    error = refused(BASE + "# a comment\n" + line + "\n")
    assert error.details["line"] == 4
    assert error.hint == f"did you mean {near}?"


def test_unknown_key_without_a_near_one_lists_all() -> None:
    hint = refused(BASE + "zzzzqqqq: 1\n").hint or ""
    assert all(key in hint for key in KNOWN)


def test_unknown_nested_key() -> None:
    error = refused(BASE + "scale:\n  min: 0\n  maxx: 3\n")
    assert (error.details["line"], error.details["key"], error.hint) == (5, "scale.maxx", "did you mean max?")


@pytest.mark.parametrize("key", LATER)
def test_later_keys_are_refused_as_such(key: str) -> None:
    error = refused(BASE + f"{key}: [x]\n", NotYetSupported)
    assert error.details["line"] == 3
    assert "not yet supported" in error.message


@pytest.mark.parametrize(
    "line",
    ["auth: {jwt: {issuer: x}}"],
)
def test_later_shapes(line: str) -> None:
    assert refused(BASE + line + "\n", NotYetSupported).details["line"] == 3


def test_container_is_not_there_yet() -> None:
    refused("name: a\nruntime: container\n", NotYetSupported)


@pytest.mark.parametrize(
    "line",
    [
        "memory: 256",
        "memory: [1]",
        "memory: 1MiB",
        "memory: 65GiB",
        "memory: lots",
        "cpu: 0",
        "cpu: .nan",
        "cpu: .inf",
        "cpu: '1'",
        "cpu: 65",
        "timeout: 30",
        "timeout: 16m",
        "timeout: 0s",
        "timeout: 1e9s",
        "init_timeout: 3m",
        "concurrency: 0",
        "concurrency: 1.5",
        "concurrency: true",
        "concurrency: 1001",
        "scale: 3",
        "scale: {max: 0}",
        "scale: {min: -1}",
        "scale: {min: 5, max: 4}",
        "scale: {queue: 10001}",
        "scale: {idle: 0s}",
        "env: [A]",
        "env: {A: }",
        "env: {A: {B: c}}",
        "env: {'a b': c}",
        "env: {'A=B': c}",
        "env: {PORT: '1'}",
        "env: {HEARTH_URL: x}",
        "network: internett",
        "network: true",
        "auth: private",
        "auth: ",
        "handler: 3",
        "handler: handler",
        "handler: a..b",
        "handler: ../x.handler",
        "files: {tmp: 1KiB}",
        "files: {tnp: 1MiB}",
        "build: make",
        "build: {command: ''}",
        "? [a, b]\n: c",
        "!!binary memory: 1GiB\ncpu: !thing 3",
        "memory: !!python/object:os.system 1GiB",
    ],
)
def test_wrong_values_name_their_line(line: str) -> None:
    assert refused(BASE + line + "\n").details["line"] in (3, 4)


@pytest.mark.parametrize(
    "runtime", ["python2", "py", "nodejs", "ruby", "go2", "python3.x", "3", "node22.1.1"]
)
def test_wrong_runtimes(runtime: str) -> None:
    assert refused(f"name: hello\nruntime: {runtime}\n").details["line"] == 2


@pytest.mark.parametrize("name", ["Hello", "-a", "a--b", "xn", "a" * 32, "'1'", "7"])
def test_wrong_names(name: str) -> None:
    assert refused(f"name: {name}\nruntime: go\n").details["line"] == 1


@pytest.mark.parametrize("missing", ["name", "runtime"])
def test_required(missing: str) -> None:
    text = "".join(line + "\n" for line in BASE.splitlines() if not line.startswith(missing))
    assert refused(text).message == f"function.yaml: {missing} is missing"


def test_duplicate() -> None:
    error = refused(BASE + "cpu: 1\ncpu: 2\n")
    assert error.details["line"] == 4
    assert "line 3" in error.message


def test_syntax_error_has_line_and_column() -> None:
    error = refused("name: hello\nruntime: [python\nmemory: 1GiB\n")
    assert error.details["line"] == 3
    assert "column" in error.details
    error = refused("name: hello\nruntime: python\n\tcpu: 1\n")
    assert error.details["line"] == 3


def test_control_character_has_its_line() -> None:
    error = refused("name: hello\nruntime: py\x07thon\n")
    assert (error.details["line"], error.details["column"]) == (2, 12)


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "hello\n", "---\n...\n---\n{}\n"])
def test_no_mapping(text: str) -> None:
    refused(text)


def test_two_documents() -> None:
    assert refused(BASE + "---\n" + BASE).details["line"] == 4


def test_anchors_and_bombs() -> None:
    bomb = "a: &a [x,x]\n" + "".join(
        f"{c}: &{c} [*{p},*{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert "anchors" in refused(bomb).message
    assert "aliases" in refused(BASE + "env: *nothing\n").message
    refused("&a [" * 5000)
    refused("[" * 20000)
    refused("a: " * 5 + "{a: " * 9000)
    refused(BASE + "env: {A: " + "x" * limits.MANIFEST_MAX + "}\n")


def test_env_is_limited() -> None:
    many = "".join(f"  V{n}: x\n" for n in range(limits.ENV_NAMES_MAX + 1))
    refused(BASE + "env:\n" + many)
    refused(BASE + "env:\n  A: " + "x" * limits.ENV_BYTES_MAX + "\n")


def test_secrets_are_names() -> None:
    assert read(BASE).secrets == ()
    assert read(BASE + "secrets: []\n").secrets == ()
    assert read(BASE + "secrets: [STRIPE_KEY, A]\n").secrets == ("A", "STRIPE_KEY")


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("secrets: A\n", "must be a list of names", 3),
        ("secrets: {A: b}\n", "must be a list of names", 3),
        ("secrets:\n  - A\n  - b-c\n", "'b-c' is not a name for a secret", 5),
        ("secrets: [A, [B]]\n", "is not a name for a secret", 3),
        ("secrets: [PATH]\n", "a meaning of its own", 3),
        ("secrets: [A, B, A]\n", "secrets names A twice", 3),
        ("env: {A: x}\nsecrets: [A]\n", "A stands under env and under secrets", 4),
        (
            f"secrets: [{', '.join(f'A{n}' for n in range(limits.SECRETS_NAMED_MAX + 1))}]\n",
            "51 names, 50 are",
            3,
        ),
    ],
)
def test_secrets_that_make_no_sense(text: str, message: str, line: int) -> None:
    error = refused(BASE + text)
    assert message in error.message and error.details["line"] == line and error.details["key"] == "secrets"


def test_read_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="there is no"):
        read_file(tmp_path)
    (tmp_path / "function.yaml").write_bytes(b"\xef\xbb\xbf" + BASE.encode())
    assert read_file(tmp_path).name == "hello"
    (tmp_path / "function.yaml").write_bytes(b"name: hello\nruntime: \xff\n")
    with pytest.raises(InvalidManifest) as caught:
        read_file(tmp_path)
    assert caught.value.details["line"] == 2
    (tmp_path / "function.yaml").unlink()
    (tmp_path / "function.yaml").mkdir()
    with pytest.raises(InvalidManifest, match="can't be read"):
        read_file(tmp_path)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for candidate in (text, BASE + text, BASE + "env: {A: " + text + "}"):
        try:
            read(candidate)
        except (InvalidManifest, NotYetSupported):
            pass
