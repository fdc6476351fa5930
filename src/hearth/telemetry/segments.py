"""How log lines lie on disk: ``logs/<function id>/<source>.<owner>.<number>.jsonl``, one JSON array a line.

The files of one source and one owner (a process's boot id) are a series. Only that process writes to it, always to the
file with the highest number, on which it holds a lock (flock(2)) meanwhile. Lines of a series are in order of time.
Nothing in a file is ever changed, and no number is used again; old files are removed whole, by any process, but
never one that is locked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from hearth.core import limits
from hearth.ports.logs import BUILD, PLATFORM, RUN, SOURCES, LogLine

_ID = re.compile(r"[A-Za-z0-9_]{1,64}")
_FILE = re.compile(rf"({'|'.join(SOURCES)})\.([A-Za-z0-9_]{{1,64}})\.(\d{{1,12}})\.jsonl")
_SIXTEENTHS = {RUN: 12, BUILD: 3, PLATFORM: 1}
_IN_A_SHARE = 8  # files that a source's share is divided into
_SEGMENT_MIN = 16 << 10


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is kept and what is taken.

    Args:
        size: bytes of one function's lines. Each source has its share, so that a function that prints much
            pushes out neither its builds nor what the platform said.
        age: seconds that lines are kept at least, where their number allows; an eighth more at most.
        total: bytes of all functions' lines together.
        reserve: bytes of free disk below which nothing is written.
        queue: bytes of one function's lines that wait to be written.
        queues: bytes of all lines that wait.
        files: descriptors kept open.
    """

    size: int = limits.LOG_SIZE
    age: float = limits.LOG_AGE
    total: int = limits.LOG_TOTAL
    reserve: int = limits.LOG_DISK_FREE_MIN
    queue: int = 4 << 20
    queues: int = 64 << 20
    files: int = 256

    def share(self, source: str) -> int:
        """Bytes of one function's lines of one source."""
        return self.size * _SIXTEENTHS[source] // 16

    def segment(self, source: str) -> int:
        """Bytes of a file from which on a new one is begun."""
        return max(_SEGMENT_MIN, self.share(source) // _IN_A_SHARE)

    @property
    def span(self) -> float:
        """Seconds that the lines of one file may lie apart: files are removed whole."""
        return self.age / 8


@dataclass(frozen=True, slots=True)
class Segment:
    """A file as it was found. `changed` is the time of the last write, seconds since the epoch."""

    path: Path
    source: str
    series: str
    number: int
    size: int
    changed: float


def folder(root: Path, function_id: str) -> Path:
    """Where a function's lines are. Raises ValueError for what can't be an id."""
    if _ID.fullmatch(function_id) is None:
        raise ValueError(f"{function_id[:80]!r} is no function's id")
    return root / function_id


def file_name(source: str, owner: str, number: int) -> str:
    return f"{source}.{owner}.{number:06}.jsonl"


def segments(directory: Path, sources: Set[str] = frozenset(SOURCES)) -> list[Segment]:
    """A function's files, those of a series in order of their numbers."""
    found = []
    try:
        paths = list(directory.iterdir())
    except FileNotFoundError:
        return []
    for path in paths:
        match = _FILE.fullmatch(path.name)
        if match is None or match[1] not in sources:
            continue
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue  # removed meanwhile
        series = f"{match[1]}.{match[2]}"
        found.append(Segment(path, match[1], series, int(match[3]), stat.st_size, stat.st_mtime))
    found.sort(key=lambda segment: (segment.series, segment.number))
    return found


def encode(line: LogLine, at_ms: int) -> bytes:
    """One line with its newline. ASCII: whatever text a function logs, lone surrogates too, can be written."""
    fields = (
        at_ms,
        line.source,
        line.stream,
        line.level,
        _cut(line.text),
        line.version,
        line.instance,
        line.invocation,
    )
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def decode(raw: bytes) -> LogLine | None:
    """The inverse of `encode`; None for a line that a crash left unfinished."""
    try:
        at_ms, source, stream, level, text, version, instance, invocation = json.loads(raw)
    except (ValueError, TypeError):
        return None
    return LogLine(at_ms, source, stream, level, text, version, instance, invocation)


def _cut(text: str) -> str:
    if len(text) * 4 <= limits.LOG_LINE_MAX:
        return text
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= limits.LOG_LINE_MAX:
        return text
    return data[: limits.LOG_LINE_MAX - 16].decode("utf-8", "ignore") + " … (cut)"
