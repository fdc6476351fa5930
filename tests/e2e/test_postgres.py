"""A platform on a real PostgreSQL server: end to end, without a trace of its password, and through the server's bad days."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.e2e.platform import Answer, Platform, members, until
from tests.postgres import PASSWORD, ROLE, Postgres, server

pytestmark = pytest.mark.root

HELLO = {"handler.py": "def handler(event, context):\n    return 'hello'\n"}
SECRET = {
    "handler.py": "import os\ndef handler(event, context):\n    print('was called')\n    return os.environ['TOKEN']\n"
}


@pytest.fixture(scope="module")
def hurt() -> Iterator[Postgres]:
    """A server that may be harmed."""
    with server() as made:
        yield made


@pytest.fixture
def on_postgres(own_platform: Platform, hurt: Postgres) -> Platform:
    """Not started, on a database of its own."""
    if hurt.process is None:
        hurt.start()
    own_platform.variables["HEARTH_DATABASE_URL"] = hurt.url(hurt.create())
    return own_platform


def url_of(platform: Platform) -> str:
    return platform.variables["HEARTH_DATABASE_URL"]


@contextmanager
def warm_calls(platform: Platform, path: str) -> Iterator[list[Answer]]:
    """A client that calls on and on meanwhile, and what it was answered."""
    answers: list[Answer] = []
    done = threading.Event()

    def call() -> None:
        while not done.is_set():
            answers.append(platform.call(path))

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield answers
    finally:
        done.set()
        thread.join()


def more(answers: list[Answer], count: int = 20) -> Callable[[], bool]:
    goal = len(answers) + count
    return lambda: len(answers) >= goal


def traces(platform: Platform) -> list[str]:
    """Where the database's password can be seen: by anybody (command lines), in what is said, in what lies on the disk."""
    found = [
        f"command line of {pid}"
        for pid in members(platform.instance)
        if PASSWORD.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    supervisor = platform.process.pid if platform.process is not None else 0
    found += [
        f"environment of {pid}"
        for pid in members(platform.instance) - {supervisor}
        if PASSWORD.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    ]
    said = {"log": platform.log(), "output": "\n".join(platform.output)}
    found += [name for name, text in said.items() if PASSWORD in text]
    for path in platform.data.rglob("*"):
        if path.is_file() and not path.is_symlink() and PASSWORD.encode() in path.read_bytes():
            found.append(str(path))
    return found


def test_from_the_first_start_to_a_call(on_postgres: Platform) -> None:
    platform = on_postgres.start()
    shown = url_of(platform).replace(f":{PASSWORD}", "")
    assert f"  Database   {shown}" in platform.output
    platform.register()
    platform.cli("secrets", "set", "TOKEN", stdin="s3")
    platform.deploy("told", "python", SECRET, secrets=["TOKEN"])
    assert platform.call("/fn/ann/told").body == b"s3"
    until(lambda: "was called" in platform.cli("logs", "told"))
    platform.deploy("told", "python", {"handler.py": "def handler(e, c):\n    return 'two'\n"})
    assert platform.call("/fn/ann/told").body == b"two"
    platform.cli("rollback", "told")
    until(lambda: platform.call("/fn/ann/told").body == b"s3")
    until(lambda: "hello" not in platform.cli("list"))
    assert traces(platform) == []
    assert not (platform.data / "hearth.db").exists()

    assert platform.process is not None
    controls = platform.pids("control")
    platform.process.send_signal(signal.SIGHUP)  # successors beside them, on the same database
    until(lambda: platform.log().count("replaced") >= 1 and platform.pids("control") != controls, 60)
    assert platform.call("/fn/ann/told").body == b"s3"
    assert platform.stop() == 0
    with psycopg.connect(url_of(platform)) as base:
        assert base.execute("SELECT count(*) FROM owners WHERE ended_ms IS NULL").fetchall() == [(0,)]
    platform.start()
    assert platform.call("/fn/ann/told").body == b"s3"
    platform.cli("password", "reset", "ann@example.com", "--password-stdin", stdin="another long one\n")
    login = ("login", "--server", platform.url, "--email", "ann@example.com", "--password-stdin")
    platform.cli(*login, stdin="another long one\n")
    assert traces(platform) == []


def with_hello(platform: Platform) -> Platform:
    """Started, with one function that is up."""
    platform.start()
    platform.register()
    platform.deploy("hello", "python", HELLO)
    assert platform.call("/fn/ann/hello").status == 200
    return platform


def test_warm_calls_go_on_while_the_server_is_down_and_all_heals(
    on_postgres: Platform, hurt: Postgres
) -> None:
    platform = with_hello(on_postgres)
    with warm_calls(platform, "/fn/ann/hello") as answers:
        until(more(answers))
        hurt.stop(signal.SIGQUIT)
        down_ms = time.time() * 1000
        until(more(answers))
        refused = platform.call("/api/v1/server")
        assert (refused.status, refused.headers["X-Hearth-Error"]) == (503, "store_unavailable")
        assert int(refused.headers["Retry-After"]) >= 1
        assert "can't be reached" in platform.cli("deploy", "hello", code=1, cwd=platform.home)
        until(more(answers))
        for kind in ("control", "shard"):  # nobody has ended for it
            assert len(platform.pids(kind)) == 1
        up_ms = time.time() * 1000
        hurt.start()
        until(lambda: platform.call("/api/v1/server").status == 200, 30)
        platform.deploy("hello", "python", {"handler.py": "def handler(e, c):\n    return 'anew'\n"})
        until(lambda: answers[-1].body == b"anew")
    assert {answer.status for answer in answers} == {200}
    assert {answer.body for answer in answers} == {b"hello", b"anew"}
    assert "Traceback" not in platform.log()
    kept = "SELECT count(*) FROM invocations WHERE started_ms BETWEEN %s AND %s"
    # What happened meanwhile is written down later.
    with psycopg.connect(url_of(platform), autocommit=True) as base:
        until(lambda: base.execute(kept, (down_ms, up_ms)).fetchall()[0][0] > 0)
    assert traces(platform) == []


def test_warm_calls_go_on_while_the_server_is_frozen(on_postgres: Platform, hurt: Postgres) -> None:
    platform = with_hello(on_postgres)
    with warm_calls(platform, "/fn/ann/hello") as answers:
        until(more(answers))
        hurt.freeze()
        try:
            refused = platform.call("/api/v1/server")
            assert (refused.status, refused.headers["X-Hearth-Error"]) == (503, "store_unavailable")
            assert "Retry-After" in refused.headers
            until(more(answers))
        finally:
            hurt.freeze(signal.SIGCONT)
        until(lambda: platform.call("/api/v1/server").status == 200, 60)
        platform.deploy("other", "python", HELLO)
    assert {answer.status for answer in answers} == {200}


def test_a_shard_and_a_control_that_die_while_it_is_down_come_back_with_it(
    on_postgres: Platform, hurt: Postgres
) -> None:
    platform = with_hello(on_postgres)
    hurt.stop()
    platform.kill("control")
    platform.kill("shard")
    until(lambda: "can't be opened" in platform.log() or "can't be reached" in platform.log(), 30)
    hurt.start()
    until(lambda: _answers(platform), 60)
    until(lambda: platform.call("/api/v1/server").status == 200, 60)


def _answers(platform: Platform) -> bool:
    try:
        return platform.call("/fn/ann/hello", timeout=5).status == 200
    except OSError:
        return False


def test_it_stops_cleanly_while_the_server_is_down(on_postgres: Platform, hurt: Postgres) -> None:
    platform = on_postgres.start()
    hurt.stop()
    assert platform.stop() == 0


def test_what_keeps_it_from_starting_is_said(on_postgres: Platform, hurt: Postgres) -> None:
    platform = on_postgres
    good = url_of(platform)
    for url, said in {
        good.replace(PASSWORD, f"{PASSWORD}-not"): "refuses the user or its password",
        good.replace(PASSWORD, f"{PASSWORD}@not"): "can't be",
        hurt.url("nothing"): "no such database",
        f"postgresql://{ROLE}:{PASSWORD}@127.0.0.1:1/x": "Connection refused",
        f"mysql://{ROLE}:{PASSWORD}@127.0.0.1/x": "HEARTH_DATABASE_URL can't be what it is",
    }.items():
        platform.variables["HEARTH_DATABASE_URL"] = url
        code = 2 if url.startswith("mysql") else 1
        told = platform.cli("up", "--port", "0", "--data-dir", str(platform.data), code=code)
        assert said in told and PASSWORD not in told, told
    platform.variables["HEARTH_DATABASE_URL"] = good
    assert "was empty before" in platform.cli("migrate")
    assert "already" in platform.cli("migrate")
    with psycopg.connect(good, autocommit=True) as base:
        base.execute("UPDATE alembic_version SET version_num = '9999'")
    for command in (("migrate",), ("up", "--port", "0", "--data-dir", str(platform.data))):
        told = platform.cli(*command, code=1)
        assert "newer Hearth (schema 9999)" in told and "your backup" in told


def test_the_doctor_looks_at_it(on_postgres: Platform) -> None:
    def found() -> str:
        words = ("doctor", "--data-dir", str(platform.data), "--port", "0")
        said = platform.cli(*words) if doctor_is_content else platform.cli(*words, code=1)
        assert PASSWORD not in said
        return said

    platform, doctor_is_content = on_postgres, True
    assert "nothing in it yet" in found()
    platform.cli("migrate")
    assert "schema 0" in found()
    platform.variables["HEARTH_DATABASE_URL"] += "-not"
    doctor_is_content = False
    platform.cli("doctor", "--data-dir", str(platform.data), "--port", "0", code=1)
