"""Lines of functions on disk: written by one process, read by another, bounded, followed."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from hearth.ports.logs import LogLine
from hearth.telemetry import inotify
from hearth.telemetry.logreader import LogReader
from hearth.telemetry.logs import Bounds, LogFiles
from hearth.telemetry.segments import LINE_MAX, segments

FN = "fn_01jd0000000000000000000000"


def line(at_ms: int, text: str = "", **more: Any) -> LogLine:
    base = LogLine(at_ms, "run", "stdout", "info", text or f"at {at_ms}", 1, "sb_1", "inv_1")
    return dataclasses.replace(base, **more)


async def texts(reader: LogReader, **how: Any) -> list[str]:
    return [found.text async for found in reader.read(FN, **how)]


@pytest.fixture
def files(tmp_path: Path) -> Iterator[LogFiles]:
    files = LogFiles(tmp_path, "own_a", pause=0.001)
    yield files
    files.close()


async def test_what_is_written_is_read(files: LogFiles, tmp_path: Path) -> None:
    lines = [
        line(1, "plain"),
        line(2, "two\nlines \x1b[31m \x00 \ud800 é"),
        line(3, invocation=None, source="build", stream="platform", level="warning", version=7),
    ]
    for one in lines:
        files.write(FN, one)
    files.flush()
    assert [found async for found in LogReader(tmp_path).read(FN)] == lines
    assert [found async for found in LogReader(tmp_path).read("fn_unknown")] == []


async def test_files_of_several_processes_are_one_story(files: LogFiles, tmp_path: Path) -> None:
    other = LogFiles(tmp_path, "own_b", pause=0.001)
    for at in range(1, 101):
        (files if at % 3 else other).write(FN, line(at))
    files.flush()
    other.close()
    assert await texts(LogReader(tmp_path)) == [f"at {at}" for at in range(1, 101)]
    assert await texts(LogReader(tmp_path), limit=5) == [f"at {at}" for at in range(96, 101)]
    assert await texts(LogReader(tmp_path), limit=0) == []


async def test_filters(files: LogFiles, tmp_path: Path) -> None:
    for at in range(1, 21):
        files.write(
            FN,
            line(at, invocation=f"inv_{at % 4}", version=at % 2, source="build" if at > 10 else "run"),
        )
    files.flush()
    reader = LogReader(tmp_path)
    assert await texts(reader, since_ms=18) == ["at 18", "at 19", "at 20"]
    assert await texts(reader, invocation="inv_3", limit=2) == ["at 15", "at 19"]
    assert await texts(reader, version=0, source="run") == ["at 2", "at 4", "at 6", "at 8", "at 10"]
    assert await texts(reader, invocation="inv_9") == []


async def test_an_unfinished_line_and_rubbish_are_passed_over(files: LogFiles, tmp_path: Path) -> None:
    files.write(FN, line(1))
    files.flush()
    (path, _, _), *_ = segments(tmp_path / FN)
    with path.open("ab") as file:
        file.write(b'rubbish\n{"a":1}\n[1,2]\n\xff\n[3,"run","stdout"')
    assert await texts(LogReader(tmp_path)) == ["at 1"]


async def test_long_lines_are_cut(files: LogFiles, tmp_path: Path) -> None:
    files.write(FN, line(1, "€" * 50_000))
    files.flush()
    (text,) = await texts(LogReader(tmp_path))
    assert text.endswith(" … (cut)") and len(text.encode()) <= LINE_MAX


async def test_files_larger_than_one_read(files: LogFiles, tmp_path: Path) -> None:
    for at in range(1, 3001):
        files.write(FN, line(at, f"{at} " + "x" * (at % 700)))
        if at % 500 == 0:
            files.flush()
    assert [int(text.split()[0]) for text in await texts(LogReader(tmp_path), limit=2500)] == [
        *range(501, 3001)
    ]


async def test_rotation_keeps_the_newest(tmp_path: Path) -> None:
    files = LogFiles(tmp_path, "own_a", Bounds(segment=1000, segments=3), pause=0.0)
    for at in range(1, 101):
        files.write(FN, line(at))
        files.flush()
    files.close()
    found = segments(tmp_path / FN)
    assert len(found) == 3 and all(size < 1200 for _, size, _ in found)
    kept = await texts(LogReader(tmp_path))
    assert kept == [f"at {at}" for at in range(101 - len(kept), 101)] and 30 < len(kept) < 70


async def test_the_bound_over_all_functions(tmp_path: Path) -> None:
    files = LogFiles(tmp_path, "own_a", Bounds(segment=2000, segments=100, total=10_000), pause=0.0)
    for at in range(1, 301):
        files.write(f"fn_{at % 3}", line(at))
        files.flush()
    files.close()
    total = sum(size for at in range(3) for _, size, _ in segments(tmp_path / f"fn_{at}"))
    assert 4000 < total <= 11_000


async def test_another_process_may_make_room(files: LogFiles, tmp_path: Path) -> None:
    files.write(FN, line(1))
    files.flush()
    for path, _, _ in segments(tmp_path / FN):
        path.unlink()
    files.write(FN, line(2))
    files.flush()
    assert await texts(LogReader(tmp_path)) == ["at 2"]


async def test_few_descriptors_for_many_functions(tmp_path: Path) -> None:
    files = LogFiles(tmp_path, "own_a", Bounds(files=2), pause=0.0)
    for at in range(1, 21):
        files.write(f"fn_{at % 5}", line(at))
        files.flush()
    assert len(files._open) == 2
    files.close()
    reader = LogReader(tmp_path)
    assert [found.text async for found in reader.read("fn_1")] == ["at 1", "at 6", "at 11", "at 16"]


class Gate:
    """Holds the writing thread, so that lines pile up."""

    def __init__(self, files: LogFiles, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.held = threading.Event()
        real = files._append

        def append(*args: Any) -> None:
            self.held.set()
            self.open.wait()
            real(*args)

        monkeypatch.setattr(files, "_append", append)


async def test_beyond_the_queue_lines_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = LogFiles(tmp_path, "own_a", Bounds(queue=5000, queues=7000), pause=0.0)
    gate = Gate(files, monkeypatch)
    files.write(FN, line(1))
    gate.held.wait()
    for at in range(2, 102):
        files.write(FN, line(at))
    for at in range(1, 101):
        files.write("fn_other", line(at))
    gate.open.set()
    files.flush()
    files.write(FN, line(200))
    files.close()
    got = await texts(LogReader(tmp_path))
    kept = [text for text in got if text.startswith("at")]
    dropped = 101 - (len(kept) - 1)
    assert got[-2] == f"{dropped} lines were dropped here: more was logged than is taken" or got[
        -1
    ].startswith(str(dropped))
    assert 15 < len(kept) < 30
    other = [found.text async for found in LogReader(tmp_path).read("fn_other")]
    assert 5 < len(other) < 15 and "dropped" in other[-1]


async def test_a_disk_that_refuses(files: LogFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FN).write_text("not a folder")
    for at in range(1, 4):
        files.write(FN, line(at))
    files.flush()
    assert "can't write logs" in caplog.text
    (tmp_path / FN).unlink()
    files.write(FN, line(5))
    files.flush()
    assert await texts(LogReader(tmp_path)) == [
        "at 5",
        "3 lines were dropped here: more was logged than is taken",
    ]


async def test_forget(files: LogFiles, tmp_path: Path) -> None:
    files.write(FN, line(1))
    files.flush()
    files.write(FN, line(2))
    files.forget(FN)
    files.flush()
    assert not (tmp_path / FN).exists()
    files.write(FN, line(3))
    files.flush()
    assert await texts(LogReader(tmp_path)) == ["at 3"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "x" * 65, "."])
async def test_names_that_are_no_ids(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no function's id"):
        _ = [found async for found in LogReader(tmp_path).read(name)]


async def test_close_writes_what_waits_and_starts_nothing_when_unused(tmp_path: Path) -> None:
    LogFiles(tmp_path, "own_unused").close()
    files = LogFiles(tmp_path, "own_a", pause=5.0)
    for at in range(1, 1001):
        files.write(FN, line(at))
    files.close()
    assert len(await texts(LogReader(tmp_path), limit=2000)) == 1000


async def take(lines: AsyncIterator[LogLine], count: int) -> list[str]:
    async with asyncio.timeout(10):
        return [(await anext(lines)).text for _ in range(count)]


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
    reader = LogReader(tmp_path)
    async with aclosing(reader.read(FN, limit=2, follow=True)) as lines:
        assert await take(lines, 2) == ["at 9", "at 10"]
        waiting = asyncio.ensure_future(take(lines, 1))
        await asyncio.sleep(0)
        files.write(FN, line(11))
        assert await waiting == ["at 11"]
        other = LogFiles(tmp_path, "own_b", pause=0.0)  # a process that begins later
        other.write(FN, line(12, invocation="inv_2"))
        assert await take(lines, 1) == ["at 12"]
        other.close()
        for path, _, _ in segments(tmp_path / FN):
            path.unlink()
        files.write(FN, line(13))
        assert await take(lines, 1) == ["at 13"]


def _refuse(result: int, what: str) -> int:
    raise OSError(24, "too many", what)


async def test_follow_filters_and_waits_for_a_function_without_lines(files: LogFiles, tmp_path: Path) -> None:
    async with aclosing(LogReader(tmp_path).read(FN, invocation="inv_2", follow=True)) as lines:
        waiting = asyncio.ensure_future(take(lines, 2))
        for at in range(1, 9):
            files.write(FN, line(at, invocation=f"inv_{at % 4}"))
        assert await waiting == ["at 2", "at 6"]


async def test_follow_sees_every_line_once_through_rotation(tmp_path: Path) -> None:
    files = LogFiles(tmp_path, "own_a", Bounds(segment=2000, segments=50), pause=0.0)
    async with aclosing(LogReader(tmp_path).read(FN, follow=True)) as lines:
        waiting = asyncio.ensure_future(take(lines, 300))
        for at in range(1, 301):
            files.write(FN, line(at))
            if at % 20 == 0:
                await asyncio.to_thread(files.flush)
        assert sorted(await waiting, key=lambda text: int(text[3:])) == [f"at {at}" for at in range(1, 301)]
    files.close()
