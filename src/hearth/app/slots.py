"""Warm slots: sandboxes whose language runtime is up and waits for a function.

Kept per kind, for kinds that a deployed function uses, and refilled in the background. A slot belongs to one version
from `Launcher.launch` on and is never handed to another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from hearth.app.slot import Slot, Workshop, open_slot
from hearth.app.story import Ending, how_it_ended
from hearth.core.errors import HearthError, NoCapacity
from hearth.core.launch import Attachment, Exit, Handle, SlotKind, Toolchain

PARALLEL = 2  # slots that are refilled at once
AFTER_TAKE = (
    0.02  # seconds: the start that took a slot has the keeper and the processor to itself for so long
)
BACKOFF, BACKOFF_MAX = 0.5, 30.0  # seconds between failing refills
LAST_WORD = 0.25  # seconds that a sandbox gets to end by itself once its connection is gone
_log = logging.getLogger(__name__)


class Room:
    """How many sandboxes this node still has room for."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self) -> bool:
        if self.used >= self.limit:
            return False
        self.used += 1
        return True

    def give(self) -> None:
        self.used -= 1


@dataclass(slots=True)
class _Stock:
    """The slots of one kind."""

    toolchain: Toolchain
    waiting: deque[Slot] = field(default_factory=deque)
    starting: int = 0
    failures: int = 0
    resting: bool = False  # a refill failed and the pause is not over


class Slots:
    """Keeps `keep` slots of every wanted kind, as far as there is room; refills `pause` seconds after one was taken."""

    def __init__(self, workshop: Workshop, keep: int, room: Room, pause: float = AFTER_TAKE) -> None:
        self._workshop = workshop
        self._keep = keep
        self._room = room
        self._pause = pause
        self._stocks: dict[SlotKind, _Stock] = {}
        self._refilling = 0
        self._closing = False
        self._due: asyncio.TimerHandle | None = None  # of the next refill
        self._made: dict[str, Slot] = {}  # by sandbox: waiting, loading or an instance's
        self._tasks: set[asyncio.Task[None]] = set()
        self._rests: set[asyncio.Task[None]] = (
            set()
        )  # pauses after failed refills; nothing is lost by ending one

    def want(self, kinds: Mapping[SlotKind, Toolchain]) -> None:
        """Which kinds deployed functions use now; slots of others are removed."""
        for kind in [kind for kind in self._stocks if kind not in kinds]:
            for slot in self._stocks.pop(kind).waiting:
                self._spawn(self.discard(slot, 0.0))
        for kind, toolchain in kinds.items():
            self._stocks.setdefault(kind, _Stock(toolchain))
        self._refill()

    def take(self, kind: SlotKind) -> Slot | None:
        """The slot that has waited longest, or None. O(1); its place is filled again in the background, a moment later."""
        stock = self._stocks.get(kind)
        while stock is not None and stock.waiting:
            slot = stock.waiting.popleft()
            slot.on_closed = None
            self._refill_soon()
            if not slot.guest.closed:
                slot.phases.pop("slot", None)  # it was made before anybody waited for it
                return slot
            self._spawn(self.discard(slot, 0.0))
        return None

    @property
    def handles(self) -> set[Handle]:
        """Of every sandbox that was made here and not yet removed: waiting, loading or an instance's."""
        return {slot.handle for slot in self._made.values()}

    def find(self, sandbox: str) -> Slot | None:
        """The slot, or instance, that is this sandbox (``sb_…``)."""
        return self._made.get(sandbox)

    def waiting(self, kind: SlotKind) -> int:
        """Slots of a kind that are up."""
        stock = self._stocks.get(kind)
        return 0 if stock is None else len(stock.waiting)

    def stocks(self) -> list[tuple[str, int, int]]:
        """(runtime, slots that are up, slots that are being made) of every wanted kind."""
        return [(kind.runtime, len(stock.waiting), stock.starting) for kind, stock in self._stocks.items()]

    async def start(
        self,
        kind: SlotKind,
        toolchain: Toolchain,
        attachment: Attachment | None = None,
        row_first: bool = True,
    ) -> Slot:
        """Make a slot now.

        Args:
            kind: what it is to be.
            toolchain: of the kind's exact version.
            attachment: given where the driver can't attach: the sandbox is made with the code in it.
            row_first: its row is written before, and a store that is down prevents the start.

        Raises:
            NoCapacity: the node is full, or the driver has no room.
            SandboxFailed, KeeperUnavailable, LimitUnenforceable: it could not be made.
            StoreUnavailable: with `row_first` only.
        """
        if not self._room.take() and not await self._make_room(kind):
            raise NoCapacity(
                "this node runs as many instances as it may",
                hint="stop functions that are not needed, or raise --max-instances",
                retry_after=1,
            )
        try:
            slot = await open_slot(self._workshop, kind, toolchain, attachment, row_first)
        except BaseException:
            self._room.give()
            raise
        self._made[slot.id] = slot
        return slot

    async def discard(self, slot: Slot, grace: float) -> None:
        """Remove a slot's sandbox; returns when it is gone. What fails is logged: the keeper removes it with its owner."""
        shop, end = self._workshop, Exit(None, reason="it closed its connection")
        if slot.ending is not None:
            self._tell(slot, end)
        if slot.guest.closed and not grace:  # it ends by itself: killed too early, it could not say how
            with contextlib.suppress(TimeoutError, HearthError):
                async with asyncio.timeout(LAST_WORD):
                    end = await shop.driver.wait(slot.handle)
        if not grace:
            slot.close()
        try:
            await shop.driver.stop(slot.handle, grace)
        except HearthError as error:
            _log.warning("sandbox %s could not be stopped: %s", slot.id, error.message)
        finally:
            slot.close()
            self._tell(slot, end)
            shop.rows.change(slot.id, "gone")
            self._made.pop(slot.id, None)
            self._room.give()

    def _tell(self, slot: Slot, end: Exit) -> None:
        """Say in its function's log why an instance has ended; once."""
        version, told = slot.version, slot.ending
        if version is None or not slot.up:
            return
        slot.up = False
        if told is None:
            told = Ending(f"instance crashed: {how_it_ended(end, version)}", "error")
        self._workshop.story.instance(version, slot.id, told.text, told.level, told.invocation)

    async def filled(self) -> None:
        """Return once no slot is being made: all that are wanted are up, or could not be."""
        while self._refilling:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def close(self) -> None:
        """Remove every waiting slot."""
        self._closing = True
        self.want({})
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for rest in self._rests:
            rest.cancel()
        await asyncio.gather(*self._rests, return_exceptions=True)

    async def _make_room(self, kind: SlotKind) -> bool:
        """Give up a waiting slot of another kind."""
        for other, stock in self._stocks.items():
            if other != kind and stock.waiting:
                slot = stock.waiting.popleft()
                slot.on_closed = None
                await self.discard(slot, 0.0)
                return self._room.take()
        return False

    def _refill_soon(self) -> None:
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(self._pause, self._refill)

    def _refill(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        for kind, stock in self._stocks.items():
            missing = self._keep - len(stock.waiting) - stock.starting
            while missing > 0 and self._refilling < PARALLEL and not stock.resting and not self._closing:
                if self._room.used >= self._room.limit:
                    return
                missing -= 1
                stock.starting += 1
                self._refilling += 1
                self._spawn(self._fill(kind, stock))

    async def _fill(self, kind: SlotKind, stock: _Stock) -> None:
        slot: Slot | None = None
        try:
            slot = await self.start(kind, stock.toolchain, row_first=False)
            stock.failures = 0
        except HearthError as error:
            stock.failures += 1
            stock.resting = True
            _log.warning("a warm %s slot could not be made: %s", kind.runtime, error.message)
        finally:
            stock.starting -= 1
            self._refilling -= 1
        if slot is None:
            self._rests.add(rest := asyncio.create_task(self._rest(stock)))
            rest.add_done_callback(self._rests.discard)
        elif self._closing or self._stocks.get(kind) is not stock:
            await self.discard(slot, 0.0)
        else:
            self._put(stock, slot)
        self._refill()

    async def _rest(self, stock: _Stock) -> None:
        await self._workshop.clock.sleep(min(BACKOFF_MAX, BACKOFF * 2 ** min(stock.failures, 10)))
        stock.resting = False
        self._refill()

    def _put(self, stock: _Stock, slot: Slot) -> None:
        def died() -> None:
            with contextlib.suppress(ValueError):
                stock.waiting.remove(slot)
                self._spawn(self.discard(slot, 0.0))
                self._refill()

        slot.on_closed = died
        stock.waiting.append(slot)
        if slot.guest.closed:
            died()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
