"""Ids of invocations and trace contexts, cheap enough for every request."""

from __future__ import annotations

from hearth.ports.clock import Ids

_DIGITS = b"0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = tuple(bytes((a, b)) for a in _DIGITS for b in _DIGITS)  # ten bits, as an id writes them
_BASE32 = bytes.maketrans(_DIGITS, b"0123456789abcdefghijklmnopqrstuv")  # the digits that int() knows
_HEX = tuple(b"%03x" % number for number in range(1024))
_RUN = len(_PAIRS)
_FRESH = 0.001  # seconds that one prefix is used: ids are sorted by milliseconds
_RANDOM = 1.0  # seconds that the same random bits are used


class InvocationIds:
    """Makes ``inv_…`` ids in runs: a fresh random id, then its last ten bits counted on (RFC 9562, section 6.2,
    allows a counter in the random bits), and its milliseconds as time goes. After a second, or when more than 1,024 are
    made in a millisecond, a fresh random id follows."""

    __slots__ = (
        "_began",
        "_ids",
        "_milliseconds",
        "_next",
        "_prefix",
        "_random",
        "_stamp",
        "_trace",
        "_traced",
    )

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._prefix = self._random = b""
        self._next = self._traced = _RUN
        self._stamp = self._began = 0.0
        self._milliseconds = 0
        self._trace = (b"", b"")

    def next(self, now: float) -> bytes:
        """An id for a request that came `now` (monotonic seconds)."""
        number = self._next
        if number >= _RUN or now - self._stamp > _FRESH:
            self._go_on(now)
            number = 0
        self._next = number + 1
        return self._prefix + _PAIRS[number]

    def traceparent(self) -> bytes:
        """A trace context for a request that brought none (W3C Trace Context, section 3.2), not sampled. Its ids are the
        run's random bits and a count."""
        number = self._traced
        if number >= _RUN:
            self._renew(self._stamp)
            number = 0
        self._traced = number + 1
        trace, span = self._trace
        return trace + _HEX[number] + span + _HEX[number] + b"-00"

    def _go_on(self, now: float) -> None:
        """Another millisecond, with the same random bits if they are not used up."""
        passed = now - self._began
        if self._next >= _RUN or passed > _RANDOM:
            return self._renew(now)
        at = self._milliseconds + int(passed * 1000)
        time = b"".join([_PAIRS[(at >> shift) & 1023] for shift in (40, 30, 20, 10, 0)])
        self._prefix = b"inv_" + time + self._random
        self._stamp = now
        return None

    def _renew(self, now: float) -> None:
        made = self._ids.new("invocation").encode()
        digits = made[4:].translate(_BASE32)
        self._prefix, self._random = made[:-2], made[14:-2]
        self._milliseconds = int(digits[:10], 32)
        self._stamp = self._began = now
        self._next = self._traced = 0
        bits = b"%032x" % (int(digits, 32) & (1 << 128) - 1)
        self._trace = (b"00-" + bits[4:] + b"8", b"-" + bits[-13:])
