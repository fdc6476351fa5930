"""Asking the host's name servers: by UDP from a port and under an id that nobody can guess, by TCP when it is long."""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
from collections.abc import Sequence

from dnslib import DNSRecord

from hearth.egress.dns import NOERROR, NXDOMAIN, Query, ask, read_answer
from hearth.egress.upstreams import Upstream

TRY_TIMEOUT = 1.5  # seconds for one question to one upstream
ROUNDS = 2
_PACKET_MOST = 65_535


class NoAnswer(Exception):
    """No upstream gave an answer that is of use."""


async def forward(upstreams: Sequence[Upstream], query: Query) -> DNSRecord:
    """Ask one upstream after the other until one knows.

    Raises:
        NoAnswer: all failed, twice.
    """
    for _ in range(ROUNDS):
        for upstream in upstreams:
            try:
                async with asyncio.timeout(TRY_TIMEOUT):
                    record = await _by_udp(upstream, query)
                    if record.header.tc:
                        record = await _by_tcp(upstream, query)
            except (OSError, EOFError):  # TimeoutError and IncompleteReadError are among them
                continue
            if record.header.rcode in (NOERROR, NXDOMAIN):
                return record
    raise NoAnswer


class _Listener(asyncio.DatagramProtocol):
    """Waits for the one packet that answers; whatever else arrives is not heard."""

    def __init__(self, ident: int, query: Query) -> None:
        self.answer: asyncio.Future[DNSRecord] = asyncio.get_running_loop().create_future()
        self._ident, self._query = ident, query

    def datagram_received(self, data: bytes, addr: object) -> None:
        record = read_answer(data, self._ident, self._query)
        if record is not None and not self.answer.done():
            self.answer.set_result(record)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def _by_udp(upstream: Upstream, query: Query) -> DNSRecord:
    ident = secrets.randbelow(1 << 16)
    sock = _connected(upstream)  # a new socket for each question: the kernel picks a random port
    try:
        transport, listener = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Listener(ident, query), sock=sock
        )
    except BaseException:
        sock.close()
        raise
    try:
        transport.sendto(ask(query, ident))
        return await listener.answer
    finally:
        transport.close()


def _connected(upstream: Upstream) -> socket.socket:
    """A UDP socket that hears this upstream only. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        upstream.address, upstream.port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
    )[0]
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    try:
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


async def _by_tcp(upstream: Upstream, query: Query) -> DNSRecord:
    ident = secrets.randbelow(1 << 16)
    reader, writer = await asyncio.open_connection(upstream.address, upstream.port, limit=_PACKET_MOST)
    try:
        packet = ask(query, ident)
        writer.write(struct.pack("!H", len(packet)) + packet)
        (size,) = struct.unpack("!H", await reader.readexactly(2))
        record = read_answer(await reader.readexactly(size), ident, query)
    finally:
        writer.transport.abort()
    if record is None:
        raise EOFError("another answer than the one asked for")
    return record
