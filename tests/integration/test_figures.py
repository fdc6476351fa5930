"""Figures on their way from several processes to one page: real sockets, processes that end, drain or talk nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

import pytest
import pytest_asyncio

from hearth.core.metrics import ProcessSamples, Sample
from hearth.telemetry import figures
from hearth.telemetry.figures import FigureReader, FigureServer, process_samples
from hearth.telemetry.metrics import PrometheusPage


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hearth-figures-") as name:
        path = Path(name) / ("long" * 40)  # longer than the address of a Unix socket may be
        path.mkdir()
        yield path


class Teller:
    """Tells one counter, and remembers what it was asked."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.asked: list[AbstractSet[str] | None] = []

    def __call__(self, functions: AbstractSet[str] | None) -> Iterator[Sample | None]:
        self.asked.append(functions)
        yield None
        yield Sample("hearth_cold_requests_total", ("ann", "hello"), self.count)


@pytest_asyncio.fixture
async def stack() -> AsyncIterator[contextlib.AsyncExitStack]:
    async with contextlib.AsyncExitStack() as made:
        yield made


async def serve(
    stack: contextlib.AsyncExitStack, folder: Path, name: str, owner: str, tell: figures.Tell
) -> FigureServer:
    server = FigureServer(folder, name, owner, tell)
    await server.start()
    stack.push_async_callback(server.close)
    return server


def counts(told: list[ProcessSamples]) -> dict[str, float | None]:
    """The one counter by process; None where a process is not up."""
    found: dict[str, float | None] = {}
    for process in told:
        assert process.process not in found
        found[process.process] = process.samples[0].value if process.up else None  # type: ignore[assignment]
    return found


async def test_every_process_is_asked(folder: Path, stack: contextlib.AsyncExitStack) -> None:
    tellers = [Teller(n) for n in range(3)]
    await serve(stack, folder, "shard-0", "own_1", tellers[1])
    await serve(stack, folder, "shard-1", "own_2", tellers[2])
    reader = FigureReader(folder, "control", tellers[0])
    assert counts(await reader.collect()) == {"control": 0, "shard-0": 1, "shard-1": 2}
    await reader.collect(["fn_1", "fn_2"])
    assert [teller.asked for teller in tellers] == [[None, {"fn_1", "fn_2"}]] * 3


async def test_only_this_user_may_ask(folder: Path, stack: contextlib.AsyncExitStack) -> None:
    await serve(stack, folder, "shard-0", "own_1", Teller(1))
    (path,) = folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_one_that_drains_is_apart_from_its_successor(
    folder: Path, stack: contextlib.AsyncExitStack
) -> None:
    """Else the old one's counts would be the new one's for a while, and its end a reset that never was."""
    reader = FigureReader(folder, "control", Teller(0))
    first = await serve(stack, folder, "shard-0", "own_01", Teller(1000))
    assert counts(await reader.collect())["shard-0"] == 1000
    await serve(stack, folder, "shard-0", "own_02", Teller(3))
    assert counts(await reader.collect()) == {"control": 0, "shard-0": 3, "shard-0-draining": 1000}
    third = await serve(stack, folder, "shard-0", "own_03", Teller(0))
    assert counts(await reader.collect()) == {"control": 0, "shard-0": 0, "shard-0-draining": 3}
    await third.close()
    await first.close()
    assert counts(await reader.collect()) == {"control": 0, "shard-0": 3}


def killed(folder: Path, name: str, owner: str) -> None:
    """What a process that was killed leaves: a socket that nobody listens on."""
    code = "import os, socket, sys; os.chdir(sys.argv[1]); socket.socket(socket.AF_UNIX).bind(sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, folder, f"{name}.{owner}.figures"], check=True)


async def test_one_that_was_killed_is_not_up_and_forgotten_with_its_successor(
    folder: Path, stack: contextlib.AsyncExitStack
) -> None:
    reader = FigureReader(folder, "control", Teller(0))
    killed(folder, "shard-0", "own_01")
    assert counts(await reader.collect()) == {"control": 0, "shard-0": None}
    page = (await PrometheusPage(reader).render()).decode()
    assert 'hearth_process_up{process="shard-0"} 0.0' in page
    assert 'hearth_process_up{process="control"} 1.0' in page
    await serve(stack, folder, "shard-0", "own_02", Teller(2))
    assert counts(await reader.collect()) == {"control": 0, "shard-0": 2}
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    "said", [b"", b"{}\n", b'["hearth_functions",[],1]\n', b'["hearth_functions",[],', b"x" * 100_000, None]
)
async def test_half_an_answer_is_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, said: bytes | None
) -> None:
    """`said` None: it accepts and says nothing at all."""
    monkeypatch.setattr(figures, "PATIENCE", 0.2)
    end = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if said is None:
            await end.wait()
        else:
            writer.write(said)
        writer.close()

    sock = socket.socket(socket.AF_UNIX)
    with figures.short_name(folder / "shard-0.own_1.figures") as name:
        sock.bind(name)
    server = await asyncio.start_unix_server(answer, sock=sock)
    try:
        told = await FigureReader(folder, "control", Teller(7)).collect()
        assert counts(told) == {"control": 7, "shard-0": None}
    finally:
        end.set()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("asked", [b"", b"nonsense\n", b"3\n", b"[" * 5000 + b"\n"])
async def test_who_asks_nonsense_hears_nothing_and_hurts_nobody(
    folder: Path, stack: contextlib.AsyncExitStack, asked: bytes
) -> None:
    await serve(stack, folder, "shard-0", "own_1", Teller(5))
    sock = socket.socket(socket.AF_UNIX)
    with figures.short_name(folder / "shard-0.own_1.figures") as name:
        sock.connect(name)
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    writer.write(asked)
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    assert counts(await FigureReader(folder, "control", Teller(0)).collect())["shard-0"] == 5


async def test_calls_go_on_while_much_is_told(folder: Path, stack: contextlib.AsyncExitStack) -> None:
    def tell(_: AbstractSet[str] | None) -> Iterator[Sample]:
        for number in range(2_000):
            yield Sample("hearth_cold_requests_total", ("ann", f"f{number}"), number)

    await serve(stack, folder, "shard-0", "own_1", tell)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    told = await FigureReader(folder, "control", Teller(0)).collect()
    task.cancel()
    assert len(told[1].samples) == 2_000
    assert turns >= 2_000 / figures.AT_ONCE


def test_what_this_process_costs() -> None:
    told = {sample.name: sample.value for sample in process_samples(5.0)}
    resident, cpu = told["hearth_process_resident_memory_bytes"], told["hearth_process_cpu_seconds_total"]
    assert isinstance(resident, int) and isinstance(cpu, float)
    assert (
        resident > 10_000_000
        and cpu <= sum(os.times()[:2]) + 0.02
        and told["hearth_process_start_time_seconds"] == 5.0
    )
