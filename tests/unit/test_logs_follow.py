"""Following lines: pushed, in order, none twice and none lost, through rotation, restarts and broken connections."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from hearth.core.errors import InvalidInput, PlatformError
from hearth.ports.logs import LogBatch, LogFilter, LogLine
from hearth.telemetry import inotify, tail
from hearth.telemetry.logreader import SETTLE, LogReader
from hearth.telemetry.logs import LogFiles
from hearth.telemetry.segments import Bounds, segments

FN = "fn_01jd0000000000000000000000"


def line(at_ms: int, text: str = "", **more: Any) -> LogLine:
    base = LogLine(at_ms, "run", "stdout", "info", text or f"at {at_ms}", 1, "sb_1", "inv_1")
    return dataclasses.replace(base, **more)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[LogFiles]:
    files = LogFiles(tmp_path, "own_a", pause=0.001)
    yield files
    files.close()


class Follower:
    """Somebody who follows; `cursor` is the last he got."""

    def __init__(self, batches: AsyncIterator[LogBatch]) -> None:
        self._batches = batches
        self._waiting: list[str] = []
        self.cursor: str | None = None

    async def take(self, count: int) -> list[str]:
        async with asyncio.timeout(20):
            while len(self._waiting) < count:
                batch = await anext(self._batches)
                self.cursor = batch.cursor
                self._waiting += [line.text for line in batch.lines]
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken


@pytest.mark.parametrize("with_inotify", [True, False])
async def test_follow(
    with_inotify: bool, files: LogFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_inotify:
        monkeypatch.setattr(inotify, "_REPAIR", 0.01)
        monkeypatch.setattr(inotify, "check", _refuse)
    for at in range(1, 11):
        files.write(FN, line(at))
    files.flush()
    async with aclosing(LogReader(tmp_path).follow(FN, limit=2)) as batches:
        follower = Follower(batches)
        assert await follower.take(2) == ["at 9", "at 10"]
        waiting = asyncio.ensure_future(follower.take(1))
        await asyncio.sleep(0)
        files.write(FN, line(11))
        assert await waiting == ["at 11"]
        other = LogFiles(tmp_path, "own_b", pause=0.0)  # a process that begins later
        other.write(FN, line(12, invocation="inv_2"))
        assert await follower.take(1) == ["at 12"]
        other.close()
        for file in segments(tmp_path / FN):
            file.path.unlink()
        files.write(FN, line(13))
        assert await follower.take(1) == ["at 13"]


def _refuse(result: int, what: str) -> int:
    raise OSError(24, "too many", what)


async def test_nothing_is_looked_for_while_nothing_happens(
    files: LogFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    real = tail.Tail.look

    def look(self: tail.Tail, now_ms: int, settle: int) -> tail.Look:
        looks.append(now_ms)
        return real(self, now_ms, settle)

    monkeypatch.setattr(tail.Tail, "look", look)
    files.write(FN, line(1))
    files.flush()
    async with aclosing(LogReader(tmp_path).follow(FN)) as batches:
        follower = Follower(batches)
        assert await follower.take(1) == ["at 1"]
        waiting = asyncio.ensure_future(follower.take(1))
        await asyncio.sleep(0.5)
        before = len(looks)
        assert before <= 4
        files.write(FN, line(2))
        assert await waiting == ["at 2"] and len(looks) > before


async def test_many_follow_with_one_descriptor(files: LogFiles, tmp_path: Path) -> None:
    """A user may have 128 inotify instances; more people than that may follow."""
    reader = LogReader(tmp_path)
    made = [reader.follow(name) for name in [FN] * 150 + ["fn_other"]]
    for batches in made:
        await anext(batches)
    assert len(reader._folders._watches) == 2
    waiting = [asyncio.ensure_future(anext(batches)) for batches in made[:150]]
    files.write(FN, line(1))
    async with asyncio.timeout(20):
        got = await asyncio.gather(*waiting)
    assert all([line.text for line in batch.lines] == ["at 1"] for batch in got)
    for batches in made:
        await batches.aclose()  # type: ignore[attr-defined]
    assert reader._folders._fd == -1


async def test_a_folder_that_is_removed_and_made_anew(files: LogFiles, tmp_path: Path) -> None:
    async with aclosing(LogReader(tmp_path).follow(FN)) as batches:
        follower = Follower(batches)
        files.write(FN, line(1))
        assert await follower.take(1) == ["at 1"]
        for file in segments(tmp_path / FN):
            file.path.unlink()
        (tmp_path / FN).rmdir()
        files.write(FN, line(2))
        assert await follower.take(1) == ["at 2"]


async def test_follow_filters_and_waits_for_a_function_without_lines(files: LogFiles, tmp_path: Path) -> None:
    async with aclosing(LogReader(tmp_path).follow(FN, LogFilter(invocation="inv_2"))) as batches:
        waiting = asyncio.ensure_future(Follower(batches).take(2))
        for at in range(1, 9):
            files.write(FN, line(at, invocation=f"inv_{at % 4}"))
        assert await waiting == ["at 2", "at 6"]


async def test_every_line_once_through_rotation(tmp_path: Path) -> None:
    files = LogFiles(tmp_path, "own_a", Bounds(size=1 << 20), pause=0.0)
    async with aclosing(LogReader(tmp_path).follow(FN)) as batches:
        waiting = asyncio.ensure_future(Follower(batches).take(300))
        for at in range(1, 301):
            files.write(FN, line(at, f"{at} " + "x" * 2000))
            if at % 20 == 0:
                await asyncio.to_thread(files.flush)
        assert [int(text.split()[0]) for text in await waiting] == [*range(1, 301)]
    files.close()
    assert len(segments(tmp_path / FN)) > 3


async def test_every_line_once_through_broken_connections(tmp_path: Path) -> None:
    """Who comes back with his cursor goes on where he was, though files are rotated and processes come and go."""
    reader, got = LogReader(tmp_path), []
    cursor: str | None = None
    writers = [LogFiles(tmp_path, f"own_{n}", Bounds(size=1 << 20), pause=0.0) for n in range(2)]
    for turn in range(1, 13):
        for step in range(10):
            at = turn * 10 + step
            writers[at % 2].write(FN, line(at, f"{at} " + "x" * 5000))
        if turn % 4 == 0:
            writers[0].close()
            writers[0] = LogFiles(tmp_path, f"own_{turn}", Bounds(size=1 << 20), pause=0.0)
        async with aclosing(reader.follow(FN, after=cursor)) as batches:
            follower = Follower(batches)
            got += await follower.take(7)
            while follower._waiting:  # what came in the same batch
                got += await follower.take(1)
            cursor = follower.cursor
    for writer in writers:
        writer.close()
    async with aclosing(reader.follow(FN, after=cursor)) as batches:
        got += await Follower(batches).take(120 - len(got))
    numbers = [int(text.split()[0]) for text in got]
    assert sorted(numbers) == [*range(10, 130)]


async def test_lines_of_several_processes_come_in_order(tmp_path: Path) -> None:
    """A process writes its lines a moment after they were printed; the other's earlier ones are waited for."""
    now = [1_000_000]
    one, other = (LogFiles(tmp_path, name, pause=0.0, now_ms=lambda: now[0]) for name in ("own_a", "own_b"))
    reader = LogReader(tmp_path, now_ms=lambda: now[0])
    async with aclosing(reader.follow(FN)) as batches:
        follower = Follower(batches)
        assert (await anext(batches)).lines == []
        one.write(FN, line(1_000_000, "second"))
        one.flush()
        waiting = asyncio.ensure_future(follower.take(2))
        await asyncio.sleep(0.05)
        other.write(FN, line(999_990, "first"))
        other.flush()
        now[0] += SETTLE
        assert await waiting == ["first", "second"]
    one.close()
    other.close()


async def test_a_cursor_is_of_what_was_shown(tmp_path: Path) -> None:
    """Not of what was read and waits for others."""
    now = [1_000_000]
    files = LogFiles(tmp_path, "own_a", pause=0.0, now_ms=lambda: now[0])
    for at in (1_000_000 - SETTLE, 1_000_000):
        files.write(FN, line(at))
    files.close()
    reader = LogReader(tmp_path, now_ms=lambda: now[0])
    async with aclosing(reader.follow(FN)) as batches:
        first = await anext(batches)
    now[0] += SETTLE
    async with aclosing(reader.follow(FN, after=first.cursor)) as batches:
        second = await anext(batches)
    assert [found.text for found in first.lines] == ["at 999800"]
    assert [found.text for found in second.lines] == ["at 1000000"]


async def test_what_was_removed_before_it_could_be_read_is_said(files: LogFiles, tmp_path: Path) -> None:
    reader = LogReader(tmp_path)
    files.write(FN, line(1))
    files.flush()
    async with aclosing(reader.follow(FN)) as batches:
        follower = Follower(batches)
        await follower.take(1)
    for at in range(2, 5):
        files.write(FN, line(at))
        files.flush()
        for file in segments(tmp_path / FN):
            file.path.unlink()
    files.write(FN, line(9))
    files.flush()
    async with aclosing(reader.follow(FN, after=follower.cursor)) as batches:
        async with asyncio.timeout(10):
            lines = (await anext(batches)).lines
            while len(lines) < 2:
                lines += (await anext(batches)).lines
    assert lines[0].source == "platform" and "removed" in lines[0].text
    assert [found.text for found in lines[1:]] == ["at 9"]


@pytest.mark.parametrize("text", ["", "x", "run.own_a:1", "run.own_a:1:2,", "run.own_a:-1:2", "a" * 20_000])
async def test_what_is_no_cursor(text: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no cursor"):
        await anext(LogReader(tmp_path).follow(FN, after=text))


async def test_a_folder_that_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / FN).write_text("no folder")
    with pytest.raises(PlatformError, match="can't be read"):
        await anext(LogReader(tmp_path).read(FN))
