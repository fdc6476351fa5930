"""Reading a function's series forward: in order of time across processes, from a cursor, whatever is rotated meanwhile."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from hearth.ports.logs import PLATFORM, LogFilter, LogLine
from hearth.telemetry.places import BLOCK, Position, fits, format_cursor, marks_of, read_bytes
from hearth.telemetry.segments import Segment, decode, segments

LONGEST = 1 << 20  # bytes of an encoded line, more than any can have: what is longer is no line
BATCH = 2000  # lines


@dataclass(slots=True)
class _Reading:
    """How far one series is read (`at`) and shown (`shown`), and the wanted lines between."""

    at: Position
    shown: Position
    size: int = 0  # of the file read last
    key: int = 0  # of the line read last
    waiting: deque[tuple[int, LogLine, Position]] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found.

    Args:
        more: there is more to read at once.
        due: milliseconds until a line that was read may be shown, or None.
    """

    lines: list[LogLine]
    cursor: str
    more: bool
    due: int | None


class Tail:
    """Goes through a function's files from `positions` on; a series that is not in them, from its beginning.

    Args:
        ends: where each series is to end, and no other is looked at; None: never.
    """

    def __init__(
        self,
        directory: Path,
        wanted: LogFilter,
        positions: Mapping[str, Position],
        ends: Mapping[str, Position] | None = None,
    ) -> None:
        self._directory = directory
        self._wanted = wanted
        self._marks = marks_of(wanted)
        self._ends = ends
        self._readings = {series: _Reading(at, at) for series, at in positions.items()}

    def look(self, now_ms: int, settle: int) -> Look:
        """Read on, a block of each series, and give the lines that are older than `settle` milliseconds, in order.

        So much later another process's lines may come to the disk than they were printed. Raises OSError.
        """
        found = segments(self._directory, self._wanted.sources)
        there = {series: list(files) for series, files in groupby(found, key=lambda file: file.series)}
        horizon, more, held = now_ms - settle, False, False
        for series in self._readings.keys() - there.keys():
            if not self._readings[series].waiting:
                del self._readings[
                    series
                ]  # all its files were removed; what its process writes is a new file
        for series, files in there.items():
            if self._ends is not None:
                files = _until(files, self._ends.get(series))
            if not files:
                continue
            reading = self._readings.get(series)
            if reading is None:
                start = Position(files[0].number, 0)
                reading = self._readings[series] = _Reading(start, start)
            if len(reading.waiting) >= BATCH:
                horizon, held = min(horizon, reading.key), True
            elif self._fill(reading, files, now_ms):
                horizon, more = min(horizon, reading.key), True
        lines, full, due = self._due(horizon)
        more = more or full or (held and bool(lines))
        cursor = format_cursor({series: reading.shown for series, reading in self._readings.items()})
        return Look(lines, cursor, more, None if due is None else max(1, due + settle - now_ms))

    def _due(self, horizon: int) -> tuple[list[LogLine], bool, int | None]:
        """(lines up to `horizon` in order, whether others are due too, when the next one was printed)."""
        heap = [(r.waiting[0][0], series) for series, r in self._readings.items() if r.waiting]
        heapq.heapify(heap)
        lines: list[LogLine] = []
        while heap and heap[0][0] <= horizon and len(lines) < BATCH:
            series = heap[0][1]
            reading = self._readings[series]
            _, line, reading.shown = reading.waiting.popleft()
            lines.append(line)
            if reading.waiting:
                heapq.heapreplace(heap, (reading.waiting[0][0], series))
            else:
                reading.shown = reading.at
                heapq.heappop(heap)
        return lines, bool(heap) and heap[0][0] <= horizon, heap[0][0] if heap else None

    def _fill(self, reading: _Reading, files: list[Segment], now_ms: int) -> bool:
        """Read one block of a series; returns whether there is more."""
        left = [file for file in files if file.number >= reading.at.number]
        if not left:
            return False
        if left[0].number > reading.at.number:
            # One file that is gone may have been read to its end; more than one, or an unread rest, is a gap.
            if left[0].number > reading.at.number + 1 or reading.at.offset < reading.size:
                reading.waiting.append((reading.key, _gap(now_ms), reading.at))
            reading.at = Position(left[0].number, 0)
        file, begin = left[0], reading.at.offset
        reading.size = file.size
        data = read_bytes(file.path, begin, min(file.size, begin + BLOCK))
        if len(data) == BLOCK and b"\n" not in data:
            data = read_bytes(file.path, begin, min(file.size, begin + LONGEST))
        cut = data.rfind(b"\n") + 1 or (len(data) if len(data) == LONGEST else 0)
        offset = begin
        for raw in data[:cut].splitlines(keepends=True):
            offset += len(raw)
            self._take(reading, raw, Position(file.number, offset), now_ms)
        reading.at = Position(file.number, offset)
        more = begin + len(data) < file.size
        if not more and len(left) > 1:  # this file is closed; an unfinished line at its end is a crash's
            reading.at = Position(left[1].number, 0)
            more = True
        if not reading.waiting:
            reading.shown = reading.at
        return more

    def _take(self, reading: _Reading, raw: bytes, end: Position, now_ms: int) -> None:
        if not all(mark in raw for mark in self._marks):
            return
        line = decode(raw)
        if line is None:
            return
        reading.key = max(reading.key, min(line.at_ms, now_ms))  # nobody's clock makes a line wait for long
        if fits(self._wanted, line):
            reading.waiting.append((reading.key, line, end))


def _until(files: list[Segment], end: Position | None) -> list[Segment]:
    """Files cut at an end."""
    if end is None:
        return []
    kept = [file for file in files if file.number <= end.number]
    return [
        file
        if file.number < end.number
        else Segment(
            file.path, file.source, file.series, file.number, min(file.size, end.offset), file.changed
        )
        for file in kept
    ]


def _gap(now_ms: int) -> LogLine:
    text = "lines were removed here before they could be read: more is logged than is kept"
    return LogLine(now_ms, PLATFORM, "logs", "warning", text, 0, "", None)
