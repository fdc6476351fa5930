"""SIGTERM drains: what is in work ends, newcomers are told, nothing is cut, nothing that only waits holds it up."""

from __future__ import annotations

import contextlib
import http.client
import signal
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.platform import HEARTH, Platform, until

pytestmark = pytest.mark.root

SLOW = {
    "handler.py": """
import os, time
def handler(event, context):
    print("begun", flush=True)
    time.sleep(float(event["queryStringParameters"]["seconds"]))
    return "done"
"""
}
STREAM = {
    "handler.py": """
import time
def handler(event, context):
    for number in range(20):
        yield f"{number}\\n"
        time.sleep(0.1)
"""
}


class Caller(threading.Thread):
    """One request on a connection of its own, in the background."""

    def __init__(self, platform: Platform, path: str) -> None:
        super().__init__()
        self.connection = connect(platform)
        self.path = path
        self.status = 0
        self.body = b""
        self.error: Exception | None = None
        self.begun = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            self.connection.request("GET", self.path)
            answer = self.connection.getresponse()
            self.status = answer.status
            while data := answer.read1(1000):
                self.body += data
                self.begun.set()
        except (OSError, http.client.HTTPException) as error:
            self.error = error
        finally:
            self.connection.close()

    def result(self) -> tuple[int, bytes, Exception | None]:
        self.join(60)
        return self.status, self.body, self.error


def connect(platform: Platform, timeout: float = 60) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", int(platform.url.rpartition(":")[2]), timeout=timeout)


@contextlib.contextmanager
def kept(platform: Platform) -> Iterator[http.client.HTTPConnection]:
    """A connection that has been used once and is kept."""
    connection = connect(platform)
    try:
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b"ok\n"
        yield connection
    finally:
        connection.close()


def ask(connection: http.client.HTTPConnection, path: str) -> http.client.HTTPResponse:
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer


def ready(platform: Platform) -> bool:
    """Whether the platform says that it takes requests; asked on a new connection."""
    return platform.call("/readyz").status == 200


def in_work(platform: Platform, name: str, count: int) -> None:
    """Wait until so many requests have begun in a function that says so."""
    until(lambda: platform.cli("logs", name).count("begun") >= count, what="the requests did not begin")


def test_what_is_in_work_ends_and_newcomers_are_told(own_platform: Platform) -> None:
    platform = own_platform.start()
    platform.register()
    platform.deploy("slow", "python", SLOW, scale={"max": 1})
    platform.deploy("stream", "python", STREAM)
    assert platform.process is not None
    with kept(platform) as asking:
        calls = [Caller(platform, "/fn/ann/slow?seconds=3"), Caller(platform, "/fn/ann/stream")]
        in_work(platform, "slow", 1)
        calls.append(Caller(platform, "/fn/ann/slow?seconds=0"))  # waits for the only instance
        assert calls[1].begun.wait(20)
        until(lambda: ask(asking, "/healthz").status == 200)
        platform.process.send_signal(signal.SIGTERM)
        until(lambda: not ready(platform), what="it does not say that it drains")
        new = platform.call("/fn/ann/slow?seconds=0")
        assert (new.status, new.json()["error"]["code"]) == (503, "draining")
        assert new.headers["Retry-After"] == "1"
        assert new.headers["Connection"] == "close"
        assert platform.call("/healthz").status == 200
        answer = ask(asking, "/fn/ann/stream")
        assert (answer.status, answer.headers["Connection"]) == (200, "close")
        stream = b"".join(b"%d\n" % number for number in range(20))
        assert [call.result() for call in calls] == [
            (200, b"done", None),
            (200, stream, None),
            (200, b"done", None),
        ]
        assert platform.process.wait(20) == 0


def test_a_second_signal_hurries(own_platform: Platform) -> None:
    platform = own_platform.start()
    platform.register()
    platform.deploy("slow", "python", SLOW, timeout="5m")
    assert platform.process is not None
    call = Caller(platform, "/fn/ann/slow?seconds=200")
    in_work(platform, "slow", 1)
    platform.process.send_signal(signal.SIGINT)
    until(lambda: not ready(platform))
    assert platform.process.poll() is None
    platform.process.send_signal(signal.SIGINT)
    assert platform.process.wait(20) == 0
    status, body, error = call.result()
    assert (status, error) == (503, None)
    assert b"draining" in body


def test_a_kept_connection_and_a_followed_deploy_do_not_hold_a_stop_up(own_platform: Platform) -> None:
    """The build is handed back: the deploy that was watched ends well once the platform is up again."""
    platform = own_platform
    platform.flags = ("--drain-grace", "10m")
    platform.start()
    platform.register()
    folder = platform.function(
        "built", "python", SLOW, auth="public", build={"command": "echo building; sleep 3; echo built"}
    )
    said: list[str] = []
    deploying: Any = subprocess.Popen(
        [HEARTH, "deploy", str(folder)],
        env=platform.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    reader = threading.Thread(target=lambda: said.extend(deploying.stderr))
    reader.start()
    try:
        with kept(platform):
            until(lambda: "  building\n" in said, what="no build began")
            assert platform.stop() == 0
        assert deploying.poll() is None
        platform.start(int(platform.url.rpartition(":")[2]))
        assert deploying.wait(60) == 0
        assert platform.call("/fn/ann/built?seconds=0").body == b"done"
        assert platform.stop() == 0
    finally:
        deploying.kill()
        deploying.wait()
        reader.join()
        deploying.stderr.close()
