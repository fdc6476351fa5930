"""The files of one process: appended to, begun anew when they are full, mended when the disk is (see segments)."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hearth.ports.logs import LogLine
from hearth.telemetry.keeping import trim
from hearth.telemetry.segments import Bounds, encode, file_name, folder

_PIECE = 64  # lines that are encoded in one go: others run between, on whom requests wait
_CLOCK_STEP = 5_000  # milliseconds by which the clock must go back for a new file to be begun


@dataclass(slots=True)
class _Series:
    """One source of one function. `number` outlives the file: none is used again, readers remember how far they are."""

    number: int = 0
    fd: int = -1
    size: int = 0
    begun_ms: int = 0  # when the file was begun
    used: float = 0.0  # monotonic seconds of the last write


class DiskFull(OSError):
    """Nothing is written: less than `Bounds.reserve` is free."""


class LogWriter:
    """Not for several threads at once.

    Args:
        root: the data directory's logs/.
        owner: this process's boot id.
        now_ms: milliseconds since the epoch.
    """

    def __init__(self, root: Path, owner: str, bounds: Bounds, now_ms: Callable[[], int]) -> None:
        self._root = root
        self._owner = owner
        self._bounds = bounds
        self._now_ms = now_ms
        self._series: dict[tuple[str, str], _Series] = {}
        self._open: dict[tuple[str, str], _Series] = {}  # the one written to the longest ago first
        self._last: dict[str, tuple[int, str]] = {}  # time and source of a function's last line
        self.written = 0  # bytes since the beginning

    def check_room(self) -> None:
        """Raises DiskFull; OSError where the folder can't be made."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.statvfs(self._root)
        if found.f_bavail * found.f_frsize < self._bounds.reserve:
            raise DiskFull("the disk is nearly full")

    def append(self, function_id: str, lines: Iterable[LogLine]) -> Iterator[int]:
        """Write lines in order of their time, in pieces; yields how many each piece had. Raises OSError, ValueError."""
        by_source: dict[str, list[tuple[int, LogLine]]] = {}
        for at_ms, line in self._timed(function_id, lines):
            by_source.setdefault(line.source, []).append((at_ms, line))
        for source, timed in by_source.items():
            key = (function_id, source)
            for begin in range(0, len(timed), _PIECE):
                piece = timed[begin : begin + _PIECE]
                self._ready(key)
                count, error = self._write(key, b"".join(encode(line, at_ms) for at_ms, line in piece))
                yield count
                if error is not None:
                    raise error
                if self._series[key].size >= self._bounds.segment(source):
                    self._next(key)

    def _timed(self, function_id: str, lines: Iterable[LogLine]) -> Iterator[tuple[int, LogLine]]:
        """Lines in the order in which they were taken, and their times made to fit.

        None is later than now, as a function may say that it is; none is earlier than the line before it. Lines of two
        sources, which go to two files, never have the same time: so their order is not lost.
        """
        now = self._now_ms()
        last_ms, last_source = self._last.get(function_id, (0, ""))
        if now < last_ms - _CLOCK_STEP:  # the clock was set back: times begin anew, in new files
            last_ms = 0
            for key in self._series:
                if key[0] == function_id:
                    self._next(key)
        for line in sorted(lines, key=lambda line: min(line.at_ms, now)):
            at_ms = max(min(line.at_ms, now), last_ms)
            if at_ms == last_ms and line.source != last_source:
                at_ms += 1
            last_ms, last_source = at_ms, line.source
            yield at_ms, line
        self._last[function_id] = last_ms, last_source

    def rest(self, idle: float = 0.0) -> None:
        """Close files that were not written to for `idle` seconds, to be opened again at the next line.

        Until then others may remove them.
        """
        before = time.monotonic() - idle
        for key, series in list(self._open.items()):
            if series.used <= before:
                self._shut(key)

    @property
    def open_files(self) -> int:
        return len(self._open)

    def _ready(self, key: tuple[str, str]) -> None:
        """Have the series' file open, locked and there."""
        series, now = self._series.setdefault(key, _Series()), self._now_ms()
        self._open.pop(key, None)
        if series.fd >= 0 and now - series.begun_ms > self._bounds.span * 1000:
            self._next(key)
        if series.fd >= 0 and os.fstat(series.fd).st_nlink == 0:  # its function was deleted
            self._shut(key)
            series.number += 1
        while series.fd < 0:
            while len(self._open) >= self._bounds.files:
                self._shut(next(iter(self._open)))
            self._begin(key, now)
        self._open[key] = series
        series.used = time.monotonic()

    def _begin(self, key: tuple[str, str], now: int) -> None:
        function_id, source = key
        series, directory = self._series[key], folder(self._root, function_id)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / file_name(source, self._owner, series.number)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(fd)
        except BlockingIOError:  # somebody is removing it this moment
            found = None
        except BaseException:
            os.close(fd)
            raise
        if found is None or found.st_nlink == 0:
            os.close(fd)
            series.number += 1
            return
        series.fd, series.size = fd, found.st_size
        if series.size == 0:
            series.begun_ms = now
            trim(directory, source, self._bounds.share(source) - self._bounds.segment(source))

    def _next(self, key: tuple[str, str]) -> None:
        """The file is done with."""
        self._shut(key)
        self._series[key].number += 1

    def _shut(self, key: tuple[str, str]) -> None:
        series = self._series[key]
        self._open.pop(key, None)
        if series.fd >= 0:
            os.close(series.fd)
            series.fd = -1

    def _write(self, key: tuple[str, str], data: bytes) -> tuple[int, OSError | None]:
        """Returns how many lines were written, and why not all."""
        series, done = self._series[key], 0
        try:
            while done < len(data):
                done += os.write(series.fd, data[done:])
        except OSError as error:
            # What was written of a line must not stand before the next one. Whole lines may have been read already.
            whole = data.rfind(b"\n", 0, done) + 1
            try:
                os.ftruncate(series.fd, series.size + whole)
                series.size += whole
            except OSError:
                self._next(key)
            return data.count(b"\n", 0, done), error
        series.size += done
        self.written += done
        return data.count(b"\n"), None
