"""The data path with real guests: the Python shim in processes of its own, the real host side of the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from hearth.core.function import FunctionConfig, Scale
from hearth.core.launch import Exit, Handle, SandboxSpec
from hearth.guest.factory import StreamGuests
from hearth.testing.driver import ScriptedDriver
from tests.integration.gateway.kit import PlainRuntime, RealClock, Shard, get, route_row, shard, until

SHIM = Path(__file__).parents[3] / "src/hearth/runtimes/shims/python/main.py"
CODE = """
import asyncio, json, os, sys, time

def handler(event, context):
    path = event["rawPath"]
    if path == "/sleep":
        time.sleep(float(event["queryStringParameters"]["s"]))
    elif path == "/raise":
        raise KeyError("the secret")
    elif path == "/exit":
        os._exit(3)
    elif path == "/stream":
        return (f"line {n}\\n" * 1000 for n in range(200))
    elif path == "/length":
        import base64
        body = event.get("body") or ""
        return str(len(base64.b64decode(body)) if event["isBase64Encoded"] else len(body))
    return {"statusCode": 200, "headers": {"x-pid": str(os.getpid())}, "body": "hello"}
"""
ASYNC = """
import asyncio
running = 0

async def handler(event, context):
    global running
    if event["rawPath"] == "/running":
        return str(running)
    running += 1
    try:
        await asyncio.sleep(30)
    finally:
        running -= 1
"""


class Processes(ScriptedDriver):
    """A driver whose sandboxes are shims without any isolation."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self._code = code
        self.processes: dict[Handle, tuple[subprocess.Popen[bytes], Path]] = {}

    async def start(self, spec: SandboxSpec, deadline: float) -> Handle:
        handle = await super().start(spec, deadline)
        folder = Path(tempfile.mkdtemp(prefix="hearth-gw-"))
        (folder / "code").mkdir()
        (folder / "code/handler.py").write_text(self._code)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / "guest.sock"))
        self.listener.listen(1)
        self.listener.setblocking(False)
        process = subprocess.Popen(
            ["/usr/bin/python3", "-I", "-S", str(SHIM)],
            env={"HEARTH_SLOT_DIR": str(folder), "PATH": "/usr/bin:/bin"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.processes[handle] = process, folder
        return handle

    async def connect(self, handle: Handle, deadline: float) -> int:
        listener = self.listener
        async with asyncio.timeout(10):
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
        listener.close()
        return connection.detach()

    async def wait(self, handle: Handle) -> Exit:
        process, _ = self.processes[handle]
        return Exit(await asyncio.to_thread(process.wait))

    async def stop(self, handle: Handle, grace: float) -> Exit:
        process, folder = self.processes[handle]
        process.kill()
        await asyncio.to_thread(process.wait)
        shutil.rmtree(folder, ignore_errors=True)
        return await super().stop(handle, grace)

    def code(self) -> str:
        return str(list(self.processes.values())[-1][1] / "code")


class ShimRuntime(PlainRuntime):
    def __init__(self, driver: Processes) -> None:
        self._driver = driver

    def load(self, config: FunctionConfig, identity: dict[str, str]) -> dict[str, Any]:
        return {
            **identity, "runtime": "python", "code": self._driver.code(), "handler": "",
            "concurrency": config.concurrency, "memory_mb": 256, "timeout_ms": int(config.timeout * 1000),
            "init_timeout_ms": 10_000, "env": {},
        }  # fmt: skip


@contextlib.asynccontextmanager
async def real(code: str = CODE, **config: Any) -> AsyncIterator[Shard]:
    driver = Processes(code)
    async with shard(
        None,
        route_row("hello", **config),
        driver=driver,
        factory=StreamGuests(RealClock()),
        runtime=ShimRuntime(driver),
    ) as front:
        yield front


async def test_a_call_an_error_and_an_exit() -> None:
    async with real(auth="members") as front:
        member = b"Authorization: Bearer member"
        reply = await front.ask(get("hello", member))
        assert (reply.status, reply.body) == (200, b"hello")
        pid = reply.headers["x-pid"]
        reply = await front.ask(get("hello/raise", member))
        error = json.loads(reply.body)["error"]
        assert (reply.status, error["code"]) == (502, "function_failed")
        assert "handler.py" in error["details"]["traceback"]
        assert (await front.ask(get("hello", member))).headers["x-pid"] == pid
        reply = await front.ask(get("hello/exit", member))
        error = json.loads(reply.body)["error"]
        assert (reply.status, error["code"]) == (502, "function_crashed")
        assert "code 3" in error["message"]
        assert (await front.ask(get("hello", member))).headers["x-pid"] != pid


async def test_a_syntax_error_is_told_with_its_line() -> None:
    async with real("def handler(event, context)\n    pass\n", auth="members") as front:
        reply = await front.ask(get("hello", b"Authorization: Bearer member"))
        error = json.loads(reply.body)["error"]
        assert (reply.status, error["code"], error["details"]["line"]) == (502, "function_load_failed", 1)


async def test_bodies_of_megabytes_in_and_out() -> None:
    async with real() as front:
        client = await front.client()
        size = 5 << 20
        head = b"POST /fn/ann/hello/length HTTP/1.1\r\nHost: a\r\nContent-Type: application/octet-stream\r\n"
        await client.send(head + b"Content-Length: %d\r\n\r\n" % size + b"x" * size)
        assert (await client.reply()).body == str(size).encode()
        await client.send(
            head
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + (b"10000\r\n" + b"y" * 65536 + b"\r\n") * 20
            + b"0\r\n\r\n"
        )
        assert (await client.reply()).body == str(20 * 65536).encode()
        await client.send(get("hello/stream"))
        assert len((await client.reply()).body) == sum(len(f"line {n}\n") * 1000 for n in range(200))
        await client.close()


async def test_a_timeout_ends_the_instance_and_the_next_call_works() -> None:
    async with real(timeout=0.5) as front:
        reply = await front.ask(get("hello/sleep?s=20"))
        assert reply.status == 504
        assert (await front.ask(get("hello"))).status == 200


async def test_a_client_that_leaves_does_not_get_the_next_one_killed() -> None:
    """One at a time: the handler runs on, the instance is busy until it has returned, and is used again then."""
    async with real(scale=Scale(max=1)) as front:
        pid = (await front.ask(get("hello"))).headers["x-pid"]
        client = await front.client()
        await client.send(get("hello/sleep?s=0.8"))
        await until(lambda: front.pool.instances[0].in_flight == 1)
        await client.close()
        await until(lambda: front.recorder.figures()["fn_hello"].cancelled == 1)
        reply = await front.ask(get("hello"))
        assert (reply.status, reply.headers["x-pid"]) == (200, pid)
        assert not front.door.shared.abandoned


async def test_threads_put_down_what_was_cancelled() -> None:
    async with real(concurrency=4, scale=Scale(max=1)) as front:
        pid = (await front.ask(get("hello"))).headers["x-pid"]
        clients = [await front.client() for _ in range(4)]
        for client in clients:
            await client.send(get("hello/sleep?s=0.8"))
        await until(lambda: front.pool.instances[0].in_flight == 4)
        for client in clients:
            await client.close()
        await until(lambda: front.recorder.figures()["fn_hello"].cancelled == 4)
        assert (await front.ask(get("hello"))).headers["x-pid"] == pid
        await until(lambda: front.pool.instances[0].in_flight == 0)


async def test_an_async_handler_is_cancelled_with_its_client() -> None:
    async with real(ASYNC, concurrency=8) as front:
        clients = [await front.client() for _ in range(3)]
        for client in clients:
            await client.send(get("hello/wait"))
        await until(lambda: bool(front.pool.instances) and front.pool.instances[0].in_flight == 3)
        assert (await front.ask(get("hello/running"))).body == b"3"
        for client in clients:
            await client.close()
        await until(lambda: front.pool.instances[0].in_flight == 0)
        assert (await front.ask(get("hello/running"))).body == b"0"


async def test_blocking_handlers_run_side_by_side() -> None:
    async with real(concurrency=16, scale=Scale(max=1)) as front:
        await front.ask(get("hello"))
        replies = await asyncio.gather(*(front.ask(get("hello/sleep?s=0.3")) for _ in range(16)))
        assert {reply.status for reply in replies} == {200}
        assert len(front.pool.instances) == 1


async def test_a_hundred_at_once() -> None:
    async with real(scale=Scale(max=4)) as front:
        replies = await asyncio.gather(*(front.ask(get("hello")) for _ in range(100)))
        assert {reply.status for reply in replies} == {200}
        assert len(front.pool.instances) <= 4
