"""Secrets on a real platform: functions get them, nobody else does, and a new value reaches them without a failed call."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.e2e.load import Load
from tests.e2e.platform import Platform, members, until

pytestmark = pytest.mark.root

PYTHON = """
import os
def handler(event, context):
    folder = "/run/secrets"
    try:
        files = {name: open(f"{folder}/{name}").read() for name in os.listdir(folder)}
    except FileNotFoundError:
        files = {}
    return {"env": {n: os.environ.get(n) for n in ("TOKEN", "OTHER") if n in os.environ}, "files": files}
"""
NODE = """
import fs from 'node:fs'
export const handler = async () => {
  const files = Object.fromEntries(fs.readdirSync('/run/secrets').map((n) => [n, fs.readFileSync(`/run/secrets/${n}`, 'utf8')]))
  const env = Object.fromEntries(Object.entries(process.env).filter(([n]) => ['TOKEN', 'OTHER'].includes(n)))
  return { env, files }
}
"""
GO = """package main

import (
	"encoding/json"
	"net/http"
	"os"
)

func Handler(w http.ResponseWriter, r *http.Request) {
	env, files := map[string]string{}, map[string]string{}
	for _, name := range []string{"TOKEN", "OTHER"} {
		if value, set := os.LookupEnv(name); set {
			env[name] = value
		}
	}
	entries, _ := os.ReadDir("/run/secrets")
	for _, entry := range entries {
		data, _ := os.ReadFile("/run/secrets/" + entry.Name())
		files[entry.Name()] = string(data)
	}
	json.NewEncoder(w).Encode(map[string]any{"env": env, "files": files})
}
"""
FUNCTIONS = {
    "python": {"handler.py": PYTHON},
    "node": {"handler.mjs": NODE},
    "go": {"handler.go": GO, "go.mod": "module secret\n\ngo 1.21\n"},
}


def fresh() -> str:
    return f"sk_{secrets.token_hex(20)}"


def set_secret(platform: Platform, name: str, value: str, *more: str) -> None:
    platform.cli("secrets", "set", name, *more, stdin=value + "\n")


def seen(platform: Platform, function: str) -> dict[str, dict[str, str]]:
    answer = platform.call(f"/fn/ann/{function}")
    assert answer.status == 200, (answer.body, platform.cli("logs", function))
    found: dict[str, dict[str, str]] = answer.json()
    return found


def contents(path: Path, size: int = 1 << 22) -> Iterator[bytes]:
    """A file's content in overlapping parts; the holes of a disk image are passed over."""
    with path.open("rb") as file:
        begin = 0
        while True:
            try:
                begin = os.lseek(file.fileno(), begin, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole from here on (lseek(2))
                return
            end = min(begin + size, os.lseek(file.fileno(), begin, os.SEEK_HOLE))
            yield os.pread(file.fileno(), end - begin + 200, begin)
            begin = end


@pytest.mark.parametrize(
    "runtime", ["python", *(pytest.param(name, marks=pytest.mark.network) for name in ("node", "go"))]
)
def test_a_function_has_it_as_environment_and_as_file(platform: Platform, runtime: str) -> None:
    name, shared, own = f"secret-{runtime}", fresh(), fresh()
    set_secret(platform, "TOKEN", shared)
    set_secret(platform, "OTHER", fresh())
    platform.deploy(name, runtime, FUNCTIONS[runtime], secrets=["TOKEN"])
    assert seen(platform, name) == {
        "env": {"TOKEN": shared},
        "files": {"TOKEN": shared},
    }  # and OTHER is not there
    set_secret(platform, "TOKEN", own, "--function", name)
    until(lambda: seen(platform, name) == {"env": {"TOKEN": own}, "files": {"TOKEN": own}})
    changed = fresh()
    set_secret(platform, "TOKEN", changed, "--function", name)
    until(lambda: seen(platform, name) == {"env": {"TOKEN": changed}, "files": {"TOKEN": changed}})
    platform.cli("secrets", "delete", "TOKEN", "--function", name, "--yes")
    until(lambda: seen(platform, name) == {"env": {"TOKEN": shared}, "files": {"TOKEN": shared}})


def test_one_that_names_none_has_none(platform: Platform) -> None:
    set_secret(platform, "TOKEN", fresh())
    platform.deploy("nameless", "python", FUNCTIONS["python"])
    assert seen(platform, "nameless") == {"env": {}, "files": {}}


def test_files_can_be_read_and_nothing_else(platform: Platform) -> None:
    handler = """
import os, stat
def handler(event, context):
    def refused(do):
        try:
            do()
        except OSError as error:
            return error.errno != 0
        return False
    path = "/run/secrets/RAW"
    return {
        "hex": open(path, "rb").read().hex(),
        "env": "RAW" in os.environ,
        "mode": stat.S_IMODE(os.stat(path).st_mode),
        "refused": [refused(lambda: open(path, "w")), refused(lambda: os.unlink(path)), refused(lambda: os.chmod(path, 0o666)),
                    refused(lambda: open("/run/secrets/new", "w"))],
        "mounts": [line.split()[5] for line in open("/proc/self/mountinfo") if "/secrets" in line],
    }
"""
    (platform.home / "raw.bin").write_bytes(b"\x00\xff\n")
    said = platform.cli("secrets", "set", "RAW", "--from-file", str(platform.home / "raw.bin"))
    assert "Set RAW of ann" in said
    platform.deploy("raw", "python", {"handler.py": handler}, secrets=["RAW"])
    found = platform.call("/fn/ann/raw").json()
    assert (found["hex"], found["env"], found["mode"]) == ("00ff0a", False, 0o400)
    assert found["refused"] == [True] * 4
    [options] = found["mounts"]
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(options.split(","))


def test_a_deploy_that_names_one_that_is_not_set_is_refused(platform: Platform) -> None:
    folder = platform.function("early", "python", FUNCTIONS["python"], secrets=["TOKEN", "NOT_SET"])
    said = platform.cli("deploy", str(folder), code=1)
    assert "NOT_SET" in said and "hearth secrets set NOT_SET" in said and "early" not in platform.cli("list")
    set_secret(platform, "NOT_SET", fresh(), "--function", "early")  # before there is anything deployed
    set_secret(platform, "TOKEN", fresh())
    platform.cli("deploy", str(folder))


def test_nobody_else_has_it(platform: Platform) -> None:
    """Not argv, not an environment but the function's, no build, no log, no file, no answer."""
    value = fresh()
    set_secret(platform, "LEAK_ME", value)
    spy = "env; ls -la /run/secrets /hearth/secrets; cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n'; echo spied"
    platform.deploy(
        "keeps", "python", {"handler.py": PYTHON.replace('"OTHER"', '"LEAK_ME"')}, secrets=["LEAK_ME"],
        build={"command": spy}, scale={"min": 1},
    )  # fmt: skip
    assert seen(platform, "keeps")["env"] == {"LEAK_ME": value}
    built = platform.cli("logs", "keeps", "--source", "build")
    assert "spied" in built and "LEAK_ME" not in built
    forms = [value.encode(), base64.b64encode(value.encode())[:-4], value.encode().hex().encode()]

    def clean(data: bytes, where: object) -> None:
        assert not any(form in data for form in forms), where

    with pytest.raises(AssertionError):  # it would see one
        clean(platform.call("/fn/ann/keeps").body, "the function's own answer")
    looked = 0
    for pid in members(platform.instance):
        for part in ("cmdline", "environ"):
            try:
                clean(Path(f"/proc/{pid}/{part}").read_bytes(), f"{pid} {part}")
                looked += 1
            except (FileNotFoundError, ProcessLookupError):
                continue  # a slot that was removed meanwhile
    assert looked > 10
    files = [path for folder in (platform.data, platform.home / "config") for path in folder.rglob("*")]
    for path in [*files, platform.home / "log"]:
        if path.is_file() and not path.is_symlink():
            for part in contents(path):
                clean(part, path)
    for arguments in (
        ("secrets", "list", "--json"), ("describe", "keeps", "--json"), ("versions", "keeps", "--json"), ("logs", "keeps"),
    ):  # fmt: skip
        clean(platform.cli(*arguments).encode(), arguments)
    with closing(sqlite3.connect(platform.data / "hearth.db")) as connection:
        events = connection.execute("SELECT details FROM events WHERE kind = 'secret'").fetchall()
    assert {"name": "LEAK_ME", "did": "set"} in [json.loads(details) for (details,) in events]


def test_a_changed_one_reaches_functions_under_load_without_a_failed_call(platform: Platform) -> None:
    set_secret(platform, "TURNS", "turn-0")
    handler = "import os\ndef handler(event, context):\n    return os.environ['TURNS']\n"
    for name, concurrency in (("turns", 1), ("turns-wide", 8)):
        platform.deploy(name, "python", {"handler.py": handler}, secrets=["TURNS"], concurrency=concurrency)
    paths = ("/fn/ann/turns", "/fn/ann/turns-wide")
    with Load(platform.url, paths, clients=4) as load:
        for turn in range(1, 6):
            set_secret(platform, "TURNS", f"turn-{turn}")
            for path in paths:
                until(lambda path=path, turn=turn: load.bodies[path, f"turn-{turn}".encode()] > 10)
            before = [load.bodies[path, f"turn-{turn - 1}".encode()] for path in paths]
            until(
                lambda path=paths, turn=turn: all(
                    load.bodies[one, f"turn-{turn}".encode()] > 60 for one in path
                )
            )
            late = [load.bodies[path, f"turn-{turn - 1}".encode()] for path in paths]
            assert all(after - then < 60 for after, then in zip(late, before, strict=True))
    assert load.failures == []
    assert load.good > 500


def test_one_that_does_not_load_with_the_new_value_goes_on_with_the_old(platform: Platform) -> None:
    set_secret(platform, "PICKY", "good")
    handler = "import os\nVALUE = os.environ['PICKY']\nassert VALUE != 'bad'\ndef handler(event, context):\n    return VALUE\n"
    platform.deploy("picky", "python", {"handler.py": handler}, secrets=["PICKY"], scale={"idle": "60s"})
    assert platform.call("/fn/ann/picky").body == b"good"
    set_secret(platform, "PICKY", "bad")
    until(lambda: "AssertionError" in platform.cli("logs", "picky"))
    assert platform.call("/fn/ann/picky").body == b"good"
    set_secret(platform, "PICKY", "better")
    until(lambda: platform.call("/fn/ann/picky").body == b"better")


def test_one_that_is_deleted_all_the_same(platform: Platform) -> None:
    set_secret(platform, "GONE", "here")
    handler = "import os\ndef handler(event, context):\n    return os.environ['GONE']\n"
    platform.deploy("bereft", "python", {"handler.py": handler}, secrets=["GONE"])
    assert "bereft can't run without GONE" in platform.cli("secrets", "delete", "GONE", "--yes", code=1)
    assert platform.call("/fn/ann/bereft").body == b"here"
    platform.cli("secrets", "delete", "GONE", "--yes", "--force")
    until(lambda: platform.call("/fn/ann/bereft").status == 502)
    assert platform.call("/fn/ann/bereft").headers["X-Hearth-Error"] == "function_load_failed"
    set_secret(platform, "GONE", "back")
    until(lambda: platform.call("/fn/ann/bereft").status == 200)
    platform.cli("delete", "bereft", "--yes")
    platform.cli("secrets", "delete", "GONE", "--yes")


@contextmanager
def store_locked(platform: Platform) -> Iterator[None]:
    with closing(sqlite3.connect(platform.data / "hearth.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def test_a_cold_start_needs_neither_control_nor_the_store(platform: Platform) -> None:
    value = fresh()
    set_secret(platform, "TOKEN", value)
    handler = PYTHON.replace(
        '    folder = "/run', "    if event['rawPath'] == '/die': os._exit(1)\n    folder = \"/run"
    )
    platform.deploy("alone", "python", {"handler.py": handler}, secrets=["TOKEN"])
    assert seen(platform, "alone")["env"] == {"TOKEN": value}
    [control] = platform.pids("control")
    os.kill(control, signal.SIGSTOP)
    try:
        with store_locked(platform):
            assert platform.call("/fn/ann/alone/die").status == 502
            assert seen(platform, "alone") == {"env": {"TOKEN": value}, "files": {"TOKEN": value}}
    finally:
        os.kill(control, signal.SIGCONT)


def test_they_outlive_a_restart_and_go_with_their_function(own_platform: Platform) -> None:
    value = fresh()
    own_platform.start().register()
    set_secret(own_platform, "TOKEN", value, "--function", "lasting")
    own_platform.deploy("lasting", "python", FUNCTIONS["python"], secrets=["TOKEN"])
    assert own_platform.stop() == 0
    own_platform.start(int(own_platform.url.rpartition(":")[2]))
    assert seen(own_platform, "lasting")["env"] == {"TOKEN": value}
    own_platform.kill("shard")  # the next one is handed the key too
    until(lambda: own_platform.call("/healthz").status == 200)
    assert seen(own_platform, "lasting")["env"] == {"TOKEN": value}
    own_platform.cli("delete", "lasting", "--yes")
    with closing(sqlite3.connect(own_platform.data / "hearth.db")) as connection:
        assert connection.execute("SELECT count(*) FROM secrets").fetchone() == (0,)
