"""Hints between processes: they reach everybody, they come back after a restart, nobody can hold them up."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hearth.bus.local import BusClient, BusServer


class Heard:
    """Counts hints, and lets a test wait for the next."""

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self._event.set()

    async def next(self) -> None:
        await asyncio.wait_for(self._event.wait(), 10)
        self._event.clear()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def server(path: Path) -> AsyncIterator[BusServer]:
    made = BusServer(path)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def client(path: Path, *, connected: bool = True) -> AsyncIterator[BusClient]:
    made = BusClient(path)
    await made.start()
    try:
        if connected:
            await asyncio.wait_for(made.connected.wait(), 10)
        yield made
    finally:
        await made.close()


async def test_a_hint_reaches_every_process_its_own_too(tmp_path: Path) -> None:
    path = tmp_path / "bus.sock"
    async with server(path) as control, client(path) as one, client(path) as two:
        heard = [Heard(), Heard(), Heard()]
        other = Heard()
        for bus, ear in zip((control, one, two), heard, strict=True):
            bus.subscribe("routes", ear)
            bus.subscribe("versions", other)
        await until(lambda: len(control._writers) == 2)
        for sender in (control, one, two):
            sender.publish("routes")
            for ear in heard:
                await ear.next()
        assert other.count == 0
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_burst_is_one_call(tmp_path: Path) -> None:
    async with server(tmp_path / "bus.sock") as control:
        heard = Heard()
        control.subscribe("routes", heard)
        for _ in range(100):
            control.publish("routes")
        await heard.next()
        assert heard.count == 1


async def test_a_client_comes_before_its_server_and_outlives_it(tmp_path: Path) -> None:
    path = tmp_path / "bus.sock"
    async with client(path, connected=False) as shard:
        heard = Heard()
        shard.subscribe("routes", heard)
        shard.publish("routes")  # alone: it hears itself
        await heard.next()
        for _ in range(2):
            async with server(path) as control:
                await heard.next()  # connected: whatever was said before was missed
                control.publish("routes")
                await heard.next()
        assert not path.exists()


async def test_a_dead_servers_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "bus.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with server(path), client(path):
        pass


async def test_paths_of_any_length(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    async with server(folder / "bus.sock") as control, client(folder / "bus.sock") as shard:
        heard = Heard()
        shard.subscribe("routes", heard)
        await until(lambda: len(control._writers) == 1)
        control.publish("routes")
        await heard.next()


@pytest.mark.parametrize("nonsense", [b"x" * 1000, b"NOT A TOPIC\n", b"\xff\xff\n", b"\n"])
async def test_nonsense_ends_its_own_connection_alone(tmp_path: Path, nonsense: bytes) -> None:
    path = tmp_path / "bus.sock"
    async with server(path) as control, client(path) as shard:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(nonsense)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        heard = Heard()
        shard.subscribe("routes", heard)
        control.publish("routes")
        await heard.next()


async def test_who_does_not_read_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "bus.sock"
    async with server(path) as control:
        sock = socket.socket(socket.AF_UNIX)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(str(path))
        await until(lambda: len(control._writers) == 1)
        for _ in range(200_000):
            control.publish("a-rather-long-topic-of-31-chars")
            if next(iter(control._writers)).is_closing():
                break
        await until(lambda: not control._writers)
        sock.close()


async def test_a_subscriber_that_fails_keeps_nobody_from_hearing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with server(tmp_path / "bus.sock") as control:
        heard = Heard()

        def broken() -> None:
            raise RuntimeError("a fault")

        control.subscribe("routes", broken)
        control.subscribe("routes", heard)
        control.publish("routes")
        await heard.next()
    assert "a subscriber of routes failed" in caplog.text


async def test_topics_are_words(tmp_path: Path) -> None:
    control = BusServer(tmp_path / "bus.sock")
    with pytest.raises(ValueError, match="no topic"):
        control.publish("two words")
    with pytest.raises(ValueError, match="no topic"):
        control.subscribe("a\nb", lambda: None)
