"""A resolver against an upstream on loopback that answers what a test told it, and a keeper that allows what it says."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network

import pytest
from dnslib import EDNS0, QTYPE, RR, A, DNSHeader, DNSRecord

from hearth.core.errors import KeeperUnavailable
from hearth.core.refusals import Refusal, Rights
from hearth.egress.resolver import serve
from hearth.egress.upstreams import Upstream

Reply = Callable[[DNSRecord, bool], list[bytes]]
LOOPBACK = IPv4Network("127.0.0.0/8")


def answers(*records: RR, code: int = 0) -> Reply:
    """An upstream that answers every question with these records."""

    def reply(asked: DNSRecord, by_tcp: bool) -> list[bytes]:
        head = DNSHeader(id=asked.header.id, qr=1, rd=1, ra=1, rcode=code)
        return [bytes(DNSRecord(head, q=asked.q, rr=list(records)).pack())]

    return reply


@dataclass
class FakeUpstream:
    """UDP and TCP on one port; `reply` gives the packets that answer a question."""

    reply: Reply = field(default_factory=answers)
    heard: list[tuple[DNSRecord, int]] = field(default_factory=list)
    port: int = 0

    def answer(self, data: bytes, source_port: int, by_tcp: bool) -> list[bytes]:
        asked = DNSRecord.parse(data)
        self.heard.append((asked, source_port))
        return self.reply(asked, by_tcp)

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (size,) = struct.unpack("!H", await reader.readexactly(2))
        for packet in self.answer(await reader.readexactly(size), 0, True):
            writer.write(struct.pack("!H", len(packet)) + packet)
        await writer.drain()
        writer.close()


class _UpstreamDatagrams(asyncio.DatagramProtocol):
    def __init__(self, upstream: FakeUpstream) -> None:
        self._upstream = upstream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        for packet in self._upstream.answer(data, addr[1], False):
            self.transport.sendto(packet, addr)  # type: ignore[attr-defined]


def one_port() -> tuple[socket.socket, socket.socket]:
    """A UDP socket and a TCP listener on one free port of loopback."""
    while True:
        tcp = socket.create_server(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(tcp.getsockname())
        except OSError:  # free for TCP only
            udp.close()
            tcp.close()
            continue
        for sock in (udp, tcp):
            sock.setblocking(False)
        return udp, tcp


async def fake_upstream() -> AsyncIterator[FakeUpstream]:
    """One that is up, until the generator is closed."""
    made = FakeUpstream()
    udp, tcp = one_port()
    made.port = tcp.getsockname()[1]
    server = await asyncio.start_server(made.connection, sock=tcp)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _UpstreamDatagrams(made), sock=udp
    )
    yield made
    transport.close()
    server.close()


@dataclass
class Client:
    """Asks the resolver as a sandbox does."""

    address: tuple[str, int]

    async def packet(self, data: bytes, timeout: float = 5.0) -> bytes | None:
        """The answer to these bytes, or None when there is none within `timeout`."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(self.address)
            sock.send(data)
            try:
                async with asyncio.timeout(timeout):
                    return await loop.sock_recv(sock, 65_535)
            except TimeoutError:
                return None

    async def ask(self, name: str, kind: str = "A", room: int | None = None) -> DNSRecord:
        query = DNSRecord.question(name, kind)
        if room is not None:
            query.add_ar(EDNS0(udp_len=room))
        data = await self.packet(bytes(query.pack()))
        assert data is not None
        record = DNSRecord.parse(data)
        assert record.header.id == query.header.id and record.q.qname == query.q.qname
        return record

    async def ask_by_tcp(self, name: str, kind: str = "A") -> DNSRecord:
        reader, writer = await asyncio.open_connection(*self.address)
        packet = bytes(DNSRecord.question(name, kind).pack())
        writer.write(struct.pack("!H", len(packet)) + packet)
        (size,) = struct.unpack("!H", await reader.readexactly(2))
        data = await reader.readexactly(size)
        writer.close()
        await writer.wait_closed()
        return DNSRecord.parse(data)


@dataclass
class FakeJudge:
    """The keeper: what it allows, and what it was told."""

    internet: bool = True
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)  # name: addresses that it opens
    closed: bool = False
    asked: int = 0
    learns: list[tuple[str, str, tuple[str, ...], float]] = field(default_factory=list)
    told: list[Refusal] = field(default_factory=list)
    gone: bool = False

    async def rights(self, source: str) -> Rights | None:
        self.asked += 1
        if self.gone:
            raise KeeperUnavailable("the keeper has gone")
        return None if self.closed else Rights(self.internet, frozenset(self.names))

    async def learned(self, source: str, name: str, addresses: Sequence[str], ttl: float) -> tuple[str, ...]:
        self.learns.append((source, name, tuple(addresses), ttl))
        return tuple(address for address in addresses if address in self.names[name])

    async def refused(self, refusal: Refusal) -> None:
        self.told.append(refusal)


async def resolver(
    upstream: FakeUpstream,
    *,
    ipv6: bool = False,
    block: IPv4Network = LOOPBACK,
    judge: FakeJudge | None = None,
) -> AsyncIterator[Client]:
    udp, tcp = one_port()
    address = udp.getsockname()
    upstreams = (Upstream("127.0.0.1", upstream.port),)
    task = asyncio.create_task(serve(udp, tcp, lambda: upstreams, block, judge or FakeJudge(), ipv6=ipv6))
    yield Client(address)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def a(address: str, name: str = "x.test") -> RR:
    return RR(name, QTYPE.A, rdata=A(address), ttl=60)


def said(record: DNSRecord) -> list[str]:
    return [str(have.rdata) for have in record.rr]
