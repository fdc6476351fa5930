"""Lines of functions on disk: written by some processes, read by another, bounded."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hearth.core.limits import LOG_LINE_MAX
from hearth.ports.logs import ALL, LogFilter, LogLine
from hearth.telemetry import logs, logwriter
from hearth.telemetry.keeping import LogKeeping, remove, trim
from hearth.telemetry.logreader import LogReader
from hearth.telemetry.logs import LogFiles
from hearth.telemetry.segments import Bounds, segments

FN = "fn_01jd0000000000000000000000"
KIB = 1 << 10


def line(at_ms: int, text: str = "", **more: Any) -> LogLine:
    base = LogLine(at_ms, "run", "stdout", "info", text or f"at {at_ms}", 1, "sb_1", "inv_1")
    return dataclasses.replace(base, **more)


async def read(root: Path, wanted: LogFilter = ALL, limit: int = 1000, function: str = FN) -> list[LogLine]:
    batches = LogReader(root).read(function, wanted, limit=limit)
    return [line async for batch in batches for line in batch.lines]


async def texts(root: Path, wanted: LogFilter = ALL, limit: int = 1000, function: str = FN) -> list[str]:
    return [line.text for line in await read(root, wanted, limit, function)]


def sizes(root: Path, function: str = FN) -> list[int]:
    return [file.size for file in segments(root / function)]


@pytest.fixture
def files(tmp_path: Path) -> Iterator[LogFiles]:
    files = LogFiles(tmp_path, "own_a", pause=0.001)
    yield files
    files.close()


async def test_what_is_written_is_read(files: LogFiles, tmp_path: Path) -> None:
    lines = [
        line(1, "plain"),
        line(2, "two\nlines \x1b[31m \x00 \ud800 é"),
        line(3, invocation=None, source="platform", stream="instance", level="warning", version=7),
    ]
    for one in lines:
        files.write(FN, one)
    files.flush()
    assert await read(tmp_path) == lines
    assert await read(tmp_path, function="fn_unknown") == []


async def test_files_of_several_processes_are_one_story(files: LogFiles, tmp_path: Path) -> None:
    other = LogFiles(tmp_path, "own_b", pause=0.001)
    for at in range(1, 101):
        (files if at % 3 else other).write(FN, line(at, source="run" if at % 2 else "build"))
    files.flush()
    other.close()
    assert await texts(tmp_path) == [f"at {at}" for at in range(1, 101)]
    assert await texts(tmp_path, limit=5) == [f"at {at}" for at in range(96, 101)]
    assert await texts(tmp_path, limit=0) == []


async def test_lines_of_one_moment_stay_in_their_order(files: LogFiles, tmp_path: Path) -> None:
    """Though each source has a file of its own."""
    for number, source in enumerate(("platform", "build", "build", "platform", "run", "platform")):
        files.write(FN, line(5, str(number), source=source))
    files.flush()
    assert await texts(tmp_path) == list("012345")


async def test_filters(files: LogFiles, tmp_path: Path) -> None:
    for at in range(1, 21):
        source = "build" if at > 10 else "run"
        files.write(FN, line(at, invocation=f"inv_{at % 4}", version=at % 2, source=source))
    files.flush()
    assert await texts(tmp_path, LogFilter(since_ms=18)) == ["at 18", "at 19", "at 20"]
    assert await texts(tmp_path, LogFilter(invocation="inv_3"), limit=2) == ["at 15", "at 19"]
    even = LogFilter(version=0, sources=frozenset({"run"}))
    assert await texts(tmp_path, even) == ["at 2", "at 4", "at 6", "at 8", "at 10"]
    assert await texts(tmp_path, LogFilter(invocation="inv_9")) == []


async def test_times_are_made_to_fit(tmp_path: Path) -> None:
    """A function may say what time it is; no line comes before one that was there, or from the future."""
    now = [1_000_000]
    files = LogFiles(tmp_path, "own_a", pause=0.0, now_ms=lambda: now[0])
    for at, text in ((1_000_500, "ahead"), (999_000, "true"), (1_000_000, "now")):
        files.write(FN, line(at, text))
        files.flush()
    assert [(found.text, found.at_ms) for found in await read(tmp_path)] == [
        ("ahead", 1_000_000),
        ("true", 1_000_000),
        ("now", 1_000_000),
    ]
    now[0] = 500_000  # somebody has set the clock
    files.write(FN, line(500_000, "set back"))
    files.close()
    last = (await read(tmp_path))[-1]
    assert (last.text, last.at_ms) == ("set back", 500_000)


async def test_an_unfinished_line_and_rubbish_are_passed_over(files: LogFiles, tmp_path: Path) -> None:
    files.write(FN, line(1))
    files.flush()
    with segments(tmp_path / FN)[0].path.open("ab") as file:
        file.write(b'rubbish\n{"a":1}\n[1,2]\n\xff\n[3,"run","stdout"')
    (tmp_path / FN / "run.own_b.000000.jsonl").write_bytes(b"\0" * (1 << 21))
    (tmp_path / FN / "stranger.jsonl").write_bytes(b"x\n")
    assert await texts(tmp_path) == ["at 1"]


async def test_long_lines_are_cut(files: LogFiles, tmp_path: Path) -> None:
    for text in ("€" * 50_000, "\x00" * 100_000):
        files.write(FN, line(1, text))
    files.flush()
    for text in await texts(tmp_path):
        assert text.endswith(" … (cut)") and len(text.encode()) <= LOG_LINE_MAX
    assert len(await texts(tmp_path)) == 2 and len(await texts(tmp_path, limit=1)) == 1


async def test_files_larger_than_one_read(files: LogFiles, tmp_path: Path) -> None:
    for at in range(1, 3001):
        files.write(FN, line(at, f"{at} " + "x" * (at % 700)))
        if at % 500 == 0:
            files.flush()
    got = await texts(tmp_path, limit=2500)
    assert [int(text.split()[0]) for text in got] == [*range(501, 3001)]


async def test_rotation_keeps_the_newest(tmp_path: Path) -> None:
    bounds = Bounds(size=256 * KIB)
    files = LogFiles(tmp_path, "own_a", bounds, pause=0.0)
    most = 0
    for at in range(1, 101):
        files.write(FN, line(at, f"{at} " + "x" * 8000))
        files.flush()
        most = max(most, sum(sizes(tmp_path)))
    files.close()
    assert len(sizes(tmp_path)) > 5 and most <= bounds.share("run") + 9000
    kept = [int(text.split()[0]) for text in await texts(tmp_path)]
    assert kept == [*range(101 - len(kept), 101)] and len(kept) > 15


async def test_a_flood_pushes_out_neither_builds_nor_what_the_platform_said(tmp_path: Path) -> None:
    files = LogFiles(tmp_path, "own_a", Bounds(size=256 * KIB), pause=0.0)
    files.write(FN, line(1, "built", source="build"))
    files.write(FN, line(2, "started", source="platform"))
    for at in range(3, 103):
        files.write(FN, line(at, "x" * 8000))
        files.flush()
    files.close()
    assert (await texts(tmp_path))[:2] == ["built", "started"]


async def test_the_bound_over_all_functions(tmp_path: Path) -> None:
    bounds = Bounds(size=1 << 20, total=200 * KIB)
    files = LogFiles(tmp_path, "own_a", bounds, pause=0.0)
    for at in range(1, 301):
        files.write(f"fn_{at % 3}", line(at, "x" * 4000))
        files.flush()
    files.close()
    total = sum(size for at in range(3) for size in sizes(tmp_path, f"fn_{at}"))
    assert 100 * KIB < total <= bounds.total + 3 * bounds.segment("run")


async def test_nobody_removes_a_file_that_is_written_to(files: LogFiles, tmp_path: Path) -> None:
    files.write(FN, line(1))
    files.flush()
    path = segments(tmp_path / FN)[0].path
    assert not remove(path) and trim(tmp_path / FN, "run", 0) == 0
    files.close()
    assert remove(path) and not path.exists()


async def test_a_deleted_functions_files_may_go_while_they_are_open(files: LogFiles, tmp_path: Path) -> None:
    files.write(FN, line(1))
    files.flush()
    assert LogKeeping(tmp_path, Bounds()).sweep({FN}) == 1
    assert not (tmp_path / FN).exists()
    files.write(FN, line(2))
    files.flush()
    assert await texts(tmp_path) == ["at 2"]
    assert (
        segments(tmp_path / FN)[0].number == 1
    )  # no number twice: readers know how far they are in the first


async def test_what_is_old_goes(tmp_path: Path) -> None:
    bounds = Bounds(age=1000)
    for owner, name in (("own_a", FN), ("own_b", FN), ("own_c", "fn_other")):
        writer = LogFiles(tmp_path, owner, bounds, pause=0.0)
        writer.write(name, line(1, owner))
        writer.close()
    os.utime(segments(tmp_path / FN)[0].path, (1, 1))
    keeping = LogKeeping(tmp_path, bounds, lambda: time.time() + 500)
    assert keeping.functions() == {FN, "fn_other"}
    assert keeping.sweep(set()) == 1
    assert await texts(tmp_path) == ["own_b"]
    assert LogKeeping(tmp_path, bounds, lambda: time.time() + 1001).sweep(set()) == 2


async def test_a_file_spans_an_eighth_of_the_age(tmp_path: Path) -> None:
    """Files go whole, so an old line must not stay for a young one's sake."""
    now = [1_000_000]
    files = LogFiles(tmp_path, "own_a", Bounds(age=8), pause=0.0, now_ms=lambda: now[0])
    for _ in range(4):
        files.write(FN, line(now[0]))
        files.flush()
        now[0] += 600
    files.close()
    assert len(sizes(tmp_path)) == 2


async def test_few_descriptors_for_many_functions(tmp_path: Path) -> None:
    files = LogFiles(tmp_path, "own_a", Bounds(files=2), pause=0.0)
    for at in range(1, 21):
        files.write(f"fn_{at % 5}", line(at))
        files.flush()
    assert files._writer.open_files == 2
    files.close()
    assert await texts(tmp_path, function="fn_1") == ["at 1", "at 6", "at 11", "at 16"]


async def test_an_idle_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or its age would keep it for ever: what is written to is not removed."""
    monkeypatch.setattr(logs, "_REST", 0.01)
    files = LogFiles(tmp_path, "own_a", pause=0.0)
    files.write(FN, line(1))
    files.flush()
    async with asyncio.timeout(10):
        while files._writer.open_files:
            await asyncio.sleep(0.005)
    files.write(FN, line(2))
    files.close()
    assert await texts(tmp_path) == ["at 1", "at 2"] and len(sizes(tmp_path)) == 1


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
    files.write(FN, line(102, "crashed", source="platform"))
    gate.open.set()
    files.close()
    got = await read(tmp_path)
    kept = [found for found in got if found.text.startswith("at")]
    said = next(found for found in got if "dropped" in found.text)
    assert said.text == f"{101 - len(kept)} lines were dropped: more was logged than is taken"
    assert (said.source, said.stream, said.level) == ("platform", "logs", "warning")
    assert 15 < len(kept) < 30
    assert "crashed" in [found.text for found in got]  # a function can't crowd out what the platform says
    other = await texts(tmp_path, function="fn_other")
    assert 5 < len(other) < 15 and "dropped" in other[-1]


async def test_one_line_that_was_dropped(tmp_path: Path) -> None:
    files = LogFiles(tmp_path, "own_a", Bounds(queue=1000), pause=0.0)
    files.write(FN, line(1, "x" * 2000))
    files.close()
    assert await texts(tmp_path) == ["1 line was dropped: more was logged than is taken"]


async def test_dropped_lines_are_counted_up_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_SAY_AGAIN", 3600.0)
    files = LogFiles(tmp_path, "own_a", Bounds(queue=1000), pause=0.0)
    for at in range(1, 11):
        files.write(FN, line(at, "x" * 2000))
        files.write(FN, line(at))
        files.flush()
    files.close()
    said = Counter(text for text in await texts(tmp_path) if "dropped" in text)
    assert said.total() <= 2 and sum(int(text.split()[0]) for text in said) == 10


async def test_a_disk_that_refuses(files: LogFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FN).write_text("not a folder")
    for at in range(1, 4):
        files.write(FN, line(at))
    files.flush()
    assert caplog.text.count("can't be written") == 1
    (tmp_path / FN).unlink()
    files.write(FN, line(5))
    files.close()
    assert sorted(await texts(tmp_path)) == ["3 lines were dropped: the disk refused them", "at 5"]


async def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written of a line when the disk was full is taken back, so that the next line stands for itself."""
    files = LogFiles(tmp_path, "own_a", pause=0.0)
    files.write(FN, line(1))
    files.flush()
    real, left = os.write, [220]  # some lines and a part of one

    def write(fd: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = real(fd, data[: left[0]])
        left[0] -= count
        return count

    monkeypatch.setattr(logwriter.os, "write", write)
    for at in range(2, 9):
        files.write(FN, line(at))
    files.flush()
    left[0] = 1 << 20
    files.write(FN, line(9))
    files.close()
    kept = [text for text in await texts(tmp_path) if text.startswith("at")]
    assert kept[0] == "at 1" and kept[-1] == "at 9" and len(kept) > 2
    dropped = next(text for text in await texts(tmp_path) if "dropped" in text)
    assert dropped == f"{9 - len(kept)} lines were dropped: the disk is full"
    raw = segments(tmp_path / FN, {"run"})[0].path.read_bytes()
    assert raw.count(b"\n") == len(kept) and raw.endswith(b"\n")


async def test_what_others_need_of_the_disk_is_left_free(tmp_path: Path) -> None:
    files = LogFiles(tmp_path, "own_a", Bounds(reserve=1 << 62), pause=0.0)
    files.write(FN, line(1))
    files.close()
    assert await texts(tmp_path) == [] and not (tmp_path / FN).exists()


@pytest.mark.parametrize("name", ["", "../x", "a/b", "x" * 65, "."])
async def test_names_that_are_no_ids(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no function's id"):
        await read(tmp_path, function=name)


async def test_close_writes_what_waits_and_starts_nothing_when_unused(tmp_path: Path) -> None:
    LogFiles(tmp_path, "own_unused").close()
    files = LogFiles(tmp_path, "own_a", pause=5.0)
    for at in range(1, 1001):
        files.write(FN, line(at))
    files.close()
    assert len(await texts(tmp_path, limit=2000)) == 1000
