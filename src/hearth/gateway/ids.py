"""Ids of invocations and trace contexts, cheap enough for every request."""

from __future__ import annotations

from hearth.ports.clock import Ids

_DIGITS = b"0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = tuple(bytes((a, b)) for a in _DIGITS for b in _DIGITS)  # ten bits, as an id writes them
_BASE32 = bytes.maketrans(_DIGITS, b"0123456789abcdefghijklmnopqrstuv")  # the digits that int() knows
_HEX = tuple(b"%03x" % number for number in range(1024))
_LAST = tuple(digits + b"-00" for digits in _HEX)  # and what follows a span's id: not sampled
_RUN = len(_PAIRS)
_FRESH = 0.001  # seconds that one prefix is used: ids are sorted by milliseconds
_RANDOM = 1.0  # seconds that the same random bits are used


class InvocationIds:
    """Makes ``inv_…`` ids in runs: a fresh random id, then its last ten bits counted on (RFC 9562, section 6.2,
    allows a counter in the random bits), and its milliseconds as time goes. After a second, or 1,024 of them, a fresh
    random id follows. Each comes with a trace context of the run's random bits and the same count."""

    __slots__ = (
        "_began",
        "_ids",
        "_milliseconds",
        "_next",
        "_prefix",
        "_random",
        "_span",
        "_stamp",
        "_trace",
    )

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._prefix = self._random = b""
        self._next = _RUN
        self._stamp = self._began = 0.0
        self._milliseconds = 0
        self._trace = self._span = b""

    def next(self, now: float) -> tuple[bytes, bytes]:
        """An id for a request that came `now` (monotonic seconds), and a trace context for it if it brought none
        (W3C Trace Context, section 3.2), not sampled."""
        number = self._next
        if number >= _RUN or now - self._stamp > _FRESH:
            number = self._go_on(now)
        self._next = number + 1
        return self._prefix + _PAIRS[number], self._trace + _HEX[number] + self._span + _LAST[number]

    def _go_on(self, now: float) -> int:
        """Another millisecond, with the same random bits if they are not used up; returns the next count."""
        number, passed = self._next, now - self._began
        if number >= _RUN or passed > _RANDOM:
            self._renew(now)
            return 0
        at = self._milliseconds + int(passed * 1000)
        time = b"".join([_PAIRS[(at >> shift) & 1023] for shift in (40, 30, 20, 10, 0)])
        self._prefix = b"inv_" + time + self._random
        self._stamp = now
        return number

    def _renew(self, now: float) -> None:
        made = self._ids.new("invocation").encode()
        digits = made[4:].translate(_BASE32)
        self._prefix, self._random = made[:-2], made[14:-2]
        self._milliseconds = int(digits[:10], 32)
        self._stamp = self._began = now
        bits = b"%032x" % (int(digits, 32) & (1 << 128) - 1)
        self._trace, self._span = b"00-" + bits[4:] + b"8", b"-" + bits[-13:]
