"""Networks of an ordinary user's sandboxes against the same world: slirp4netns carries, the rules inside decide.

Run as root, who may make the world; what the user can't do to his rules is tried in tests/user/test_sandboxes.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network

import pytest
from dnslib import DNSRecord

from hearth.core.launch import Network
from hearth.core.refusals import Refusal
from hearth.egress import learned
from hearth.egress.own_networks import OwnNetworks
from hearth.egress.resolver import serve_each
from hearth.egress.upstreams import Upstream
from hearth.ports.egress import NetHandle
from tests.integration.netlab import METADATA, OTHER_PUBLIC, PRIVATE, PUBLIC, WAN, Guest, World, run, world
from tests.integration.netnames import Keeper, Names
from tests.patience import patient

pytestmark = pytest.mark.root

REFUSED = "ConnectionRefusedError"
RESOLVER = "127.0.0.53"
CARRIER = ("192.0.2.2", "192.0.2.3")  # slirp4netns's ways to its host
OPEN = IPv4Network("10.0.0.0/8")


@pytest.fixture(scope="module")
def lab() -> Iterator[World]:
    with world() as made:
        yield made


@dataclass
class Place:
    networks: OwnNetworks
    names: Names
    keeper: Keeper

    async def joined(
        self, guest: Guest, name: str, *targets: tuple[str, int], internet: bool = False
    ) -> NetHandle:
        handle = await self.networks.prepare(f"sb_{name}", guest.pid)
        await self.networks.open(handle, Network("internet" if internet else "none", targets=targets))
        return handle

    async def look_up(self, guest: Guest, name: str) -> list[str] | int:
        question = bytes(DNSRecord.question(name).pack()).hex()
        record = DNSRecord.parse(
            bytes.fromhex(str(await asyncio.to_thread(guest.do, "dns", RESOLVER, question)))
        )
        return record.header.rcode or [str(have.rdata) for have in record.rr]

    async def tcp(self, guest: Guest, address: str, port: int) -> str:
        """In a thread: the loop is slirp4netns's keeper."""
        return str(await asyncio.to_thread(guest.do, "tcp", address, port))


@pytest.fixture
async def place(lab: World) -> AsyncIterator[Place]:
    networks = OwnNetworks([OPEN])
    await networks.start()
    if networks.missing():
        pytest.skip(networks.missing()[0].says)
    names, keeper = Names(), Keeper(networks)
    loop = asyncio.get_running_loop()
    upstream, _ = await loop.create_datagram_endpoint(lambda: names, ("127.0.0.1", 0))
    servers = (Upstream("127.0.0.1", upstream.get_extra_info("sockname")[1]),)
    news = networks.look_ups()
    resolver = asyncio.create_task(serve_each(news.next, lambda: servers, keeper))
    try:
        yield Place(networks, names, keeper)
    finally:
        resolver.cancel()
        await asyncio.gather(resolver, return_exceptions=True)
        upstream.close()
        await networks.stop()


@pytest.fixture
def guest() -> Iterator[Guest]:
    made = Guest(own=True)
    yield made
    made.end()


async def told(place: Place, wanted: Refusal) -> None:
    async with asyncio.timeout(patient(10)):
        while wanted not in place.keeper.told:
            await asyncio.sleep(0.02)


async def test_internet(place: Place, guest: Guest) -> None:
    await place.joined(guest, "a", internet=True)
    for address in (PUBLIC, f"::ffff:{PUBLIC}"):
        assert (await place.tcp(guest, address, 8080)).startswith(PUBLIC)
    for address in (METADATA, *PRIVATE, WAN, *CARRIER):
        for written in (address, f"::ffff:{address}"):
            assert await place.tcp(guest, written, 8080) == REFUSED, written
        await told(place, Refusal("sb_a", "tcp", address, 8080))
    assert await place.tcp(guest, "2606:4700::1", 8080) == "OSError"


async def test_an_allowlist(place: Place, guest: Guest) -> None:
    ranges = (
        (f"{PUBLIC}/32", 443),
        (f"{PRIVATE[0]}/32", 8080),
        *((f"{address}/32", 8080) for address in CARRIER),
    )
    await place.joined(guest, "a", *ranges)
    for address, port in ((PUBLIC, 443), (PRIVATE[0], 8080)):
        assert (await place.tcp(guest, address, port)).startswith(address)
    for address, port in (
        (PUBLIC, 8080),
        (OTHER_PUBLIC, 443),
        (PRIVATE[0], 443),
        (METADATA, 8080),
        (WAN, 8080),
        *((address, 8080) for address in (*PRIVATE[1:], *CARRIER)),
    ):
        assert await place.tcp(guest, address, port) == REFUSED, (address, port)


async def test_what_the_operator_does_not_allow(place: Place, guest: Guest) -> None:
    await place.joined(guest, "a", *((f"{address}/32", 8080) for address in PRIVATE))
    assert (await place.tcp(guest, PRIVATE[0], 8080)).startswith(PRIVATE[0])
    for address in PRIVATE[1:]:
        assert await place.tcp(guest, address, 8080) == REFUSED


async def test_names(place: Place, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "LEAST", 2.0)
    monkeypatch.setattr(learned, "SLACK", 1.0)
    place.names.ttl = 0
    place.names.answers = {
        "api.test": [PUBLIC],
        "db.test": [PRIVATE[0], METADATA],
        "other.test": [OTHER_PUBLIC],
    }
    handle = await place.networks.prepare("sb_a", guest.pid)
    assert await place.look_up(guest, "api.test") == 5  # not before it is somebody's
    network = Network("none", targets=(("api.test", 8080), ("db.test", 8080)))
    await place.networks.open(handle, network)
    assert await place.tcp(guest, PUBLIC, 8080) == REFUSED
    assert await place.look_up(guest, "api.test") == [PUBLIC]
    assert (await place.tcp(guest, PUBLIC, 8080)).startswith(PUBLIC)
    assert await place.tcp(guest, PUBLIC, 443) == REFUSED
    assert await place.look_up(guest, "db.test") == [PRIVATE[0]]
    assert (await place.tcp(guest, PRIVATE[0], 8080)).startswith(PRIVATE[0])
    assert await place.look_up(guest, "other.test") == 5 and "other.test" not in place.names.asked
    await told(place, Refusal("sb_a", "dns", "db.test", 0, METADATA))
    await told(place, Refusal("sb_a", "dns", "other.test", 0))
    async with asyncio.timeout(patient(15)):
        while await place.tcp(guest, PUBLIC, 8080) != REFUSED:
            await asyncio.sleep(0.3)
    assert await place.look_up(guest, "api.test") == [PUBLIC]  # opens it again
    assert (await place.tcp(guest, PUBLIC, 8080)).startswith(PUBLIC)


async def test_an_address_of_this_hosts_own_in_an_open_range(lab: World, place: Place, guest: Guest) -> None:
    mine = "10.0.0.77"
    await place.joined(guest, "a", ("10.0.0.0/24", 8080))
    run(f"ip addr add {mine}/32 dev wan0")
    try:
        await place.networks._look()
        assert await place.tcp(guest, mine, 8080) == REFUSED
        assert (await place.tcp(guest, PRIVATE[0], 8080)).startswith(PRIVATE[0])
    finally:
        run(f"ip addr del {mine}/32 dev wan0")
