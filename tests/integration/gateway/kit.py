"""A shard's front with everything behind it real but the sandboxes: scripted driver, guests that a test answers for."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from hearth.app.invoke import Recorder
from hearth.app.launcher import Launcher
from hearth.app.pool import Pool
from hearth.app.routes import Routes
from hearth.app.sandboxes import SandboxRows
from hearth.app.scaler import Scaler
from hearth.app.slot import Workshop
from hearth.app.slots import Room, Slots
from hearth.core.errors import Unauthenticated
from hearth.core.function import FunctionConfig
from hearth.core.ids import new_id
from hearth.core.launch import SlotPlan, Toolchain
from hearth.core.permissions import KeyScope, Principal
from hearth.core.records import Event, FunctionRow, FunctionSummary, RouteRow, Target, VersionRow
from hearth.core.version import VersionState
from hearth.gateway.door import Door
from hearth.gateway.upstream import Upstream
from hearth.ports.credentials import Unknown
from hearth.ports.guest import GuestFactory
from hearth.testing.driver import NoOutput, ScriptedDriver
from hearth.testing.guest import FakeCall, FakeGuest, FakeGuests

Answerer = Callable[[FakeCall], None]


class RealClock:
    def monotonic(self) -> float:
        import time

        return time.monotonic()

    def now_ms(self) -> int:
        import time

        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class RealIds:
    def new(self, kind: str) -> str:
        import secrets
        import time

        return new_id(kind, time.time_ns() // 1_000_000, secrets.token_bytes(10))


class NullBus:
    def __init__(self) -> None:
        self.callbacks: dict[str, list[Callable[[], None]]] = {}

    def publish(self, topic: str) -> None:
        for callback in self.callbacks.get(topic, ()):
            callback()

    def subscribe(self, topic: str, callback: Callable[[], None]) -> None:
        self.callbacks.setdefault(topic, []).append(callback)


class Rows:
    """RouteStore, Versions and ProcessStore over lists."""

    def __init__(self) -> None:
        self.rows: dict[str, RouteRow] = {}
        self.events: list[Event] = []
        self.invocations: list[Any] = []
        self.sandboxes: list[Any] = []
        self.versions: dict[tuple[str, int], VersionRow] = {}
        self.unrouted: dict[tuple[str, str], FunctionSummary] = {}

    async def find_function(self, namespace: str, name: str) -> FunctionRow | None:
        found = self.unrouted.get((namespace, name))
        return None if found is None else found.function

    async def summary(self, function_id: str) -> FunctionSummary | None:
        return next((row for row in self.unrouted.values() if row.function.id == function_id), None)

    async def routes(self, after: str | None, limit: int) -> list[RouteRow]:
        return [self.rows[key] for key in sorted(self.rows) if key > (after or "")][:limit]

    async def route(self, function_id: str) -> RouteRow | None:
        return self.rows.get(function_id)

    async def last_event(self) -> int:
        return len(self.events)

    async def events_after(self, seq: int, limit: int) -> list[Event]:
        return self.events[seq : seq + limit]

    async def find_version_by_id(self, version_id: str) -> VersionRow | None:
        return None

    async def find_version(self, function_id: str, number: int) -> VersionRow | None:
        return self.versions.get((function_id, number))

    async def save_invocations(self, rows: Any) -> None:
        self.invocations += rows

    async def save_sandboxes(self, rows: Any) -> None:
        self.sandboxes += rows


class Keys:
    """A verifier that knows three credentials; `slow` ones have to be resolved first."""

    def __init__(self, namespace_id: str) -> None:
        from hearth.core.permissions import Action, Role

        roles = ((namespace_id, Role.OWNER),)
        self.known = {
            b"member": Principal("usr_1", "user:usr_1", roles),
            b"stranger": Principal("usr_2", "user:usr_2"),
            b"hk_invoke": Principal(
                "key_1",
                "key:key_1",
                roles,
                key=KeyScope(namespace_id, None, frozenset({Action.INVOKE})),
            ),
            b"hk_other": Principal(
                "key_2",
                "key:key_2",
                roles,
                key=KeyScope(namespace_id, "fn_other", frozenset({Action.INVOKE})),
            ),
        }
        self.judged: dict[bytes, Principal | None] = {}
        self.looked = 0

    def cached(self, token: bytes) -> Principal | Unknown | None:
        return self.judged.get(token, Unknown.UNKNOWN)

    async def resolve(self, token: bytes) -> Principal:
        self.looked += 1
        await asyncio.sleep(0)
        found = self.judged[token] = self.known.get(token)
        if found is None:
            raise Unauthenticated("the credential is expired or not valid")
        return found


class PlainRuntime:
    name = "python"

    def plan_build(self, source: Path, config: FunctionConfig, toolchain: Toolchain) -> Any:
        raise NotImplementedError

    def slot(self, toolchain: Toolchain) -> SlotPlan:
        return SlotPlan(("/bin/guest",), (), ())

    def load(self, config: FunctionConfig, identity: dict[str, str]) -> dict[str, Any]:
        return {**identity, "handler": config.handler, "concurrency": config.concurrency}


class NullLogs:
    def __init__(self) -> None:
        self.lines: list[Any] = []

    def write(self, function_id: str, line: Any) -> None:
        self.lines.append((function_id, line))


def echo(call: FakeCall) -> None:
    """Answers once the request is whole."""
    call.respond(b"200\ncontent-type:text/plain", b"hello")


def function_row(name: str, namespace: str = "ann") -> FunctionRow:
    return FunctionRow(f"fn_{name}", f"ns_{namespace}", namespace, name, 0)


def version_row(name: str, number: int = 1, **config: Any) -> VersionRow:
    made = FunctionConfig(name=name, runtime="python", **{"auth": "public", **config})
    return VersionRow(
        f"ver_{name}_{number}", f"fn_{name}", number, VersionState.READY, made, "src", "art",
        "python-3.11.2", "handler.handler", None, "usr_1", 0, 0,
    )  # fmt: skip


def route_row(name: str, *numbers: int, **config: Any) -> RouteRow:
    targets = tuple(Target(version_row(name, number, **config), 1) for number in numbers or (1,))
    return RouteRow(function_row(name), (("live", targets),))


@dataclasses.dataclass
class Shard:
    door: Door
    pool: Pool
    rows: Rows
    driver: ScriptedDriver
    guests: FakeGuests
    keys: Keys
    routes: Routes
    recorder: Recorder
    slots: Slots
    bus: NullBus
    port: int

    async def put(self, row: RouteRow) -> None:
        self.rows.rows[row.function.id] = row
        self.rows.events.append(Event(len(self.rows.events) + 1, "route", row.function.id, 0))
        await self.routes.follow()

    async def client(self) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        return Client(reader, writer)

    async def ask(self, data: bytes) -> Reply:
        client = await self.client()
        try:
            await client.send(data)
            return await client.reply(head_only=data.startswith(b"HEAD "))
        finally:
            await client.close()


@dataclasses.dataclass
class Reply:
    status: int
    headers: dict[str, str]
    raw_headers: list[tuple[str, str]]
    body: bytes
    trailers: bytes = b""


@dataclasses.dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, list[tuple[str, str]]]:
        text = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)).decode("latin-1")
        first, *lines = text[:-4].split("\r\n")
        return int(first.split(" ")[1]), [tuple(line.split(": ", 1)) for line in lines]  # type: ignore[misc]

    async def reply(self, head_only: bool = False) -> Reply:
        status, fields = await self.head()
        headers = {name.lower(): value for name, value in fields}
        body = trailers = b""
        if not head_only and status not in (204, 304) and status >= 200:
            body, trailers = await asyncio.wait_for(self._body(headers), 10)
        return Reply(status, headers, fields, body, trailers)

    async def _body(self, headers: dict[str, str]) -> tuple[bytes, bytes]:
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while True:
                size = int((await self.reader.readuntil(b"\r\n"))[:-2], 16)
                if size == 0:
                    trailers = b""
                    while (line := await self.reader.readuntil(b"\r\n")) != b"\r\n":
                        trailers += line
                    return body, trailers
                body += (await self.reader.readexactly(size + 2))[:-2]
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"])), b""
        return await self.reader.read(), b""

    async def eof(self) -> bytes:
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.read(), 10)
        return b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def shard(
    answer: Answerer | None = echo,
    *routes: RouteRow,
    control: Path = Path("/nonexistent/control.sock"),
    slots: int = 0,
    room: int = 50,
    make_guest: Callable[[int], Any] | None = None,
    driver: ScriptedDriver | None = None,
    factory: GuestFactory | None = None,
    runtime: Any = None,
    **options: Any,
) -> AsyncIterator[Shard]:
    """A shard on a free port; `answer` gets every request of every guest."""
    clock, ids, rows, bus = RealClock(), RealIds(), Rows(), NullBus()
    driver = driver or ScriptedDriver()
    guests = FakeGuests(make_guest or (lambda fd: FakeGuest(answer)))
    shop = Workshop(
        driver=driver, guests=factory or guests, outputs=NoOutput(), runtimes={"python": runtime or PlainRuntime()},
        rows=SandboxRows(rows, clock), logs=NullLogs(), clock=clock, ids=ids, owner="own_test",
    )  # fmt: skip
    warm = Slots(shop, slots, Room(room))
    launcher = Launcher(shop, warm, lambda version: Toolchain("python", "3.11.2", "/usr/bin/python3"))
    pool = Pool(launcher, clock)
    scaler = asyncio.create_task(Scaler(pool, clock).run())
    for row in routes or (route_row("hello"),):
        rows.rows[row.function.id] = row
    table = Routes(rows, rows, bus, clock)
    table.on_change = lambda: pool.serve_only(table.served)
    await table.load()
    recorder = Recorder(rows, clock)
    keys = Keys("ns_ann")
    door = Door(
        routes=table, pool=pool, verifier=keys, recorder=recorder, upstream=Upstream(control), clock=clock,
        ids=ids, chance=lambda: 0.0, cause_of_death=lambda instance: launcher.cause_of_death(instance.slot),
        **options,
    )  # fmt: skip
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(1024)
    port = sock.getsockname()[1]
    await door.serve(sock)
    try:
        yield Shard(door, pool, rows, driver, guests, keys, table, recorder, warm, bus, port)
    finally:
        scaler.cancel()
        await asyncio.gather(scaler, return_exceptions=True)
        await door.close()
        await pool.close()
        await warm.close()
        await asyncio.sleep(0)


def reflect(call: FakeCall) -> None:
    """Answers with what it was asked."""
    told = {"parts": call.parts, "headers": call.headers, "body": call.body.decode("latin-1")}
    call.respond(b"200\ncontent-type:application/json", json.dumps(told).encode())


async def first_guest(front: Shard) -> FakeGuest:
    await until(lambda: bool(front.guests.opened))
    return front.guests.opened[0]


async def next_call(guest: FakeGuest, number: int) -> FakeCall:
    await until(lambda: len(guest.seen) > number)
    return guest.seen[number]


async def until(condition: object, seconds: float = 5.0) -> None:
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def get(name: str, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"GET /fn/ann/" + name.encode() + b" HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n"
