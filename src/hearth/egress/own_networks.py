"""Networks of an ordinary user's sandboxes: the port `Networks`, by slirp4netns.

Each sandbox has a network namespace that belongs to a user namespace around it. Before its program starts, the keeper, which
has every capability there, loads the rules (`own_rules`), reads them back, and binds the resolver's sockets on the sandbox's
own loopback; then one slirp4netns for each sandbox puts a tap device into it and carries what the rules let through, as an
ordinary program of the user. Whatever fails on the way, the sandbox has no network.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import time
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from hearth.core.errors import SandboxFailed
from hearth.core.finding import RUN, Finding, State, found_by
from hearth.core.launch import Network
from hearth.core.refusals import Rights
from hearth.egress import own_rules, slirp
from hearth.egress.allowed import Allowed, allowed_by, bounded
from hearth.egress.furnish import change, furnish
from hearth.egress.learned import Learned, lasts
from hearth.egress.machine import own_addresses
from hearth.egress.netlink import ROUTE, Netlink, listener
from hearth.egress.news import News
from hearth.egress.nft import NftError
from hearth.egress.own_machine import network_findings
from hearth.egress.ruleset import member_for, renew
from hearth.linux.commands import by_root
from hearth.linux.netns import alone
from hearth.ports.egress import NetHandle

log = logging.getLogger(__name__)

_GROUP_IPV4_IFADDR = 5  # linux/rtnetlink.h
_PAUSE = 1.0  # seconds before a slirp4netns that ended by itself is started again


@dataclass(slots=True)
class _Place:
    """One sandbox's network.

    Args:
        pid: a process that is in the sandbox's user and network namespace as long as the sandbox is.
        namespace: descriptor of the network namespace.
        sockets: the resolver's, bound inside: UDP, TCP, and where the kernel tells of refused packets if it can.
        allowed: what it may look up; none before it is opened.
        busy: held while its rules are changed, so that its namespace is not closed meanwhile.
        keeping: starts its slirp4netns again.
        closing: ends it all.
    """

    handle: NetHandle
    pid: int
    namespace: int
    sockets: tuple[socket.socket, ...]
    slirp: slirp.Slirp
    keeping: asyncio.Task[None] | None = None
    opened: bool = False
    allowed: Allowed = field(default_factory=Allowed)
    entries: Learned = field(default_factory=Learned)
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    closing: asyncio.Task[None] | None = None


class OwnNetworks:
    """`start` first, `stop` last; all methods on the event loop's thread, in a process that has called `linux.userns.enter`.

    Args:
        private: ranges that the operator lets functions reach, if they name them.
    """

    def __init__(self, private: Iterable[IPv4Network] = ()) -> None:
        self._wanted = tuple(private)
        self._private = own_rules.private_of(self._wanted)
        self._fault: SandboxFailed | None = SandboxFailed("the networks of sandboxes are not started")
        self._program = shutil.which(slirp.PROGRAM, path="/usr/local/bin:/usr/bin:/bin") or slirp.PROGRAM
        self._places: dict[str, _Place | None] = {}  # None: it is being made
        self._host: frozenset[IPv4Address] = frozenset()
        self._looking = asyncio.Lock()  # who has looked knows that every sandbox's rules say what was seen
        self._notices: socket.socket | None = None
        self._listeners: set[News] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """See what there is, and follow this host's addresses. What is missing is no error: see `missing`."""
        lacking = [finding for finding in network_findings() if not finding.holds]
        if lacking:
            self._fault = SandboxFailed(lacking[0].says, hint=f"{RUN}{lacking[0].mend}")
            log.warning("functions get no network: %s; %s", self._fault.message, self._fault.hint)
            return
        if any(own_rules.CARRIERS.overlaps(network) for network in self._wanted):
            log.warning(
                "private hosts in %s can't be reached: slirp4netns has it for itself", own_rules.CARRIERS
            )
        self._notices = listener(ROUTE, (_GROUP_IPV4_IFADDR,))
        asyncio.get_running_loop().add_reader(self._notices.fileno(), self._on_notice, self._notices)
        self._host = await asyncio.to_thread(_host_addresses)
        self._fault = None

    async def stop(self) -> None:
        """Remove everything. Idempotent."""
        self._fault = SandboxFailed("the networks of sandboxes are stopped")
        if self._notices is not None:
            asyncio.get_running_loop().remove_reader(self._notices.fileno())
            self._notices.close()
            self._notices = None
        for place in list(self._places.values()):
            if place is not None:
                await self.close(place.handle)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def missing(self) -> tuple[Finding, ...]:
        """See the port."""
        return () if self._fault is None else (found_by(self._fault, "network", State.NOT_HELD),)

    @property
    def resolver(self) -> str:
        """See the port."""
        return str(own_rules.RESOLVER)

    def resolver_sockets(self) -> None:
        """There is none for all: each sandbox has its own (see `look_ups`)."""

    def look_ups(self) -> News:
        """News for a resolver; it closes it at its end."""
        news = News(self._listeners.discard)
        self._listeners.add(news)
        for place in self._places.values():
            if place is not None:
                news.add(place.handle.sandbox, place.sockets)
        return news

    async def prepare(self, sandbox: str, pid: int) -> NetHandle:
        """See the port."""
        if self._fault is not None:
            raise SandboxFailed(self._fault.message, hint=self._fault.hint)
        if sandbox in self._places:
            raise SandboxFailed(f"{sandbox} has a network already")
        self._places[sandbox] = None
        making = self._spawn(self._make(sandbox, pid))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            self._spawn(self._abandon(making))
            raise

    async def _make(self, sandbox: str, pid: int) -> NetHandle:
        handle = NetHandle(sandbox, own_rules.TAP, str(own_rules.ADDRESS))
        host = self._host
        try:
            namespace, sockets = await alone(partial(furnish, pid, host, self._private))
        except (NftError, OSError, ValueError) as error:
            del self._places[sandbox]
            raise _explain(error) from error
        try:
            carrier = await slirp.start(self._program, pid)
        except BaseException:
            del self._places[sandbox]
            _close(namespace, sockets)
            raise
        place = self._places[sandbox] = _Place(handle, pid, namespace, sockets, carrier)
        place.keeping = self._spawn(self._keep(place))
        if host != self._host:  # it changed meanwhile
            self._spawn(self._follow(place))
        for news in self._listeners:
            news.add(sandbox, sockets)
        return handle

    async def _abandon(self, making: asyncio.Task[NetHandle]) -> None:
        """Undo a `prepare` whose caller has gone."""
        with contextlib.suppress(SandboxFailed):
            await self.close(await making)

    async def open(self, handle: NetHandle, network: Network) -> None:
        """See the port."""
        place = self._places.get(handle.sandbox)
        if place is None or place.closing is not None or place.opened:
            raise SandboxFailed(
                f"the network of {handle.sandbox} can't be opened: it was closed, or opened before"
            )
        place.opened, place.allowed = network.opens, allowed_by(network)
        commands = own_rules.opened(member_for(own_rules.TAP, own_rules.ADDRESS, network))
        if not commands:
            return
        await self._change(place, commands)

    def rights(self, source: str) -> Rights | None:
        """See the port."""
        place = self._places.get(source)
        return None if place is None or not place.opened or place.closing else place.allowed.rights

    async def learned(self, source: str, name: str, addresses: Sequence[str], ttl: float) -> tuple[str, ...]:
        """See the port."""
        place = self._places.get(source)
        if place is None or not place.opened:
            return ()
        told, opened = place.allowed.judge(name, addresses, self._private, self._host)
        ttl, now = bounded(ttl), time.monotonic()
        due = place.entries.due(opened, ttl, now)
        if not due:
            return told
        if not place.entries.has_room(due, now):
            return ()
        keys = [f"{address} . {port}" for address, port in due]
        await self._change(place, renew(own_rules.TABLE, keys, lasts(ttl)))
        place.entries.write(due, ttl, now)
        return told

    def sandbox_of(self, source: str) -> str | None:
        """See the port: they are known by their ids."""
        return source if self._places.get(source) is not None else None

    async def _change(self, place: _Place, commands: str) -> None:
        """Change the rules of a sandbox that is not being closed. Raises SandboxFailed."""
        async with place.busy:
            if place.closing is not None:
                raise SandboxFailed(f"the network of {place.handle.sandbox} was closed")
            try:
                await alone(partial(change, place.namespace, commands))
            except (NftError, OSError) as error:
                raise _explain(error) from error

    async def close(self, handle: NetHandle) -> None:
        """See the port. Its rules and its device go with its namespace, which nobody holds any more."""
        place = self._places.get(handle.sandbox)
        if place is None:
            return
        if place.closing is None:
            place.closing = self._spawn(self._close(place))
        await asyncio.shield(place.closing)

    async def _close(self, place: _Place) -> None:
        if place.keeping is not None:
            place.keeping.cancel()
            await asyncio.gather(place.keeping, return_exceptions=True)
        await place.slirp.stop()
        for news in self._listeners:
            news.remove(place.handle.sandbox)
        async with place.busy:
            _close(place.namespace, place.sockets)
        self._places.pop(place.handle.sandbox, None)

    async def _keep(self, place: _Place) -> None:
        """Start slirp4netns again whenever it has ended by itself: its sandbox would be cut off for good."""
        while True:
            await place.slirp.ended.wait()
            log.warning("slirp4netns of %s ended: %s", place.handle.sandbox, place.slirp.last_words())
            await asyncio.sleep(_PAUSE)
            await place.slirp.stop()
            try:
                place.slirp = await slirp.start(self._program, place.pid)
            except SandboxFailed as error:  # the sandbox is ending, too; or it is tried again
                log.warning(
                    "slirp4netns of %s can't be started again: %s", place.handle.sandbox, error.message
                )

    def _on_notice(self, notices: socket.socket) -> None:
        with contextlib.suppress(
            OSError
        ):  # ENOBUFS: there was more to say than there was room for; look all the same
            notices.recv(65536)
        self._spawn(self._look())

    async def _look(self) -> None:
        """This host's addresses may have changed: tell every sandbox's rules."""
        async with self._looking:
            now = await asyncio.to_thread(_host_addresses)
            if now != self._host:
                self._host = now
                await asyncio.gather(
                    *(self._follow(place) for place in self._places.values() if place is not None)
                )

    async def _follow(self, place: _Place) -> None:
        try:
            await self._change(place, own_rules.hosts(self._host))
        except SandboxFailed as error:
            if place.closing is None:
                name = place.handle.sandbox
                log.error("%s can't be told this host's new address, so its network ends: %s", name, error)
                await self.close(place.handle)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _close(namespace: int, sockets: tuple[socket.socket, ...]) -> None:
    os.close(namespace)
    for sock in sockets:
        sock.close()


def _host_addresses() -> frozenset[IPv4Address]:
    with Netlink(ROUTE) as netlink:
        return frozenset(own_addresses(netlink))


def _explain(error: Exception) -> SandboxFailed:
    if isinstance(error, NftError):
        return SandboxFailed(
            f"the packet filter's rules are not in force: {error}",
            hint=RUN + by_root("modprobe -a nf_tables nft_ct nft_reject_inet nft_connlimit"),
        )
    return SandboxFailed(f"the network of a sandbox could not be made: {error}", hint="run: hearth doctor")
