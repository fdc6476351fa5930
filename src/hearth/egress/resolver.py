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
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from hearth.egress.dns import SERVFAIL, Answer, Query, judge, local_answer, read_query, write_answer
from hearth.egress.forward import NoAnswer, forward
from hearth.egress.upstreams import Upstream

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


@dataclass(frozen=True, slots=True)
class _Rules:
    upstreams: Callable[[], Sequence[Upstream]]
    block: IPv4Network
    ipv6: bool


async def serve(
    udp: socket.socket,
    tcp: socket.socket,
    upstreams: Callable[[], Sequence[Upstream]],
    block: IPv4Network,
    *,
    ipv6: bool = False,
) -> None:
    """Answer until cancelled. Takes both sockets over and closes them.

    Args:
        udp: bound, non-blocking.
        tcp: listening, non-blocking.
        upstreams: whom to ask, at each question (`upstreams.Followed` reads resolv.conf again when it changes).
        block: the sandboxes' addresses; whoever else asks is not heard.
        ipv6: whether sandboxes have IPv6.
    """
    resolver = _Resolver(_Rules(upstreams, block, ipv6))
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(resolver), sock=udp)
    server: asyncio.Server | None = None
    try:
        server = await asyncio.start_server(resolver.connection, sock=tcp, limit=_PACKET_MOST)
        while True:
            await asyncio.sleep(60)
            resolver.buckets.forget_full(time.monotonic())
    finally:
        transport.close()
        if server is not None:
            server.close()
        else:
            tcp.close()
        await resolver.stop()


class _Resolver:
    """What is in work, and the bounds on it."""

    def __init__(self, rules: _Rules) -> None:
        self.buckets = Buckets()
        self._rules = rules
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_work: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def packet(self, data: bytes, source: str, reply: Callable[[bytes], None]) -> None:
        """A question by UDP: answered later, or never."""
        if not self._admits(source):
            return
        query = read_query(data)
        if query is not None and self._begin(source):
            self._spawn(self._datagram(query, source, reply))

    async def _datagram(self, query: Query, source: str, reply: Callable[[bytes], None]) -> None:
        try:
            reply(await self._answer(query, query.room))
        finally:
            self._end(source)

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One TCP connection: questions one after the other, each with its length before it (RFC 7766)."""
        task = asyncio.current_task()
        peer = writer.get_extra_info("peername")
        source = peer[0] if peer else ""
        full = self._connections.total() >= CONNECTIONS or self._connections[source] >= CONNECTIONS_EACH
        if task is None or full or not self._is_ours(source):
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
            packet = await self._answer(query, _PACKET_MOST)
        finally:
            self._end(source)
        writer.write(struct.pack("!H", len(packet)) + packet)
        async with asyncio.timeout(IDLE):
            await writer.drain()
        return True

    async def _answer(self, query: Query, room: int) -> bytes:
        answer = local_answer(query, self._rules.ipv6)
        if answer is None:
            try:
                record = await forward(self._rules.upstreams(), query)
                return write_answer(query, judge(record, self._rules.ipv6), room)
            except NoAnswer:
                answer = Answer(SERVFAIL)
            except (
                Exception
            ):  # an upstream's records that dnslib can read but not write: many kinds of errors
                answer = Answer(SERVFAIL)
        return write_answer(query, answer, room)

    def _admits(self, source: str) -> bool:
        return self._is_ours(source) and self.buckets.take(source, time.monotonic())

    def _is_ours(self, source: str) -> bool:
        try:
            return IPv4Address(source) in self._rules.block
        except ValueError:
            return False

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
    def __init__(self, resolver: _Resolver) -> None:
        self._resolver = resolver
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        transport = self._transport
        if transport is not None:
            self._resolver.packet(data, addr[0], lambda packet: transport.sendto(packet, addr))
