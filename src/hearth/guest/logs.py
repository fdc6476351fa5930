"""Log frames of one guest: checked, bounded in rate by credit, handed on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from hearth.ports.clock import Clock
from hearth.protocol import frames

OnLog = Callable[[str | None, str, int, str, str], None]

REFILL = 0.5  # seconds: a guest gets at most LOG_WINDOW bytes of new credit in that time
_CLOCK_SKEW_MS = 60_000  # a guest's clock is believed this far
_STREAMS = frozenset({"stdout", "stderr", "log"})


def plain(value: object, most: int) -> str:
    """Text of a guest, safe to store: at most `most` characters, lone surrogates replaced; other types give ''."""
    if not isinstance(value, str):
        return ""
    value = value[:most]
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


class LogIntake:
    """Takes a guest's log frames."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        on_log: OnLog,
        send: Callable[[bytes], None],
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._on_log = on_log
        self._send = send
        self._credit = frames.LOG_WINDOW
        self._owed = 0
        self._timer: asyncio.TimerHandle | None = None

    def take(self, payload: bytes) -> str | None:
        """Hand a line on; returns what is wrong with the frame when it breaks the protocol."""
        size = len(payload)
        if size > self._credit:
            return "more log bytes than it had credit for"
        self._credit -= size
        self._owed += size
        if self._owed >= frames.LOG_WINDOW // 4 and self._timer is None:
            self._timer = self._loop.call_later(REFILL, self._refill)
        try:
            line = json.loads(payload)
        except (ValueError, RecursionError):
            return "a malformed log frame"
        if not isinstance(line, dict):
            return "a malformed log frame"
        invocation = plain(line.get("inv"), 64) or None
        stream = line.get("stream")
        now, at = self._clock.now_ms(), line.get("t")
        # bool is an int to isinstance, and harmless here: it is far off the clock.
        if not isinstance(at, int) or abs(at - now) > _CLOCK_SKEW_MS:
            at = now
        level = plain(line.get("level"), 16).lower()
        text = plain(line.get("text"), frames.MAX_PAYLOAD)
        known = stream if isinstance(stream, str) and stream in _STREAMS else "log"
        self._on_log(invocation, known, at, level, text)
        return None

    def close(self) -> None:
        """Give out no more credit."""
        if self._timer is not None:
            self._timer.cancel()

    def _refill(self) -> None:
        self._timer = None
        self._credit += self._owed
        self._send(frames.log_window_frame(self._owed))
        self._owed = 0
