"""Lines of functions and builds, taken from any thread and written in batches by one (ports.logs.LogSink)."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from hearth.ports.logs import PLATFORM, LogLine
from hearth.telemetry.keeping import trim_all
from hearth.telemetry.logwriter import DiskFull, LogWriter
from hearth.telemetry.segments import Bounds

_OVERHEAD = 200  # bytes that a waiting line takes besides its text
_PLATFORM_EXTRA = 1 << 20  # bytes of a function's queue that only the platform's own lines may take
_SAY_AGAIN = 1.0  # seconds between two lines about dropped ones
_COMPLAIN_AGAIN = 60.0  # seconds between two complaints in the platform's own log
_REST = 60.0  # seconds without a line after which a file is closed, and so may be removed
_MUCH, _FULL, _BROKEN = "more was logged than is taken", "the disk is full", "the disk refused them"
_log = logging.getLogger(__name__)


class LogFiles:
    """`ports.logs.LogSink`. `write` may be called from any thread.

    Args:
        root: the data directory's logs/.
        owner: this process's boot id; its files carry it, so every file has one writer.
        pause: seconds between two batches, so that lines leave in few writes.
        now_ms: milliseconds since the epoch.
    """

    def __init__(
        self,
        root: Path,
        owner: str,
        bounds: Bounds | None = None,
        pause: float = 0.05,
        now_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self._root = root
        self._bounds = bounds or Bounds()
        self._pause = pause
        self._now_ms = now_ms
        self._writer = LogWriter(root, owner, self._bounds, now_ms)
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._waiting: dict[str, list[LogLine]] = {}
        self._sizes: Counter[str] = Counter()
        self._size = 0
        self._busy = False
        self._dropped: dict[str, tuple[Counter[str], LogLine]] = {}  # by reason, and the last one
        # The thread's own.
        self._said: dict[str, float] = {}  # when a function was last told of dropped lines
        self._complained = -_COMPLAIN_AGAIN
        self._tidied = 0.0
        self._trimmed_at: int | None = None  # bytes written when the total was last looked at

    def write(self, function_id: str, line: LogLine) -> None:
        """Queue a line; never blocks on the disk. Beyond its bounds lines are dropped and the count is logged."""
        size = _OVERHEAD + len(line.text)
        extra = _PLATFORM_EXTRA if line.source == PLATFORM else 0
        with self._lock:
            over = self._size + size > self._bounds.queues + extra
            if over or self._sizes[function_id] + size > self._bounds.queue + extra:
                self._drop(function_id, [line], _MUCH)
            else:
                self._waiting.setdefault(function_id, []).append(line)
                self._sizes[function_id] += size
                self._size += size
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hearth-logs", daemon=True)
                self._thread.start()
        self._wake.set()

    def flush(self) -> None:
        """Wait until what is queued now is written."""
        with self._idle:
            self._wake.set()
            while self._thread is not None and (self._waiting or self._busy):
                self._idle.wait(1.0)

    def close(self) -> None:
        """Write what waits, end the thread."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._writer.rest()

    def _drop(self, function_id: str, lines: list[LogLine], reason: str) -> None:
        """Count lines that are not written. The lock is held."""
        counts = self._dropped[function_id][0] if function_id in self._dropped else Counter()
        counts[reason] += len(lines)
        self._dropped[function_id] = counts, lines[-1]

    # The thread.

    def _run(self) -> None:
        while True:
            if not self._closing.is_set():
                patience = _SAY_AGAIN if self._dropped else _REST
                if not self._wake.wait(patience) and not self._dropped:
                    self._writer.rest()
                    self._wake.wait()
            self._wake.clear()
            closing = self._closing.is_set()
            with self._lock:
                batch, self._waiting = self._waiting, {}
                dropped = self._to_say(closing)
                self._sizes.clear()
                self._size = 0
                self._busy = True
            self._write_all(batch)
            refused = not self._confess(dropped)
            self._tidy()
            with self._idle:
                self._busy = False
                self._idle.notify_all()
                if closing and not self._waiting and (refused or not self._dropped):
                    return
            self._closing.wait(self._pause)

    def _write_all(self, batch: dict[str, list[LogLine]]) -> None:
        if not batch:
            return
        try:
            self._writer.check_room()
        except OSError as error:
            with self._lock:
                for function_id, lines in batch.items():
                    self._drop(function_id, lines, _reason(error))
            self._complain(error)
            return
        for function_id, lines in batch.items():
            self._append(function_id, lines)
        try:
            written = self._writer.written
            if self._trimmed_at is None or (written - self._trimmed_at) * 16 >= self._bounds.total:
                self._trimmed_at = written
                trim_all(self._root, self._bounds.total)
        except OSError as error:
            self._complain(error)

    def _append(self, function_id: str, lines: list[LogLine]) -> None:
        """Write one function's lines; those that can't be written are counted."""
        done = 0
        try:
            for count in self._writer.append(function_id, lines):
                done += count
        except (OSError, ValueError) as error:  # a full disk, say: functions go on without their logs
            with self._lock:
                self._drop(function_id, lines[done:], _reason(error))
            self._complain(error)

    def _to_say(self, closing: bool) -> dict[str, tuple[Counter[str], LogLine]]:
        """Whose dropped lines are to be said now: once a second, not for each. The lock is held."""
        now = time.monotonic()
        due = [
            function_id
            for function_id in self._dropped
            if closing or now - self._said.get(function_id, -_SAY_AGAIN) >= _SAY_AGAIN
        ]
        self._said.update(dict.fromkeys(due, now))
        return {function_id: self._dropped.pop(function_id) for function_id in due}

    def _confess(self, dropped: dict[str, tuple[Counter[str], LogLine]]) -> bool:
        """Say in their functions' logs how many lines were dropped; False when not all could be said."""
        said_all = True
        for function_id, (counts, last) in dropped.items():
            said = [_notice(count, reason, last) for reason, count in counts.items()]
            try:
                self._writer.check_room()
                for _ in self._writer.append(function_id, said):
                    pass
            except (OSError, ValueError):  # it is said when the disk takes something again
                said_all = False
                with self._lock:
                    before, line = self._dropped.get(function_id, (Counter(), last))
                    self._dropped[function_id] = before + counts, line
        return said_all

    def _tidy(self) -> None:
        """Close what was not written to for a while; forget who was told of dropped lines long ago."""
        now = time.monotonic()
        if now - self._tidied >= _REST:
            self._tidied = now
            self._writer.rest(_REST)
            self._said = {key: at for key, at in self._said.items() if now - at < _REST}

    def _complain(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._complained >= _COMPLAIN_AGAIN:
            self._complained = now
            _log.error("logs of functions can't be written, calls go on without: %s", error)


def _reason(error: Exception) -> str:
    full = isinstance(error, DiskFull) or (
        isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    )
    return _FULL if full else _BROKEN


def _notice(count: int, reason: str, last: LogLine) -> LogLine:
    lines = "1 line was dropped" if count == 1 else f"{count:,} lines were dropped"
    return LogLine(
        last.at_ms, PLATFORM, "logs", "warning", f"{lines}: {reason}", last.version, last.instance, None
    )
