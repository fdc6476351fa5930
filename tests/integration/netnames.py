"""A name server whose answers a test writes, and the keeper as the resolver sees it; for tests of networks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from dnslib import QTYPE, RR, A, DNSHeader, DNSRecord

from hearth.core.refusals import Refusal, Rights
from hearth.egress.networks import HostNetworks
from hearth.egress.own_networks import OwnNetworks


@dataclass
class Names(asyncio.DatagramProtocol):
    """The host's name server: answers what a test wrote down, and remembers what it was asked."""

    answers: dict[str, list[str]] = field(default_factory=dict)
    ttl: int = 60
    asked: list[str] = field(default_factory=list)
    transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        record = DNSRecord.parse(data)
        name = str(record.q.qname).rstrip(".").lower()
        self.asked.append(name)
        found = self.answers.get(name)
        head = DNSHeader(id=record.header.id, qr=1, ra=1, rcode=3 if found is None else 0)
        rr = [RR(record.q.qname, QTYPE.A, rdata=A(address), ttl=self.ttl) for address in found or ()]
        assert self.transport is not None
        self.transport.sendto(bytes(DNSRecord(head, q=record.q, rr=rr).pack()), addr)


@dataclass
class Keeper:
    """What the resolver asks of the keeper, without the sockets between."""

    networks: HostNetworks | OwnNetworks
    told: list[Refusal] = field(default_factory=list)

    async def rights(self, source: str) -> Rights | None:
        return self.networks.rights(source)

    async def learned(self, source: str, name: str, addresses: Sequence[str], ttl: float) -> tuple[str, ...]:
        return await self.networks.learned(source, name, addresses, ttl)

    async def refused(self, refusal: Refusal) -> None:
        self.told.append(refusal)
