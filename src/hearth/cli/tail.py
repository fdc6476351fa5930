"""Following a log from the terminal, over connections that break."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hearth.cli.output import note
from hearth.core.errors import Overloaded, PlatformError, ProtocolViolation

if TYPE_CHECKING:
    from hearth.client.api import Client, LogsAsked
    from hearth.wire.models import LogItem

_PATIENCE = 120.0  # seconds without a server after which following ends
_PAUSE, _PAUSE_MAX = 0.2, 2.0  # seconds between two tries


def follow_log(client: Client, namespace: str, name: str, asked: LogsAsked) -> Iterator[LogItem]:
    """Lines until Ctrl-C. A connection that breaks (control was restarted) is made again: none comes twice or is lost.

    Raises:
        PlatformError: the first connection could not be made, or the server stayed away for two minutes.
        HearthError: what the server refuses: NotFound, when the function was deleted.
    """
    cursor: str | None = None
    pause, lost_at = _PAUSE, 0.0
    while True:
        try:
            for lines, after in client.follow_logs(namespace, name, asked, cursor):
                cursor, pause, lost_at = after, _PAUSE, 0.0
                yield from lines
        except ProtocolViolation:
            raise
        except (PlatformError, Overloaded):
            now = time.monotonic()
            if cursor is None or (lost_at and now - lost_at > _PATIENCE):
                raise
            if not lost_at:
                lost_at = now
                note("the connection to the server broke; trying again")
        time.sleep(pause)
        pause = min(_PAUSE_MAX, pause * 2)
