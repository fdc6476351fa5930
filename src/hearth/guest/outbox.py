"""What leaves for a guest: frames in few writes, bounded for a guest that does not read.

A write is a system call and wakes the guest, so frames of one turn of the loop leave together; but not all at its end, for then guest and
gateway would wait for each other in turns: with 16 requests in flight either worked while the other slept. A few are enough for a write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

STALL = 30.0  # seconds that a guest may leave what was sent to it unread
HELD_MAX = 32 << 20  # bytes kept for a guest that does not read
EARLY = 4  # frames that leave before the turn ends
_WRITE_HIGH = 512 << 10  # bytes in the transport from which on it pauses us


class Outbox:
    """Queues frames for a transport.

    Args:
        stall: seconds that the transport may stay full.
        on_stuck: called when the guest has not read for that long, or too much is held for it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, stall: float, on_stuck: Callable[[], None]) -> None:
        self._loop = loop
        self._stall = stall
        self._on_stuck = on_stuck
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._due = False
        self._held = 0  # bytes queued while paused
        self._timer: asyncio.TimerHandle | None = None
        self.paused = False

    def open(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=_WRITE_HIGH)

    def push(self, frame: bytes) -> None:
        """Queue a frame; it leaves with others, at the end of this turn of the loop at the latest."""
        out = self._out
        out.append(frame)
        if self._due:
            if len(out) >= EARLY:
                self._write()
            return
        if self.paused:
            self._held += len(frame)
            if self._held > HELD_MAX:
                self._on_stuck()
        else:
            self._due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        self._due = False
        self._write()

    def _write(self) -> None:
        out = self._out
        if out and not self.paused and self._transport is not None:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._transport.write(data)

    def pause(self) -> None:
        """The transport is full."""
        self.paused = True
        self._timer = self._loop.call_later(self._stall, self._on_stuck)

    def resume(self) -> None:
        """The transport has room again."""
        self.paused = False
        self._held = 0
        if self._timer is not None:
            self._timer.cancel()
        self.flush()

    def close(self) -> None:
        """Drop what waits; hang up."""
        self._out.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
