"""What sandboxes print on their raw descriptors, read on the loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator

import pytest

from hearth.core.limits import LOG_LINE_MAX
from hearth.telemetry import pipes
from hearth.telemetry.pipes import PipeReader
from hearth.testing.clock import FakeClock


class Printer:
    """The writing ends, and the lines that came out."""

    def __init__(self, clock: FakeClock, rate: int, burst: int) -> None:
        self.lines: list[tuple[str, str]] = []
        self.dropped: list[tuple[str, int]] = []
        self.out, self.err = -1, -1
        self.close: Callable[[], None] = lambda: None
        self._reader = PipeReader(clock, rate, burst)

    def open(self) -> None:
        out, self.out = os.pipe2(os.O_NONBLOCK)
        err, self.err = os.pipe2(os.O_NONBLOCK)
        self.close = self._reader.watch(
            out,
            err,
            lambda name, text: self.lines.append((name, text)),
            lambda name, count: self.dropped.append((name, count)),
        )

    async def until(self, count: int) -> list[tuple[str, str]]:
        async with asyncio.timeout(10):
            while len(self.lines) < count:
                await asyncio.sleep(0.001)
        return self.lines

    async def print(self, data: bytes, fd: int = -1) -> None:
        """Write all of it, as the pipe has room."""
        view = memoryview(data)
        async with asyncio.timeout(20):
            while view:
                try:
                    view = view[os.write(self.out if fd < 0 else fd, view) :]
                except BlockingIOError:
                    await asyncio.sleep(0.001)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def printer(clock: FakeClock) -> Iterator[Printer]:  # type: ignore[misc]
    printer = Printer(clock, rate=1000, burst=200_000)
    printer.open()
    yield printer
    printer.close()
    for fd in (printer.out, printer.err):
        os.close(fd)


async def test_lines_of_both(printer: Printer) -> None:
    await printer.print(b"one\r\ntw")
    await printer.until(1)
    await printer.print(b"o\n\n\xff\x00\n")
    await printer.print(b"bad\n", printer.err)
    assert sorted(await printer.until(5)) == sorted(
        [("stdout", "one"), ("stdout", "two"), ("stdout", ""), ("stdout", "\ufffd\x00"), ("stderr", "bad")]
    )


async def test_long_lines_are_cut(printer: Printer) -> None:
    await printer.print(b"x" * (LOG_LINE_MAX + 5000) + b"\nafter\n")
    got = await printer.until(2)
    assert got == [("stdout", "x" * LOG_LINE_MAX + " … (cut)"), ("stdout", "after")]


async def test_a_flood_never_blocks_and_is_counted(printer: Printer, clock: FakeClock) -> None:
    await printer.print(b"y" * 99 + b"\n")
    await printer.print((b"z" * 99 + b"\n") * 20_000)
    await asyncio.sleep(0.01)
    kept = len(printer.lines)
    assert 1000 < kept < 2000
    clock.advance(60)
    await printer.print(b"\nafter\n")
    got = await printer.until(kept + 1)
    assert got[-1] == ("stdout", "after")
    ((name, count),) = printer.dropped
    assert name == "stdout" and count >= 2_000_000 - kept * 100 - 100


async def test_a_flood_that_falls_silent_says_its_count(
    printer: Printer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipes, "_SAY", 0.01)
    await printer.print(b"z" * 1_000_000)
    async with asyncio.timeout(10):
        while sum(count for _, count in printer.dropped) < 700_000:
            await asyncio.sleep(0.001)
    assert not printer.lines


async def test_close_takes_what_is_still_there(printer: Printer) -> None:
    os.write(printer.out, b"last words\nunfinished")
    printer.close()
    printer.close()
    assert printer.lines == [("stdout", "last words"), ("stdout", "unfinished")]


async def test_the_end_of_a_pipe_is_the_end_of_a_line(clock: FakeClock) -> None:
    printer = Printer(clock, 1000, 1000)
    printer.open()
    os.write(printer.err, b"unfinished")
    os.close(printer.err)
    os.close(printer.out)
    assert await printer.until(1) == [("stderr", "unfinished")]
    printer.close()


async def test_a_flood_that_ends_says_its_count(clock: FakeClock) -> None:
    printer = Printer(clock, 0, 10)
    printer.open()
    await printer.print(b"x" * 1000 + b"\n")
    os.close(printer.out)
    async with asyncio.timeout(10):
        while not printer.dropped:
            await asyncio.sleep(0.001)
    assert printer.dropped == [("stdout", 1001)] and not printer.lines
    printer.close()
    os.close(printer.err)


async def test_after_a_flood_nothing_is_taken_until_there_is_credit_for_a_second(clock: FakeClock) -> None:
    """Else a line would come through now and then, each with a count before it."""
    printer = Printer(clock, rate=1000, burst=5000)
    printer.open()
    await printer.print(b"x" * 9999 + b"\n")
    for _ in range(9):
        clock.advance(0.1)
        await printer.print(b"shred\n")
        await asyncio.sleep(0.005)
    assert not printer.dropped and not printer.lines
    clock.advance(5)
    await printer.print(b"whole\n")
    assert await printer.until(1) == [("stdout", "whole")] and len(printer.dropped) == 1
    printer.close()
    for fd in (printer.out, printer.err):
        os.close(fd)
