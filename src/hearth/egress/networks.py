"""Networks of sandboxes on this machine: the port `Networks`, for root.

Each sandbox gets a veth pair of its own, prepared closed: its host end down, its address in no set. Opening brings it
up and puts it into the sets of the platform's one nftables table, which judges every packet. Whatever needs the kernel
runs in worker threads: `_lane` (one thread: the table, opening, cutting) and `_removals`, because removing a link holds
the kernel's lock for 20 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, TypeVar

from hearth.core.addresses import openable
from hearth.core.errors import NoCapacity, SandboxFailed
from hearth.core.finding import Finding, State, found_by
from hearth.core.launch import Network
from hearth.core.refusals import Rights
from hearth.egress import claim, inside, links
from hearth.egress.allowed import Allowed, allowed_by, bounded
from hearth.egress.door import Door
from hearth.egress.leftovers import cleanup_leftovers, explain
from hearth.egress.machine import Ground, obstacles, prepare_ground
from hearth.egress.ruleset import member_for
from hearth.egress.upstreams import RESOLV_CONF, upstreams_from
from hearth.egress.watch import Watch
from hearth.linux.netns import alone
from hearth.ports.egress import NetHandle

log = logging.getLogger(__name__)

T = TypeVar("T")
_TICK = 10.0  # seconds


@dataclass(slots=True)
class _Place:
    """One sandbox's link, from `prepare` to the end of `close`."""

    handle: NetHandle
    address: IPv4Address
    index: int = 0
    opened: bool = False
    allowed: Allowed = field(default_factory=Allowed)
    closing: asyncio.Task[None] | None = None


class HostNetworks:
    """Networks of one platform's sandboxes. `start` first, `stop` last; all methods on the event loop's thread.

    Args:
        instance: the platform's instance id; names its table, links and range.
        resolv_conf: where the host's name servers stand; their addresses are never taken for sandboxes.
        lock: the machine-wide lock file under which a range is chosen.
        tick: seconds between looks at the rules, which repair a notice that was lost.
        private: ranges that the operator lets functions reach, if they name them.
    """

    def __init__(
        self,
        instance: str,
        *,
        resolv_conf: Path = RESOLV_CONF,
        lock: Path = claim.LOCK,
        tick: float = _TICK,
        private: Iterable[IPv4Network] = (),
    ) -> None:
        self._instance = instance
        self._resolv_conf, self._lock, self._tick = resolv_conf, lock, tick
        self._private = openable(private)
        self._group, self._prefix = claim.group(instance), claim.prefix(instance)
        self._fault: SandboxFailed | None = SandboxFailed("the networks of sandboxes are not started")
        self._ground: Ground | None = None
        self._door: Door | None = None
        self._watch: Watch | None = None
        self._lane = ThreadPoolExecutor(1, "egress-rules")
        self._removals = ThreadPoolExecutor(1, "egress-removals")
        self._places: dict[str, _Place] = {}
        self._by_address: dict[str, _Place] = {}  # the open ones
        self._free: deque[IPv4Address] = deque()
        self._made = 0
        self._noticed = asyncio.Event()
        self._docker_noticed = False
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- the whole platform --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Clear what a dead keeper left, make the ground, watch it. A machine that can't hold the rules is no error
        here: `missing` says why, and there are no networks."""
        servers = [upstream.address for upstream in upstreams_from(self._resolv_conf)]
        try:
            work = partial(prepare_ground, self._instance, servers, self._lock, self._private)
            ground = await self._in_lane(work)
        except SandboxFailed as error:
            self._fault = error
            log.warning("functions get no network: %s; %s", error.message, error.hint)
            return
        self._ground, self._door = ground, Door(ground)
        self._free.extend(list(ground.names.block.hosts())[1:])  # the first is the gateway
        self._watch = Watch(ground.names.table, self.look, self.look, self._on_docker)
        try:
            self._watch.start()
        except OSError as error:
            await self.stop()
            self._fault = explain(error)
            return
        self._fault = None
        for obstacle in await self._in_lane(partial(obstacles, ground.nft, ground.docker)):
            log.warning("%s", obstacle)
        self.look()  # what happened before the watch listened
        self._spawn(self._guard(self._door))

    async def stop(self) -> None:
        """Remove everything. Idempotent.

        Raises:
            SandboxFailed: something could not be removed; the next start tries again.
        """
        self._fault = SandboxFailed("the networks of sandboxes are stopped")
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        ground, self._ground, self._door = self._ground, None, None
        try:
            if ground is not None:
                for sock in ground.sockets:
                    sock.close()
                await self._in_lane(ground.nft.close)
                await self._in_lane(partial(cleanup_leftovers, self._instance))
        finally:
            self._places.clear()
            self._by_address.clear()
            self._free.clear()
            self._lane.shutdown(wait=False)
            self._removals.shutdown(wait=False)

    def missing(self) -> tuple[Finding, ...]:
        """See the port."""
        return () if self._fault is None else (found_by(self._fault, "network", State.NOT_HELD),)

    @property
    def resolver(self) -> str:
        """See the port. Raises SandboxFailed while the rules are not in force."""
        return str(self._standing().names.gateway)

    def resolver_sockets(self) -> tuple[tuple[socket.socket, ...], str] | None:
        """((UDP socket, TCP listener, where the kernel tells of refused packets if it can), range of the sandboxes' addresses);
        the sockets stay ours. None without networks."""
        if self._ground is None:
            return None
        return self._ground.sockets, str(self._ground.names.block)

    def look_ups(self) -> None:
        """None have sockets of their own: one pair is for all."""

    def look(self) -> None:
        """Have the rules looked at now, and mended where they are not as they should be."""
        self._noticed.set()

    def holds(self, sandbox: str) -> bool:
        """Whether a sandbox has a network here, or one that is being removed."""
        return sandbox in self._places

    # -- one sandbox ---------------------------------------------------------------------------------------

    async def prepare(self, sandbox: str, pid: int) -> NetHandle:
        """See the port."""
        ground = self._standing()
        if sandbox in self._places:
            raise SandboxFailed(f"{sandbox} has a network already")
        if not self._free:
            raise NoCapacity("no address is left for another sandbox", retry_after=1.0)
        address = self._free.popleft()
        self._made += 1
        handle = NetHandle(sandbox, f"{self._prefix}{self._made:x}", str(address))
        place = self._places[sandbox] = _Place(handle, address)
        work = partial(inside.join, pid, handle.link, self._group, ground.mtu, address, ground.names.gateway)
        making = self._spawn(alone(work))
        try:
            place.index = await asyncio.shield(making)
        except asyncio.CancelledError:
            self._spawn(self._abandon(making, handle))
            raise
        except (OSError, ValueError) as error:
            with contextlib.suppress(SandboxFailed):  # the first error says more; a link that stays is closed
                await self.close(handle)
            raise explain(error) from error
        return handle

    async def open(self, handle: NetHandle, network: Network) -> None:
        """See the port. A network that allows nothing leaves the link down."""
        self._standing()
        place = self._places.get(handle.sandbox)
        if place is None or place.handle != handle or place.closing is not None or place.opened:
            raise SandboxFailed(
                f"the network of {handle.sandbox} can't be opened: it was closed, or opened before"
            )
        member = member_for(handle.link, place.address, network)
        if self._door is None or not network.opens:
            return
        place.opened, place.allowed = True, allowed_by(network)
        self._by_address[handle.address] = place  # before: its program may ask at once
        await self._in_lane(partial(self._door.open, place.index, member))

    async def close(self, handle: NetHandle) -> None:
        """See the port."""
        place = self._places.get(handle.sandbox)
        if place is None or place.handle != handle:
            return
        if place.closing is None:
            place.closing = self._spawn(self._close(place))
        await asyncio.shield(place.closing)

    # -- what the resolver asks ----------------------------------------------------------------------------

    def rights(self, source: str) -> Rights | None:
        """See the port."""
        place = self._by_address.get(source)
        return None if place is None else place.allowed.rights

    async def learned(self, source: str, name: str, addresses: Sequence[str], ttl: float) -> tuple[str, ...]:
        """See the port. The host's own addresses, and other sandboxes, the rules refuse whatever is opened here."""
        place, door = self._by_address.get(source), self._door
        if place is None or door is None:
            return ()
        told, opened = place.allowed.judge(name, addresses, self._private)
        if opened:
            work = partial(door.learn, place.handle.link, opened, bounded(ttl))
            if not await self._in_lane(work):
                return ()
        return told

    def sandbox_of(self, source: str) -> str | None:
        """See the port."""
        place = self._by_address.get(source)
        return None if place is None else place.handle.sandbox

    # -- inner parts ---------------------------------------------------------------------------------------

    def _standing(self) -> Ground:
        """The ground, while the rules are in force. Raises SandboxFailed."""
        if self._fault is not None or self._ground is None:
            raise SandboxFailed(
                self._fault.message if self._fault else "the networks of sandboxes are not started",
                hint=self._fault.hint if self._fault else None,
            )
        return self._ground

    async def _close(self, place: _Place) -> None:
        self._by_address.pop(place.handle.address, None)
        try:
            if place.opened and self._door is not None:
                await self._in_lane(partial(self._door.shut, place.handle.link, place.address))
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._removals, partial(links.remove, place.handle.link))
        except OSError as error:
            place.closing = None  # its address goes to nobody else; who calls again tries again
            raise explain(error) from error
        del self._places[place.handle.sandbox]
        self._free.append(place.address)  # at the end: the longest unused is given first

    async def _abandon(self, making: asyncio.Task[int], handle: NetHandle) -> None:
        """Undo a `prepare` whose caller has gone."""
        with contextlib.suppress(OSError, ValueError):
            await making
        await self.close(handle)

    async def _guard(self, door: Door) -> None:
        """Look after the rules at every notice and at every tick."""
        while True:
            # Not wait_for: on Python 3.11 it can swallow the cancellation of `stop`.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._tick):
                    await self._noticed.wait()
            self._noticed.clear()
            docker, self._docker_noticed = self._docker_noticed, False
            self._fault = await self._in_lane(partial(door.inspect, docker))

    def _on_docker(self) -> None:
        self._docker_noticed = True
        self.look()

    async def _in_lane(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._lane, work)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
