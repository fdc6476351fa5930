"""kill -9 of each process at random, under load and while deploys go on: calls work again, no acknowledged deploy is lost.

A run is made by its seed, which is printed; HEARTH_TEST_SEED repeats one. Recovery times are printed, not judged, but for
a bound that only a platform that hangs exceeds.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import threading
import time

import pytest

from tests.e2e.load import Load
from tests.e2e.platform import HEARTH, Platform, groups, until

pytestmark = pytest.mark.root

KINDS = ("shard", "control", "keeper", "resolver", "supervisor")
BOUND = 30.0  # seconds: a platform that hangs, on however busy a machine
PATHS = ("/fn/ann/py", "/fn/ann/js", "/api/v1/server")


class Deployer(threading.Thread):
    """Deploys one function again and again, each time with the next number; remembers what it was told succeeded."""

    def __init__(self, platform: Platform) -> None:
        super().__init__()
        self._platform = platform
        self._ending = threading.Event()
        self.tried = 0
        self.acknowledged: list[int] = []
        self.wrong: list[str] = []

    def run(self) -> None:
        platform = self._platform
        while not self._ending.is_set():
            self.tried += 1
            text = f"def handler(event, context):\n    return '{self.tried}'\n"
            folder = platform.function("changing", "python", {"handler.py": text}, auth="public")
            result = subprocess.run(
                [HEARTH, "deploy", str(folder)],
                env=platform.environment,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            if result.returncode == 0:
                self.acknowledged.append(self.tried)
            elif "error: " not in result.stderr or "Traceback" in result.stderr:
                self.wrong.append(result.stderr)
            self._ending.wait(0.2)

    def end(self) -> None:
        self._ending.set()
        self.join()


def recover(load: Load, platform: Platform, kind: str, before: list[int], since: float) -> dict[str, float]:
    """Wait until who was killed is there again and calls of each path are good; returns the seconds that they were not."""
    until(
        lambda: (now := platform.pids(kind)) and not set(now) & set(before),
        BOUND,
        f"the {kind} was not started again",
    )

    def over() -> dict[str, float] | None:
        last = {path: load.trouble(path) for path in PATHS}
        return (
            None
            if None in last.values()
            else {path: max(0.0, (at or 0.0) - since) for path, at in last.items()}
        )

    found: dict[str, float] = until(over, BOUND, f"{kind} killed: calls do not work again")
    return found


def kill(platform: Platform, kind: str) -> None:
    """kill -9; a supervisor is started again on its port, as a service manager would."""
    if kind == "supervisor":
        assert platform.process is not None
        platform.process.kill()
        platform.process.wait()
        platform.start(int(platform.url.rpartition(":")[2]))
    else:
        platform.kill(kind)


def unmatched(platform: Platform) -> str:
    """How the rows of sandboxes differ from their control groups; empty when they don't."""
    with contextlib.closing(sqlite3.connect(platform.data / "hearth.db")) as database:
        rows = {row[0] for row in database.execute("SELECT id FROM sandboxes WHERE state <> 'gone'")}
    tree = f"hearth-{platform.instance}"
    there = {path.name for path in groups(platform.instance) if path.parent.name == tree} - {"guard"}
    return " ".join([f"row {row}" for row in rows - there] + [f"sandbox {name}" for name in there - rows])


def storm(platform: Platform, kills: int) -> None:
    seed = int(os.environ.get("HEARTH_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    chance = random.Random(seed)
    print(f"seed {seed}")
    plan = [*KINDS, *chance.choices(KINDS, weights=(6, 6, 6, 2, 1), k=kills - len(KINDS))]
    chance.shuffle(plan)
    platform.start()
    platform.register()
    platform.deploy(
        "py", "python", {"handler.py": "def handler(event, context):\n    return 'py'\n"}, concurrency=4
    )
    platform.deploy("js", "node", {"handler.mjs": "export const handler = async () => 'js'\n"})
    deployer = Deployer(platform)
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with Load(platform.url, PATHS, clients=2, pause=0.02) as load:
        deployer.start()
        try:
            for kind in plan:
                time.sleep(chance.uniform(0.0, 1.0))  # a kill may meet anything, an unfinished recovery too
                witness = "shard" if kind == "supervisor" else kind
                until(lambda witness=witness: platform.pids(witness), BOUND)
                before = platform.pids(witness)
                since = load.mark()
                kill(platform, kind)
                took = recover(load, platform, witness, before, since)
                times[kind].append(max(took.values()))
                print(f"{kind:10} " + "  ".join(f"{path} {seconds:.2f} s" for path, seconds in took.items()))
        finally:
            deployer.end()
        for kind, seconds in times.items():
            print(f"{kind:10} {len(seconds)} kills, recovered in {sorted(round(s, 2) for s in seconds)} s")
        print(
            f"{load.good} good calls, {len(load.failures)} failed; {len(deployer.acknowledged)} of {deployer.tried} deploys"
        )
        failed = len(load.failures)
        good = load.good
        until(lambda: load.good > good + 100)
        assert load.failures[failed:] == []
    assert deployer.wrong == []
    assert deployer.acknowledged, "no deploy succeeded at all"
    last = deployer.acknowledged[-1]
    until(lambda: platform.call("/fn/ann/changing").status == 200, BOUND)
    assert last <= int(platform.call("/fn/ann/changing").body) <= deployer.tried
    put_again(platform)
    until(lambda: not unmatched(platform), BOUND, "rows and sandboxes differ")
    assert platform.stop() == 0


def put_again(platform: Platform) -> None:
    """A deploy without any kill works at once."""
    platform.deploy("changing", "python", {"handler.py": "def handler(event, context):\n    return 'end'\n"})
    until(lambda: platform.call("/fn/ann/changing").body == b"end")


@pytest.mark.timeout(400)
def test_twenty_kills(own_platform: Platform) -> None:
    storm(own_platform, 20)


@pytest.mark.long
@pytest.mark.timeout(4000)
def test_two_hundred_kills(own_platform: Platform) -> None:
    storm(own_platform, 200)
