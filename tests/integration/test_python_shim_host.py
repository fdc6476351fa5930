"""Host side and Python shim together: real processes, real sockets, many requests at once."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from hearth.core.errors import FunctionCrashed, FunctionLoadFailed
from hearth.guest.connection import GuestConnection
from hearth.guest.factory import StreamGuests
from hearth.protocol.heads import request_head
from tests.integration.guest_peer import Listener
from tests.integration.python_shim import ARGV
from tests.integration.shim_host import write_files


class Clock:
    def monotonic(self) -> float:
        return time.monotonic()

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Any:
    def play(scene: Any) -> None:
        async def limited() -> None:
            async with asyncio.timeout(60):
                await scene

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(limited())

    return play


@asynccontextmanager
async def guest(
    folder: Path, source: str, **settings: Any
) -> AsyncIterator[tuple[GuestConnection, list[Any]]]:
    code = write_files(folder / "code", {"handler.py": source})
    logs: list[Any] = []
    closed = asyncio.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "guest.sock"))
        listener.listen(1)
        process = subprocess.Popen([sys.executable, *ARGV[1:]], env={"HEARTH_SLOT_DIR": str(folder)}, cwd="/")
        connection, _ = listener.accept()
    clock = Clock()
    opened = await StreamGuests(clock).open(
        connection.detach(), clock.monotonic() + 20, lambda *line: logs.append(line), closed.set
    )
    try:
        payload = {"function": "f", "namespace": "n", "version": "1", "code": str(code), "memory_mb": 256}
        await opened.load({**payload, **settings}, clock.monotonic() + 20)
        yield opened, logs
    finally:
        opened.close()
        await closed.wait()
        assert await asyncio.to_thread(process.wait, 20) is not None


def head(number: int, target: str = "/", method: str = "POST") -> bytes:
    return request_head(
        f"inv_{number}", 30_000, method, target, "/fn/n/f", "", "127.0.0.1", "http", [(b"host", b"x")]
    )


ECHO = """
import base64
WORD handler(event, context):
    print(event["rawPath"])
    return event.get("body", "").encode()
"""


@pytest.mark.parametrize(("word", "concurrency"), [("def", 1), ("def", 32), ("async def", 32)])
def test_thousands_of_requests_at_once(word: str, concurrency: int, run: Any, tmp_path: Path) -> None:
    async def scene() -> None:
        async with guest(tmp_path, ECHO.replace("WORD", word), concurrency=concurrency) as (opened, logs):
            heard = [Listener() for _ in range(2000)]
            for number, one in enumerate(heard):
                opened.request(head(number, f"/{number}"), b"%d" % number, True, one)
            for one in heard:
                await one.over.wait()
            assert [one.error for one in heard if one.error] == []
            import base64

            assert all(base64.b64decode(one.body) == b"%d" % n for n, one in enumerate(heard))
            assert {(inv, text) for inv, _, _, _, text in logs} == {
                (f"inv_{n}", f"/{n}") for n in range(2000)
            }

    run(scene())


def test_100_mb_both_ways(run: Any, tmp_path: Path) -> None:
    source = """
def peak():  # ru_maxrss would also tell of the process that started this one
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
def app(environ, start_response):
    start_response("200 OK", [("content-type", "application/octet-stream")])
    if environ["QUERY_STRING"]:
        yield str(peak()).encode()
        return
    while data := environ["wsgi.input"].read(100_000):
        yield data
"""

    class Counting(Listener):
        got = 0

        def on_body(self, data: bytes, end: bool) -> None:
            self.got += len(data)
            call.consumed(len(data))
            if end:
                self.over.set()

    async def scene() -> None:
        nonlocal call
        async with guest(tmp_path, source, concurrency=1) as (opened, _):
            heard = Counting()
            call = opened.request(head(1), b"", False, heard)
            for part in range(1600):
                if not call.write(b"x" * 62_500, part == 1599):
                    heard.writable.clear()
                    await heard.writable.wait()
            await heard.over.wait()
            assert heard.error is None and heard.got == 100_000_000
            peak = Listener()
            opened.request(head(2, "/?peak"), b"", True, peak)
            await peak.over.wait()
            assert int(peak.body) < 64

    call: Any = None
    run(scene())


def test_death_and_load_errors(run: Any, tmp_path: Path) -> None:
    async def scene() -> None:
        exits = "import os\ndef handler(event, context): os._exit(1)\n"
        async with guest(tmp_path, exits) as (opened, _):
            heard = Listener()
            opened.request(head(1), b"", True, heard)
            await heard.over.wait()
            assert isinstance(heard.error, FunctionCrashed)
        (tmp_path / "guest.sock").unlink()
        with pytest.raises(FunctionLoadFailed, match=r"SyntaxError: .*\(handler.py, line 1\)"):
            async with guest(tmp_path, "def ("):
                pass

    run(scene())
