"""kill -9 of each process under load: calls work again, nothing is left, nothing acknowledged is lost."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from tests.e2e.platform import Platform, leftovers, members, until

pytestmark = pytest.mark.root

HELLO = {"handler.py": "def handler(event, context):\n    return 'hello'\n"}


class Load:
    """Calls a function on and on from a few threads; remembers what came back."""

    def __init__(self, platform: Platform, path: str) -> None:
        self._platform, self._path = platform, path
        self._stop = threading.Event()
        self.good = 0
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._platform.call(self._path, timeout=10).status == 200:
                    self.good += 1
            except OSError:
                time.sleep(0.01)  # cut while a process was killed: that is what this test does


@pytest.mark.parametrize("kind", ["shard", "keeper", "control", "resolver"])
def test_calls_work_again(own_platform: Platform, kind: str) -> None:
    platform = own_platform.start()
    platform.register()
    platform.deploy("hello", "python", HELLO)
    with Load(platform, "/fn/ann/hello") as load:
        until(lambda: load.good > 20)
        for _ in range(2):
            before = platform.pids(kind)
            platform.kill(kind)
            until(
                lambda before=before: platform.pids(kind) not in ([], before),
                what=f"{kind} was not started again",
            )
            good = load.good
            until(lambda good=good: load.good > good + 20, what="calls don't work again")
    until(lambda: platform.call("/api/v1/server").status == 200)
    platform.deploy("hello", "python", {"handler.py": "def handler(e, c): return 'two'\n"})
    until(lambda: platform.call("/fn/ann/hello").body == b"two")
    assert platform.stop() == 0


def test_a_killed_supervisor_takes_everything_along(own_platform: Platform) -> None:
    platform = own_platform.start()
    platform.register()
    platform.deploy("hello", "python", HELLO)
    assert platform.call("/fn/ann/hello").body == b"hello"
    assert len(members(platform.instance)) > 4
    platform.stop(signal.SIGKILL)
    until(lambda: not members(platform.instance), what="something lives on")
    platform.start()
    assert platform.call("/fn/ann/hello").body == b"hello"
    assert platform.stop() == 0


def test_killed_together_the_next_start_is_clean(own_platform: Platform) -> None:
    platform = own_platform.start()
    platform.register()
    platform.deploy("hello", "python", HELLO)
    assert platform.process is not None
    keepers = platform.pids("keeper")
    for pid in (platform.process.pid, *keepers):
        import os

        os.kill(pid, signal.SIGKILL)
    platform.process.wait()
    until(lambda: not members(platform.instance), what="something lives on")
    platform.start()
    assert platform.call("/fn/ann/hello").body == b"hello"
    assert platform.stop(signal.SIGINT) == 0
    assert leftovers(platform.instance) == []


def test_two_platforms_side_by_side(own_platform: Platform, platform: Platform) -> None:
    second = own_platform.start()
    second.register()
    second.deploy("hello", "python", HELLO)
    platform.deploy("beside", "python", HELLO)
    assert second.call("/fn/ann/hello").body == b"hello"
    assert second.stop() == 0
    assert platform.call("/fn/ann/beside").body == b"hello"


def test_one_data_directory_one_platform(platform: Platform) -> None:
    said = platform.cli("up", "--port", "0", "--data-dir", str(platform.data), code=1)
    assert "another hearth runs" in said and "hint" in said


def test_a_port_in_use(platform: Platform, own_platform: Platform) -> None:
    port = platform.url.rpartition(":")[2]
    said = own_platform.cli("up", "--port", port, "--data-dir", str(own_platform.data), code=1)
    assert "in use" in said and "hint" in said
