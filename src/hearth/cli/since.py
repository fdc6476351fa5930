"""The times that --since takes."""

from __future__ import annotations

import datetime

from hearth.core.errors import InvalidInput
from hearth.core.limits import parse_duration

_HINT = "write how long ago, such as 10m, 1h30m or 2d, or a time, such as 2026-11-24 or 2026-11-24T01:18:24Z"


def since(text: str, now: float) -> int:
    """Milliseconds since the epoch of ``10m`` (ago), ``2026-11-24`` or ``2026-11-24T01:18[:24[.5]][Z|+01:00]``.

    A time without a zone is meant in this machine's.

    Args:
        now: seconds since the epoch.

    Raises:
        InvalidInput: it is none of these, or not yet.
    """
    text = text.strip()
    if len(text) >= 10 and text[4:5] == "-":
        try:
            at = datetime.datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError, OSError) as error:
            raise InvalidInput(f"--since can't be {text[:40]!r}: it is no time", hint=_HINT) from error
        if at > now:
            raise InvalidInput(f"--since can't be {text[:40]!r}: it is yet to come", hint=_HINT)
    else:
        try:
            at = now - parse_duration(text)
        except InvalidInput as error:
            raise InvalidInput(f"--since can't be {text[:40]!r}: {error.message}", hint=_HINT) from error
    return max(0, int(at * 1000))
