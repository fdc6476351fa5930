"""Lines of functions and builds, written in batches to files by a thread (ports.logs.LogSink)."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import threading
from collections import Counter
from pathlib import Path

from hearth.core.limits import GIB, MIB
from hearth.ports.logs import LogLine
from hearth.telemetry.segments import SUFFIX, encode, folder, segments

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """What is kept and what is taken.

    Args:
        segment: bytes of a file from which on a new one is begun.
        segments: files of one function that are kept, whoever wrote them.
        total: bytes of all functions' files together.
        queue: bytes of one function's lines that wait to be written.
        queues: bytes of all lines that wait.
        files: descriptors kept open.
    """

    segment: int = 8 * MIB
    segments: int = 8
    total: int = 4 * GIB
    queue: int = 4 * MIB
    queues: int = 64 * MIB
    files: int = 256


class _Open:
    """The file that a function's lines go to now."""

    __slots__ = ("fd", "path", "size")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self.fd).st_size


class LogFiles:
    """`ports.logs.LogSink`. `write` may be called from any thread.

    Args:
        root: the data directory's logs/.
        owner: this process's boot id; its files carry it, so every file has one writer.
        pause: seconds between two batches, so that lines leave in few writes.
    """

    def __init__(self, root: Path, owner: str, bounds: Bounds | None = None, pause: float = 0.05) -> None:
        self._root = root
        self._owner = owner
        self._bounds = bounds or Bounds()
        self._pause = pause
        self._lock = threading.Lock()
        self._waiting: dict[str, list[LogLine]] = {}
        self._sizes: Counter[str] = Counter()
        self._size = 0
        self._dropped: Counter[str] = Counter()
        self._wake = threading.Event()
        self._idle = threading.Condition(self._lock)
        self._forgotten: set[str] = set()
        self._busy = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._open: dict[str, _Open] = {}
        self._numbers: Counter[str] = Counter()
        self._written = (
            bounds.total if bounds else 0
        )  # since the total was last looked at; the first write looks

    def write(self, function_id: str, line: LogLine) -> None:
        """Queue a line; never blocks on the disk. Beyond its bounds lines are dropped and the count is logged."""
        size = 200 + len(line.text)
        with self._lock:
            over = self._size + size > self._bounds.queues
            if over or self._sizes[function_id] + size > self._bounds.queue:
                self._dropped[function_id] += 1
                return
            self._waiting.setdefault(function_id, []).append(line)
            self._sizes[function_id] += size
            self._size += size
            self._start()
        self._wake.set()

    def flush(self) -> None:
        """Wait until what is queued now is written."""
        with self._idle:
            self._wake.set()
            while self._thread is not None and (self._waiting or self._forgotten or self._busy):
                self._idle.wait(1.0)

    def forget(self, function_id: str) -> None:
        """Remove a deleted function's lines, soon."""
        with self._lock:
            self._waiting.pop(function_id, None)
            self._forgotten.add(function_id)
            self._start()
        self._wake.set()

    def close(self) -> None:
        """Write what waits, end the thread."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for opened in self._open.values():
            os.close(opened.fd)
        self._open.clear()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="hearth-logs", daemon=True)
            self._thread.start()

    # The thread.

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            with self._lock:
                batch, self._waiting = self._waiting, {}
                forgotten, self._forgotten = self._forgotten, set()
                dropped = {function_id: self._dropped.pop(function_id, 0) for function_id in batch}
                self._sizes.clear()
                self._size = 0
                self._busy = True
            for function_id, lines in batch.items():
                self._append(function_id, lines, dropped[function_id])
            for function_id in forgotten:
                if function_id in self._open:
                    os.close(self._open.pop(function_id).fd)
                self._numbers[function_id] += 1
                shutil.rmtree(folder(self._root, function_id), ignore_errors=True)
            with self._idle:
                self._busy = False
                self._idle.notify_all()
                done = self._closing.is_set() and not self._waiting and not self._forgotten
            if done:
                return
            self._closing.wait(self._pause)

    def _append(self, function_id: str, lines: list[LogLine], dropped: int) -> None:
        if dropped:
            said = f"{dropped} lines were dropped here: more was logged than is taken"
            last = lines[-1]
            lines.append(
                dataclasses.replace(last, stream="platform", level="warning", text=said, invocation=None)
            )
        try:
            opened = self._file(function_id)
            data = b"".join(map(encode, lines))
            view = memoryview(data)
            while view:
                view = view[os.write(opened.fd, view) :]
            opened.size += len(data)
            self._written += len(data)
        except (OSError, ValueError) as error:  # a full disk, say: functions go on without their logs
            with self._lock:
                self._dropped[function_id] += len(lines) - (1 if dropped else 0) + dropped
            _log.error("can't write logs of %s: %s", function_id, error)
            return
        try:
            if opened.size >= self._bounds.segment:
                self._shut(function_id)
                self._trim(folder(self._root, function_id))
            if self._written * 16 >= self._bounds.total:
                self._written = 0
                self._trim_all()
        except OSError as error:
            _log.error("can't remove old logs of %s: %s", function_id, error)

    def _file(self, function_id: str) -> _Open:
        opened = self._open.pop(function_id, None)
        if opened is not None and os.fstat(opened.fd).st_nlink == 0:  # another process made room
            os.close(opened.fd)
            opened = None
            self._numbers[function_id] += (
                1  # a name is never used again: readers remember how far they are in it
            )
        if opened is None:
            directory = folder(self._root, function_id)
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if len(self._open) >= self._bounds.files:
                self._shut(next(iter(self._open)))  # the one that was written to the longest ago
            number = self._numbers[function_id]
            opened = _Open(directory / f"{self._owner}.{number:06}{SUFFIX}")
            if opened.size == 0:
                self._trim(directory)
        self._open[function_id] = opened
        return opened

    def _shut(self, function_id: str) -> None:
        opened = self._open.pop(function_id)
        os.close(opened.fd)
        if opened.size >= self._bounds.segment:
            self._numbers[function_id] += 1

    def _trim(self, directory: Path) -> None:
        """Keep the newest files of one function."""
        found = segments(directory)
        for path, _, _ in found[: max(0, len(found) - self._bounds.segments)]:
            path.unlink(missing_ok=True)

    def _trim_all(self) -> None:
        """Remove the oldest files of all functions until the total is held."""
        found = [
            entry for directory in self._root.iterdir() if directory.is_dir() for entry in segments(directory)
        ]
        total = sum(size for _, size, _ in found)
        for path, size, _ in sorted(found, key=lambda entry: entry[2]):
            if total <= self._bounds.total:
                return
            path.unlink(missing_ok=True)
            total -= size
