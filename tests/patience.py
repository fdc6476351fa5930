"""How long tests wait before they give up: a factor for machines that are slower than a plain one, set by ``--patience``.

It stretches deadlines of waiting and the timeout of a whole test, and nothing that a test asserts.
"""

from __future__ import annotations

_factor = 1.0


def set_factor(factor: float) -> None:
    global _factor
    _factor = factor


def patient(seconds: float) -> float:
    """Seconds to wait on this machine for what a plain one does within `seconds`."""
    return seconds * _factor
