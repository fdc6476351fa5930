"""Opens a guest on a connected descriptor."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from hearth.core.errors import ProtocolViolation
from hearth.guest.connection import GuestConnection
from hearth.guest.logs import OnLog
from hearth.guest.outbox import STALL
from hearth.ports.clock import Clock


class StreamGuests:
    """`ports.guest.GuestFactory` for stream sockets, on asyncio's own loop and on uvloop.

    Args:
        clock: monotonic for deadlines, wall clock for log lines whose own time is absurd.
        stall: seconds that a guest may leave what was sent to it unread.
    """

    def __init__(self, clock: Clock, stall: float = STALL) -> None:
        self._clock = clock
        self._stall = stall

    async def open(
        self,
        fd: int,
        deadline: float,
        on_log: OnLog,
        on_closed: Callable[[], None],
    ) -> GuestConnection:
        """Exchange hellos; takes the descriptor over, also when it fails.

        Raises ProtocolViolation: no hello before the deadline (monotonic seconds), another version, nonsense,
        or the peer hung up.
        """
        loop = asyncio.get_running_loop()
        try:
            sock = socket.socket(fileno=fd)
        except OSError as error:
            os.close(fd)
            raise ProtocolViolation(f"the guest's descriptor is no socket: {error.strerror}") from None
        guest = GuestConnection(loop, self._clock, on_log, on_closed, self._stall)
        try:
            sock.setblocking(False)
            if sock.family == socket.AF_UNIX:
                await loop.create_unix_connection(lambda: guest, sock=sock)
            else:
                await loop.create_connection(lambda: guest, sock=sock)
        except OSError as error:
            sock.close()
            raise ProtocolViolation(f"the guest's connection is gone: {error.strerror}") from None
        except asyncio.CancelledError:
            sock.close()
            raise
        try:
            await guest.greeted(deadline)
        except BaseException:  # also when cancelled: the descriptor is ours to close
            guest.close()
            raise
        return guest
