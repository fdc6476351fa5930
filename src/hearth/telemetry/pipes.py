"""What a sandbox writes to its descriptors 1 and 2, as lines (ports.output.OutputReader)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from hearth.core.limits import KIB, LOG_BURST, LOG_LINE_MAX, LOG_RATE
from hearth.ports.clock import Clock

_READ = 64 * KIB
_BREATH = 0.001  # seconds between two reads of what is only dropped: a flood must not keep the loop busy
_SAY = 1.0  # seconds after which dropped bytes are told though nothing else is printed
_LAST_READS = 64  # reads of what is still in a pipe when it is closed


class PipeReader:
    """`ports.output.OutputReader`.

    Args:
        clock: for the rate.
        rate: bytes a second that become lines, of both descriptors together.
        burst: bytes that may come at once after a pause.
    """

    def __init__(self, clock: Clock, rate: int = LOG_RATE, burst: int = LOG_BURST) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = burst

    def watch(
        self,
        stdout: int,
        stderr: int,
        on_line: Callable[[str, str], None],
        on_dropped: Callable[[str, int], None],
    ) -> Callable[[], None]:
        """Read both descriptors (non-blocking, taken over) until they end; returns what closes them."""
        credit = _Credit(self._clock, self._rate, self._burst)
        loop = asyncio.get_running_loop()
        pipes = [
            _Pipe(loop, stdout, "stdout", credit, on_line, on_dropped),
            _Pipe(loop, stderr, "stderr", credit, on_line, on_dropped),
        ]

        def close() -> None:
            for pipe in pipes:
                pipe.close()

        return close


class _Credit:
    """Bytes that may become lines: a token bucket. Once it is empty nothing is taken until it has a second's worth:
    whole runs of lines and gaps that are named once, rather than shreds."""

    def __init__(self, clock: Clock, rate: int, burst: int) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._left = float(burst)
        self._empty = False
        self._at = clock.monotonic()

    def take(self, size: int) -> bool:
        now = self._clock.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if size > self._left or (self._empty and self._left < min(self._rate, self._burst)):
            if not self._empty:
                self._empty, self._left = True, 0.0
            return False
        self._empty = False
        self._left -= size
        return True


class _Pipe:
    """One descriptor."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        name: str,
        credit: _Credit,
        on_line: Callable[[str, str], None],
        on_dropped: Callable[[str, int], None],
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._name = name
        self._credit = credit
        self._on_line = on_line
        self._on_dropped = on_dropped
        self._line = bytearray()  # a line that has begun; never above LOG_LINE_MAX
        self._cut = False  # the rest of this line is not kept
        self._dropped = 0  # bytes since the last line that was taken
        self._pause: asyncio.TimerHandle | None = None
        self._confession: asyncio.TimerHandle | None = None
        loop.add_reader(fd, self._readable)

    def close(self) -> None:
        """Take what is still there, and close. Idempotent."""
        for _ in range(_LAST_READS):
            if self._fd < 0 or not self._readable():
                break
        self._end()

    def _readable(self) -> bool:
        """Deal with one read; whether there may be more."""
        try:
            data = os.read(self._fd, _READ)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._end()
            return False
        if not self._credit.take(len(data)):
            self._dropped += len(data)
            self._line.clear()
            self._cut = not data.endswith(b"\n")  # what follows is the end of a line whose beginning is lost
            if self._confession is None:
                self._confession = self._loop.call_later(_SAY, self._confess)
            if self._pause is None:
                self._loop.remove_reader(self._fd)
                self._pause = self._loop.call_later(_BREATH, self._resume)
            return True
        self._confess()
        *ended, rest = data.split(b"\n")
        for part in ended:
            self._add(part)
            self._emit()
        self._add(rest)
        return True

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._fd, self._readable)

    def _confess(self) -> None:
        """Tell what was dropped: before the next line that is taken, after a moment, and at the end."""
        if self._confession is not None:
            self._confession.cancel()
            self._confession = None
        if self._dropped:
            count, self._dropped = self._dropped, 0
            self._on_dropped(self._name, count)

    def _add(self, part: bytes) -> None:
        if not self._cut:
            self._line += part
            if len(self._line) > LOG_LINE_MAX:
                del self._line[LOG_LINE_MAX:]
                self._cut = True

    def _emit(self) -> None:
        line, cut = self._line, self._cut
        self._line, self._cut = bytearray(), False
        if line:
            text = line.decode("utf-8", "replace").removesuffix("\r")
            self._on_line(self._name, text + " … (cut)" if cut else text)
        elif not cut:
            self._on_line(self._name, "")

    def _end(self) -> None:
        if self._fd < 0:
            return
        self._loop.remove_reader(self._fd)
        if self._pause is not None:
            self._pause.cancel()
        os.close(self._fd)
        self._fd = -1
        self._confess()
        if self._line:
            self._emit()
