"""Ids of invocations and trace contexts, cheap enough for every request."""

from __future__ import annotations

from hearth.ports.clock import Ids

_DIGITS = b"0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = tuple(bytes((a, b)) for a in _DIGITS for b in _DIGITS)  # the last ten bits, as an id writes them
_FRESH = 0.001  # seconds that one prefix is used: ids are sorted by milliseconds


class InvocationIds:
    """Makes ``inv_…`` ids in runs: a fresh random id, then its last ten bits counted on (RFC 9562, section 6.2,
    allows a counter in the random bits). A run ends after a millisecond or 1,024 ids."""

    __slots__ = ("_ids", "_next", "_prefix", "_stamp")

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._prefix = b""
        self._next = 1024
        self._stamp = 0.0

    def next(self, now: float) -> bytes:
        """An id for a request that came `now` (monotonic seconds)."""
        number = self._next
        if number >= 1024 or now - self._stamp > _FRESH:
            self._prefix = self._ids.new("invocation").encode()[:-2]
            self._stamp = now
            number = 0
        self._next = number + 1
        return self._prefix + _PAIRS[number]


def traceparent(invocation: bytes) -> bytes:
    """A trace context for a request that brought none (W3C Trace Context, section 3.2): not sampled, made of the
    invocation's id, so that both can be found by each other."""
    value = 0
    for digit in invocation[4:]:
        value = value << 5 | _DIGITS.index(digit)
    trace = value & (1 << 128) - 1
    return b"00-%032x-%016x-00" % (trace, trace & (1 << 64) - 1 or 1)
