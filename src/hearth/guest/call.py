"""One request in work on a guest's connection: its credit both ways and what still waits to be sent."""

from __future__ import annotations

from typing import Protocol

from hearth.ports.guest import Exchange
from hearth.protocol import frames

CHUNK = 256 << 10  # bytes of body in one frame at most: other streams get their turn between two
_GIVE_BACK = frames.WINDOW // 2  # credit is given back in portions, not per read


class Wire(Protocol):
    """What a call needs of its connection."""

    def push(self, frame: bytes, /) -> None:
        """Queue a frame; it leaves with the others at the end of this turn of the loop."""
        ...

    @property
    def paused(self) -> bool:
        """The guest does not read now."""
        ...

    def forget(self, call: StreamCall) -> None:
        """The stream has ended on both sides."""
        ...

    def cancelled(self, call: StreamCall) -> None:
        """The guest owes the stream's last frame; then the exchange hears `on_released`."""
        ...


class StreamCall:
    """`ports.guest.Call` on a stream of a connection."""

    # Class attributes are what most calls never change: an object is made for each, so it sets only what it must.
    credit = frames.WINDOW  # bytes of the response's body that the guest may still send
    answered = False  # the response's head has come
    ended = False  # nothing more is to be heard or said
    left = -1  # bytes still missing of the announced content-length; -1: none was announced
    _owed = 0  # bytes consumed and not yet given back as credit
    _unsent: bytearray | None = None
    _end = False  # END follows the unsent bytes
    _blocked = False  # `write` returned False and `on_writable` is owed

    def __init__(
        self,
        wire: Wire,
        stream: int,
        head: bytes,
        send_credit: int,
        exchange: Exchange,
        sent_end: bool = False,
    ) -> None:
        self.sent_end = sent_end
        self._wire = wire
        self.stream = stream
        self.head = head
        self.exchange = exchange
        self.send_credit = send_credit  # bytes of the request's body that the guest will still take

    def write(self, data: bytes, end: bool) -> bool:
        """Send more of the request's body; False: stop until `on_writable`."""
        if self.ended or self.sent_end or self._end:
            return True
        if self._unsent is None and not self._wire.paused and len(data) <= min(self.send_credit, CHUNK):
            if data or end:
                self.send_credit -= len(data)
                self.sent_end = end
                self._wire.push(frames.frame(frames.BODY, self.stream, data, frames.END if end else 0))
            return True
        if self._unsent is None:
            self._unsent = bytearray()
        self._unsent += data
        self._end = end
        self.pump()
        self._blocked = self._unsent is not None
        return not self._blocked

    def pump(self) -> None:
        """Send what credit and the transport now allow of what waits."""
        unsent = self._unsent
        if unsent is None or self._wire.paused:
            return
        while unsent and self.send_credit > 0:
            part = bytes(unsent[: min(self.send_credit, CHUNK)])
            del unsent[: len(part)]
            self.send_credit -= len(part)
            self.sent_end = self._end and not unsent
            flags = frames.END if self.sent_end else 0
            self._wire.push(frames.frame(frames.BODY, self.stream, part, flags))
        if unsent:
            return
        if self._end and not self.sent_end:
            self.sent_end = True
            self._wire.push(frames.frame(frames.BODY, self.stream, b"", frames.END))
        self._unsent = None
        if self._blocked:
            self._blocked = False
            self.exchange.on_writable()

    def consumed(self, count: int) -> None:
        """`count` bytes of the response's body have left: gives the guest that much credit."""
        owed = self._owed + count
        if owed < _GIVE_BACK or self.ended:
            self._owed = owed
            return
        self._owed = 0
        self.credit += owed
        self._wire.push(frames.window_frame(self.stream, owed))

    def cancel(self, reason: str) -> None:
        """``client_gone``, ``timeout``, ``drain``. The exchange hears nothing more but `on_released`."""
        if not self.ended:
            self.end()
            self._wire.cancelled(self)
            self._wire.push(frames.json_frame(frames.CANCEL, self.stream, {"reason": reason}))

    def end(self) -> None:
        """Nothing more passes between the exchange and the guest."""
        self.ended = True
        self._unsent = None
        self._wire.forget(self)
