"""What sandboxes were refused, kept for whoever owns them until he asks."""

from __future__ import annotations

import asyncio

from hearth.core.refusals import Refusal

_KEPT = 256


class Refusals:
    """One client's. Where there are more than are asked for, the newest are dropped: each is only told once in a while."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Refusal] = asyncio.Queue(_KEPT)

    def add(self, refusal: Refusal) -> None:
        if not self._waiting.full():
            self._waiting.put_nowait(refusal)

    async def next(self) -> Refusal:
        """Wait for one."""
        return await self._waiting.get()
