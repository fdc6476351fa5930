"""The resolver: answers the sandboxes' name look-ups on sockets that the keeper bound. It runs without privileges.

Who asks is known by the source address, which the packet filter's anti-spoof rule vouches for. Each sandbox has a rate
and a share of what is in work, so that none can stop the others' look-ups.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from hearth.core.errors import HearthError
from hearth.core.refusals import DNS, Refusal
from hearth.egress.dns import (
    REFUSED,
    SERVFAIL,
    Answer,
    Query,
    local_answer,
    name_of,
    read_query,
    write_answer,
)
from hearth.egress.forward import NoAnswer, forward
from hearth.egress.judged import Judged
from hearth.egress.upstreams import Upstream
from hearth.ports.egress import Judge, LookUp

RATE = 50.0
"""Questions a second that one sandbox may ask, and how many at once after a pause."""
IN_WORK, IN_WORK_EACH = 512, 64
CONNECTIONS, CONNECTIONS_EACH = 128, 8
IDLE = 5.0
"""Seconds that a TCP connection may be silent."""

_PACKET_MOST = 65_535
_QUERY_MOST = 512


class Buckets:
    """One token bucket per source: `rate` tokens a second, at most `rate` of them.

    Args:
        rate: questions a second.
    """

    def __init__(self, rate: float = RATE) -> None:
        self._rate = rate
        self._have: dict[str, tuple[float, float]] = {}

    def take(self, source: str, now: float) -> bool:
        """Whether this source may ask now (monotonic seconds)."""
        tokens, then = self._have.get(source, (self._rate, now))
        tokens = min(self._rate, tokens + (now - then) * self._rate)
        self._have[source] = (max(tokens - 1.0, 0.0), now) if tokens >= 1.0 else (tokens, now)
        return tokens >= 1.0

    def forget_full(self, now: float) -> None:
        """Drop the buckets that are full again: a new one is the same."""
        self._have = {
            source: have
            for source, have in self._have.items()
            if have[0] + (now - have[1]) * self._rate < self._rate
        }

    def __len__(self) -> int:
        return len(self._have)


Who = Callable[[str], str | None]
"""Which sandbox asks, by the address that it asks from; None for whoever is not to be heard."""


async def serve(
    udp: socket.socket,
    tcp: socket.socket,
    upstreams: Callable[[], Sequence[Upstream]],
    block: IPv4Network,
    judge: Judge,
    *,
    refusals: socket.socket | None = None,
    ipv6: bool = False,
) -> None:
    """Answer all sandboxes on one pair of sockets, until cancelled. Takes the sockets over and closes them.

    Args:
        udp: bound, non-blocking.
        tcp: listening, non-blocking.
        upstreams: whom to ask, at each question (`upstreams.Followed` reads resolv.conf again when it changes).
        block: the sandboxes' addresses; whoever else asks is not heard.
        judge: says what each may look up, and is told of what was refused.
        refusals: where the kernel tells of refused packets, or None where it doesn't.
        ipv6: whether sandboxes have IPv6.
    """

    def who(source: str) -> str | None:
        try:
            return source if IPv4Address(source) in block else None
        except ValueError:
            return None

    resolver = Resolver(upstreams, judge, ipv6)
    try:
        await resolver.attend(udp, tcp, who, refusals)
    finally:
        await resolver.stop()


async def serve_each(
    news: Callable[[], Awaitable[LookUp]], upstreams: Callable[[], Sequence[Upstream]], judge: Judge
) -> None:
    """Answer sandboxes that have a pair of sockets each, until cancelled.

    Args:
        news: waits for the next sandbox that comes or goes.
        upstreams: as for `serve`.
        judge: as for `serve`.
    """
    resolver = Resolver(upstreams, judge, False)
    attending: dict[str, asyncio.Task[None]] = {}
    try:
        while True:
            one = await news()
            before = attending.pop(one.sandbox, None)
            if before is not None:
                before.cancel()
                await asyncio.gather(before, return_exceptions=True)
            if one.sockets is not None:
                udp, tcp, *more = (socket.socket(fileno=fd) for fd in one.sockets)
                who = partial(_named, one.sandbox)
                work = resolver.attend(udp, tcp, who, more[0] if more else None)
                attending[one.sandbox] = asyncio.get_running_loop().create_task(work)
    finally:
        for task in attending.values():
            task.cancel()
        await asyncio.gather(*attending.values(), return_exceptions=True)
        await resolver.stop()


def _named(sandbox: str, source: str) -> str:
    """Nobody else can reach that socket."""
    return sandbox


class Resolver:
    """What is in work, and the bounds on it; for any number of sockets.

    Args:
        upstreams: whom to ask, at each question.
        judge: as for `serve`.
        ipv6: whether sandboxes have IPv6.
    """

    def __init__(self, upstreams: Callable[[], Sequence[Upstream]], judge: Judge, ipv6: bool) -> None:
        self.buckets = Buckets()
        self._judged = Judged(judge, ipv6)
        self._upstreams = upstreams
        self._ipv6 = ipv6
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_work: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()

    async def attend(
        self, udp: socket.socket, tcp: socket.socket, who: Who, refusals: socket.socket | None = None
    ) -> None:
        """Answer on these sockets, and tell of refused packets, until cancelled. Takes all of them over and closes them."""
        if refusals is None:
            await self._attend(udp, tcp, who)
            return
        telling = asyncio.get_running_loop().create_task(self._judged.packets(refusals, who))
        try:
            await self._attend(udp, tcp, who)
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            refusals.close()

    async def _attend(self, udp: socket.socket, tcp: socket.socket, who: Who) -> None:
        loop = asyncio.get_running_loop()
        server: asyncio.Server | None = None
        try:
            transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self, who), sock=udp)
        except BaseException:
            udp.close()
            tcp.close()
            raise
        try:
            server = await asyncio.start_server(partial(self.connection, who), sock=tcp, limit=_PACKET_MOST)
            while True:
                await asyncio.sleep(60)
                self.buckets.forget_full(time.monotonic())
        finally:
            transport.close()
            if server is not None:
                server.close()
            else:
                tcp.close()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._judged.stop()

    def packet(self, data: bytes, source: str, reply: Callable[[bytes], None]) -> None:
        """A question by UDP: answered later, or never."""
        if not self._admits(source):
            return
        query = read_query(data)
        if query is not None and self._begin(source):
            self._spawn(self._datagram(query, source, reply))

    async def _datagram(self, query: Query, source: str, reply: Callable[[bytes], None]) -> None:
        try:
            reply(await self._answer(query, query.room, source))
        finally:
            self._end(source)

    async def connection(self, who: Who, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One TCP connection: questions one after the other, each with its length before it (RFC 7766)."""
        task = asyncio.current_task()
        peer = writer.get_extra_info("peername")
        source = who(peer[0] if peer else "")
        if source is None:
            writer.transport.abort()
            return
        full = self._connections.total() >= CONNECTIONS or self._connections[source] >= CONNECTIONS_EACH
        if task is None or full:
            writer.transport.abort()
            return
        self._tasks.add(task)
        self._connections[source] += 1
        try:
            while await self._exchange(reader, writer, source):
                pass
            writer.close()
        except (OSError, EOFError):  # it went away, was silent, or sent half
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            self._connections -= Counter([source])

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: str
    ) -> bool:
        async with asyncio.timeout(IDLE):
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            if size > _QUERY_MOST:
                return False
            query = read_query(await reader.readexactly(size))
        if query is None or not self._admits(source) or not self._begin(source):
            return False
        try:
            packet = await self._answer(query, _PACKET_MOST, source)
        finally:
            self._end(source)
        writer.write(struct.pack("!H", len(packet)) + packet)
        async with asyncio.timeout(IDLE):
            await writer.drain()
        return True

    async def _answer(self, query: Query, room: int, source: str) -> bytes:
        answer = local_answer(query, self._ipv6)
        if query.refused is None:
            try:
                rights = await self._judged.rights(source)
                if rights is None:
                    return write_answer(query, Answer(REFUSED), room)
                if not rights.internet and name_of(query) not in rights.names:
                    self._judged.refused(Refusal(source, DNS, name_of(query), 0))
                    return write_answer(query, Answer(REFUSED), room)
                if answer is None:
                    record = await forward(self._upstreams(), query)
                    answer = await self._judged.answer(source, rights, query, record)
                return write_answer(query, answer, room)
            except (NoAnswer, HearthError):  # no upstream, or no keeper
                answer = Answer(SERVFAIL)
            except (
                Exception
            ):  # an upstream's records that dnslib can read but not write: many kinds of errors
                answer = Answer(SERVFAIL)
        return write_answer(query, answer or Answer(SERVFAIL), room)

    def _admits(self, source: str) -> bool:
        return self.buckets.take(source, time.monotonic())

    def _begin(self, source: str) -> bool:
        if self._in_work.total() >= IN_WORK or self._in_work[source] >= IN_WORK_EACH:
            return False
        self._in_work[source] += 1
        return True

    def _end(self, source: str) -> None:
        self._in_work -= Counter([source])  # drops those that are at nothing

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, resolver: Resolver, who: Who) -> None:
        self._resolver = resolver
        self._who = who
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        transport = self._transport
        source = self._who(addr[0])
        if transport is not None and source is not None:
            self._resolver.packet(data, source, lambda packet: transport.sendto(packet, addr))
