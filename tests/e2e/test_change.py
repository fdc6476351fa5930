"""Redeploys, deletes and planned restarts while clients that keep their connections call on and on: no call fails."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from tests.e2e.load import Load
from tests.e2e.platform import Platform, until

pytestmark = pytest.mark.root

CALLS = 1000
NAMES = ("one", "many", "js")
PATHS = tuple(f"/fn/ann/{name}" for name in NAMES)


def put(platform: Platform, name: str, number: int) -> None:
    """Deploy a function that answers with its number: python one by one, python side by side, node."""
    if name == "js":
        text = f"export const handler = async () => {{ await new Promise(r => setTimeout(r, 3)); return '{number}' }}\n"
        platform.deploy("js", "node", {"handler.mjs": text})
    else:
        text = f"import time\ndef handler(event, context):\n    time.sleep(0.005)\n    return '{number}'\n"
        platform.deploy(name, "python", {"handler.py": text}, concurrency={"one": 1, "many": 8}[name])


def enough(load: Load) -> None:
    """Wait until the clients of every path have made good calls for a while."""
    before = {path: sum(load.of(path).values()) for path in load.paths}
    until(
        lambda: all(sum(load.of(path).values()) >= before[path] + 50 for path in load.paths) or load.failures,
        what=f"calls do not go on: {load.bodies}",
    )


def test_redeploys_under_load(own_platform: Platform) -> None:
    platform = own_platform.start()
    platform.register()
    for name in NAMES:
        put(platform, name, 0)
    with Load(platform.url, PATHS) as load:
        for number in range(1, 8):
            for name in NAMES:
                put(platform, name, number)
        until(lambda: load.good >= CALLS)
        for path in PATHS:
            until(lambda path=path: load.of(path)[b"7"], what=f"{path}: the last version does not answer")
    assert load.failures == []
    assert load.connections == len(PATHS) * load.clients, "a connection was not kept"
    for path in PATHS:
        assert set(load.of(path)) == {b"%d" % number for number in range(8)}
    assert platform.stop() == 0


@pytest.mark.parametrize("how", ["SIGHUP to the supervisor", "SIGTERM to the shard"])
def test_planned_restarts_under_load(own_platform: Platform, how: str) -> None:
    own_platform.flags = ("--max-instances", "8")  # too few for two shards at once
    platform = own_platform.start()
    platform.register()
    for name in NAMES:
        put(platform, name, 0)
    assert platform.process is not None
    with (
        Load(platform.url, (*PATHS, "/api/v1/server"), clients=2) as load,
        Load(platform.url, PATHS, clients=1, pause=0.9) as seldom,
    ):
        for _ in range(2):
            before = {kind: platform.pids(kind) for kind in ("shard", "control", "resolver", "keeper")}
            if how.startswith("SIGHUP"):
                done = platform.log().count("replaced\n")
                os.kill(platform.process.pid, signal.SIGHUP)
                until(lambda done=done: platform.log().count("replaced\n") > done, 60)
                changed = {"shard", "control", "resolver"}
            else:
                os.kill(before["shard"][0], signal.SIGTERM)
                changed = {"shard"}
            for kind in before:
                if kind in changed:
                    until(
                        lambda kind=kind, before=before: not set(platform.pids(kind)) & set(before[kind]), 60,
                        f"the {kind} before goes on",
                    )  # fmt: skip
                    until(lambda kind=kind: len(platform.pids(kind)) == 1)
                else:
                    assert set(before[kind]) <= set(
                        platform.pids(kind)
                    )  # a child before its exec looks the same
            enough(load)
        until(lambda: load.good >= CALLS)
    assert load.failures == seldom.failures == []
    put(platform, "one", 1)
    assert platform.call("/fn/ann/one").body == b"1"
    assert platform.stop() == 0


def test_a_successor_that_does_not_start_changes_nothing(own_platform: Platform) -> None:
    platform = own_platform.start()
    platform.register()
    put(platform, "one", 0)
    before = platform.pids("control") + platform.pids("shard")
    database = platform.data / "hearth.db"
    key = platform.data / "aside"
    database.rename(key)
    database.mkdir()
    try:
        assert platform.process is not None
        os.kill(platform.process.pid, signal.SIGHUP)
        until(lambda: "the others were not replaced" in platform.log(), 60)
    finally:
        database.rmdir()
        key.rename(database)
    assert platform.pids("control") + platform.pids("shard") == before
    assert platform.call("/fn/ann/one").body == b"0"
    assert platform.stop() == 0


def test_a_delete_lets_calls_in_work_end(own_platform: Platform) -> None:
    platform = own_platform.start()
    platform.register()
    text = "import time\ndef handler(event, context):\n    print('begun', flush=True)\n    time.sleep(2)\n    return 'done'\n"
    platform.deploy("gone", "python", {"handler.py": text}, concurrency=4)
    put(platform, "one", 0)
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(platform.call("/fn/ann/gone"))) for _ in range(4)
    ]
    with Load(platform.url, ("/fn/ann/one",)) as load:
        for thread in threads:
            thread.start()
        until(lambda: platform.cli("logs", "gone").count("begun") == 4)
        platform.cli("delete", "gone", "--yes")
        until(lambda: platform.call("/fn/ann/gone").status == 404)
        for thread in threads:
            thread.join()
        enough(load)
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"done")] * 4
    assert load.failures == []
    assert platform.stop() == 0
