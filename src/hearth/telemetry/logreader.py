"""Reads what `logs.LogFiles` of every process wrote: the newest lines, then what comes (ports.logs.LogSource)."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from hearth.ports.logs import LogLine
from hearth.telemetry.inotify import Watch
from hearth.telemetry.segments import decode, folder, segments

_BLOCK = 256 << 10  # bytes read at once
_SKEW_MS = (
    120_000  # lines of one file may be this far out of order: guests' clocks are believed within a minute
)


@dataclass(frozen=True, slots=True)
class _Wanted:
    since_ms: int
    invocation: str | None
    version: int | None
    source: str | None

    def fits(self, line: LogLine) -> bool:
        return (
            line.at_ms >= self.since_ms
            and (self.invocation is None or line.invocation == self.invocation)
            and (self.version is None or line.version == self.version)
            and (self.source is None or line.source == self.source)
        )


class LogReader:
    """`ports.logs.LogSource` over the files below `root` (the data directory's logs/)."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def read(
        self,
        function_id: str,
        *,
        since_ms: int = 0,
        invocation: str | None = None,
        version: int | None = None,
        source: str | None = None,
        limit: int = 1000,
        follow: bool = False,
    ) -> AsyncIterator[LogLine]:
        """The newest `limit` lines that fit, in order of time; with `follow` then those that come, until closed."""
        wanted = _Wanted(since_ms, invocation, version, source)
        directory = folder(self._root, function_id)
        if not follow:
            for line in (await asyncio.to_thread(_newest, directory, wanted, limit))[0]:
                yield line
            return
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with Watch(directory) as watch:  # before the first look, so that nothing falls between
            lines, ends = await asyncio.to_thread(_newest, directory, wanted, limit)
            for line in lines:
                yield line
            while True:
                more = await asyncio.to_thread(_after, directory, ends, wanted)
                for line in more:
                    yield line
                if not more:
                    await watch.wait()


def _newest(directory: Path, wanted: _Wanted, limit: int) -> tuple[list[LogLine], dict[Path, int]]:
    """The newest lines that fit, in order of time, and how far each file was looked at."""
    ends = {path: _whole(path, size) for path, size, _ in segments(directory)}
    if limit <= 0:
        return [], ends
    backwards = heapq.merge(
        *(_backwards(path, end, wanted) for path, end in ends.items()),
        key=lambda line: line.at_ms,
        reverse=True,
    )
    found = []
    for line in backwards:
        if wanted.fits(line):
            found.append(line)
            if len(found) == limit:
                break
    found.reverse()
    found.sort(key=lambda line: line.at_ms)
    return found, ends


def _after(directory: Path, ends: dict[Path, int], wanted: _Wanted) -> list[LogLine]:
    """Lines since `ends`, which it moves on; at most a block per file."""
    found = []
    there = segments(directory)
    for path, size, _ in there:
        start = ends.get(path, 0)
        if size <= start:
            continue
        data = _read(path, start, min(size, start + _BLOCK * 4))
        cut = data.rfind(b"\n") + 1
        ends[path] = start + cut
        lines = (decode(raw) for raw in data[:cut].split(b"\n") if raw)
        found += [line for line in lines if line is not None and wanted.fits(line)]
    for gone in ends.keys() - {path for path, _, _ in there}:
        del ends[gone]
    found.sort(key=lambda line: line.at_ms)
    return found


def _backwards(path: Path, end: int, wanted: _Wanted) -> Iterator[LogLine]:
    """Lines of a file's first `end` bytes, the last one first."""
    mark = None if wanted.invocation is None else wanted.invocation.encode()
    rest = b""
    while end > 0:
        start = max(0, end - _BLOCK)
        block = _read(path, start, end) + rest
        if start > 0:
            rest, newline, block = block.partition(b"\n")
            if not newline:  # a line longer than a block
                block = b""
        for raw in reversed(block.split(b"\n")):
            if not raw or (mark is not None and mark not in raw):
                continue
            line = decode(raw)
            if line is None:
                continue
            if line.at_ms < wanted.since_ms - _SKEW_MS:
                return
            yield line
        end = start


def _whole(path: Path, size: int) -> int:
    """The end of the last whole line within a file's first `size` bytes."""
    end = size
    while end > 0:
        start = max(0, end - _BLOCK)
        at = _read(path, start, end).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def _read(path: Path, start: int, end: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(end - start)
    except FileNotFoundError:  # its writer has made room
        return b""
