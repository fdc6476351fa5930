"""Places in a function's series of files: cursors, and where the newest lines begin."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from hearth.core.errors import InvalidInput
from hearth.ports.logs import LogFilter, LogLine
from hearth.telemetry.segments import Segment, decode, segments

BLOCK = 256 << 10  # bytes read at once
_MARK = re.compile(r"([a-z]+\.[A-Za-z0-9_]{1,64}):(\d{1,12}):(\d{1,15})")
_START = "0"  # the cursor of who has read nothing


class Position(NamedTuple):
    """A place in a series: a file's number and bytes from its beginning."""

    number: int
    offset: int


def format_cursor(positions: Mapping[str, Position]) -> str:
    """Text for `parse_cursor`. Its form is nobody else's business."""
    return ",".join(f"{series}:{at.number}:{at.offset}" for series, at in positions.items()) or _START


def parse_cursor(text: str) -> dict[str, Position]:
    """Raises InvalidInput."""
    if text == _START:
        return {}
    marks = [_MARK.fullmatch(part) for part in text.split(",")]
    if None in marks or len(text) > 16_000:
        raise InvalidInput("this is no cursor of a log", hint="take one from an answer, as it is")
    return {mark[1]: Position(int(mark[2]), int(mark[3])) for mark in marks if mark is not None}


def newest(directory: Path, wanted: LogFilter, limit: int) -> tuple[dict[str, Position], dict[str, Position]]:
    """Where the newest `limit` wanted lines begin in each series, and where each ends now. Raises OSError."""
    found = segments(directory, wanted.sources)
    ends = {file.series: Position(file.number, _whole(file)) for file in found}
    starts = dict(ends)
    if limit <= 0:
        return starts, ends
    backwards = heapq.merge(
        *(_backwards(file, wanted) for file in found), key=lambda place: place[0], reverse=True
    )
    for _, series, at in islice(backwards, limit):
        starts[series] = min(starts[series], at)
    return starts, ends


def fits(wanted: LogFilter, line: LogLine) -> bool:
    return (
        line.at_ms >= wanted.since_ms
        and (wanted.invocation is None or line.invocation == wanted.invocation)
        and (wanted.version is None or line.version == wanted.version)
    )


def read_bytes(path: Path, start: int, end: int) -> bytes:
    """A part of a file; nothing where it is gone."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(max(0, end - start))
    except FileNotFoundError:  # somebody has made room
        return b""


def _backwards(file: Segment, wanted: LogFilter) -> Iterator[tuple[int, str, Position]]:
    """(time, series, place) of a file's wanted lines, the last one first."""
    if (file.changed + 60) * 1000 < wanted.since_ms:
        return
    marks, end, rest = marks_of(wanted), _whole(file), b""
    while end > 0:
        start = max(0, end - BLOCK)
        data = read_bytes(file.path, start, end) + rest
        first = 0
        if start > 0:
            first = data.find(b"\n") + 1
            if first == 0:  # a line longer than a block
                rest, end = data, start
                continue
        rest, end = data[: max(0, first - 1)], start
        places, offset = [], start + first
        for raw in data[first:].split(b"\n"):
            places.append((offset, raw))
            offset += len(raw) + 1
        for offset, raw in reversed(places):
            if not raw or not all(mark in raw for mark in marks):
                continue
            line = decode(raw)
            if line is None:
                continue
            if line.at_ms < wanted.since_ms:
                return
            if fits(wanted, line):
                yield line.at_ms, file.series, Position(file.number, offset)


def _whole(file: Segment) -> int:
    """The end of a file's last whole line."""
    end = file.size
    while end > 0:
        start = max(0, end - BLOCK)
        at = read_bytes(file.path, start, end).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def marks_of(wanted: LogFilter) -> tuple[bytes, ...]:
    """What the bytes of every wanted line have, so that few others are decoded."""
    marks = []
    if wanted.invocation is not None:
        marks.append(wanted.invocation.encode("utf-8", "replace"))
    if wanted.version is not None:
        marks.append(f',{wanted.version},"'.encode())
    return tuple(marks)
