"""Allowlists of functions against a world of network namespaces, with a name server whose answers the tests write.

The table to match is in docs/explanation/networks.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from dnslib import DNSRecord

from hearth.core.launch import Network
from hearth.core.refusals import Refusal
from hearth.egress import learned
from hearth.egress.networks import HostNetworks
from hearth.egress.resolver import serve
from hearth.egress.upstreams import Upstream
from hearth.ports.egress import NetHandle
from tests.integration.netlab import METADATA, OTHER_PUBLIC, PRIVATE, PUBLIC, WAN, Guest, World, run, world
from tests.integration.netnames import Keeper, Names
from tests.patience import patient

pytestmark = pytest.mark.root

INSTANCE = "01testallow"
TABLE = f"hearth_{INSTANCE}"
REFUSED = "ConnectionRefusedError"  # a reset, at once
OPEN = IPv4Network("10.0.0.0/24")  # by the operator


@pytest.fixture(scope="module")
def lab() -> Iterator[World]:
    with world() as made:
        yield made


@dataclass
class Place:
    """Networks that are up, with their resolver."""

    networks: HostNetworks
    names: Names
    keeper: Keeper

    async def joined(
        self, guest: Guest, name: str, *targets: tuple[str, int], internet: bool = False
    ) -> NetHandle:
        handle = await self.networks.prepare(f"sb_{name}", guest.pid)
        network = Network("internet" if internet else "none", targets=targets)
        await self.networks.open(handle, network)
        return handle

    async def look_up(self, guest: Guest, name: str) -> list[str] | int:
        """What the sandbox hears: addresses, or the code of a refusal."""
        question = bytes(DNSRecord.question(name).pack()).hex()
        data = await asyncio.to_thread(guest.do, "dns", self.networks.resolver, question)
        record = DNSRecord.parse(bytes.fromhex(str(data)))
        return record.header.rcode or [str(have.rdata) for have in record.rr]


async def made(tmp_path: Path, *private: IPv4Network) -> AsyncIterator[Place]:
    networks = HostNetworks(INSTANCE, lock=tmp_path / "lock", private=private)
    await networks.start()
    assert networks.missing() == ()
    names, keeper = Names(), Keeper(networks)
    loop = asyncio.get_running_loop()
    upstream, _ = await loop.create_datagram_endpoint(lambda: names, ("127.0.0.1", 0))
    servers = (Upstream("127.0.0.1", upstream.get_extra_info("sockname")[1]),)
    found = networks.resolver_sockets()
    assert found is not None
    udp, tcp, refusals = (sock.dup() for sock in found[0])
    work = serve(udp, tcp, lambda: servers, IPv4Network(found[1]), keeper, refusals=refusals)
    resolver = asyncio.create_task(work)
    try:
        yield Place(networks, names, keeper)
    finally:
        resolver.cancel()
        await asyncio.gather(resolver, return_exceptions=True)
        upstream.close()
        await networks.stop()
        assert TABLE not in run("nft list tables")


@pytest.fixture
async def place(lab: World, tmp_path: Path) -> AsyncIterator[Place]:
    """The operator lets functions reach 10.0.0.0/24."""
    async for one in made(tmp_path, OPEN):
        yield one


@pytest.fixture
async def strict(lab: World, tmp_path: Path) -> AsyncIterator[Place]:
    """He lets them reach nothing private."""
    async for one in made(tmp_path):
        yield one


@pytest.fixture
async def wide(lab: World, tmp_path: Path) -> AsyncIterator[Place]:
    """He lets them reach all of 10.0.0.0/8, where sandboxes have their addresses, and 100.64.0.0/10."""
    async for one in made(tmp_path, IPv4Network("10.0.0.0/8"), IPv4Network("100.64.0.0/10")):
        yield one


@pytest.fixture
def guests() -> Iterator[tuple[Guest, Guest]]:
    """Two sandboxes."""
    both = Guest(), Guest()
    yield both
    for guest in both:
        guest.end()


async def until_told(place: Place, wanted: Refusal) -> None:
    async with asyncio.timeout(patient(10)):
        while wanted not in place.keeper.told:
            await asyncio.sleep(0.02)


async def test_an_allowlist_reaches_what_it_names_and_nothing_else(
    place: Place, guests: tuple[Guest, Guest]
) -> None:
    """The last column of the table."""
    first, second = guests
    await place.joined(first, "a", (f"{PUBLIC}/32", 443), (f"{PRIVATE[0]}/32", 8080))
    peer = await place.joined(second, "b", (f"{PUBLIC}/32", 443))
    assert second.do("listen", 8080) == "up"
    for address, port in ((PUBLIC, 443), (PRIVATE[0], 8080)):
        for written in (address, f"::ffff:{address}"):
            assert str(first.do("tcp", written, port)).startswith(address), written
    for address, port in (
        (PUBLIC, 8080),
        (OTHER_PUBLIC, 443),
        (PRIVATE[0], 443),
        *((address, 8080) for address in PRIVATE[1:]),
        (METADATA, 8080),
        (WAN, 8080),
        (place.networks.resolver, 8080),
        (peer.address, 8080),
    ):
        for written in (address, f"::ffff:{address}"):
            assert first.do("tcp", written, port) == REFUSED, (written, port)


@pytest.mark.parametrize("length", [8, 9, 13, 16, 21, 24, 30, 31, 32])
async def test_a_range_is_what_it_says(
    lab: World, wide: Place, guests: tuple[Guest, Guest], length: int
) -> None:
    """Its first and last address, and not the ones before and after."""
    network = IPv4Network(("10.99.77.130", length), strict=False)
    first, last = int(network.network_address), int(network.broadcast_address)
    inside = {str(IPv4Address(number)) for number in (first, last)}
    outside = {str(IPv4Address(number)) for number in (first - 1, last + 1)}
    await wide.joined(guests[0], "a", (str(network), 8080))
    for address in inside | outside:
        with contextlib.suppress(AssertionError):  # it is there from the run before
            lab.run_there(f"ip addr add {address}/32 dev far0")
    for address in inside:
        assert str(guests[0].do("tcp", address, 8080)).startswith(address)
        assert guests[0].do("tcp", address, 443) == REFUSED
    for address in outside:
        assert guests[0].do("tcp", address, 8080) == REFUSED, address


async def test_internet_and_a_private_host_beside_it(place: Place, guests: tuple[Guest, Guest]) -> None:
    await place.joined(guests[0], "a", (f"{PRIVATE[0]}/32", 8080), internet=True)
    assert str(guests[0].do("tcp", PUBLIC, 8080)).startswith(PUBLIC)
    assert str(guests[0].do("tcp", PRIVATE[0], 8080)).startswith(PRIVATE[0])
    for address, port in ((PRIVATE[0], 443), (PRIVATE[1], 8080), (METADATA, 8080), (WAN, 8080)):
        assert guests[0].do("tcp", address, port) == REFUSED


async def test_the_rules_hold_what_the_operator_says_whatever_they_are_told(
    strict: Place, guests: tuple[Guest, Guest]
) -> None:
    """A version that was deployed while more was allowed, or a lie of an unprivileged process."""
    peer = await strict.joined(guests[1], "b", internet=True)
    assert guests[1].do("listen", 8080) == "up"
    forbidden = (*PRIVATE, WAN, peer.address)
    await strict.joined(
        guests[0], "a", *((f"{address}/32", 8080) for address in forbidden), (f"{PUBLIC}/32", 8080)
    )
    for address in forbidden:
        assert guests[0].do("tcp", address, 8080) == REFUSED, address
    assert str(guests[0].do("tcp", PUBLIC, 8080)).startswith(PUBLIC)


async def test_the_hosts_own_addresses_are_nobodys_even_in_an_open_range(
    lab: World, place: Place, guests: tuple[Guest, Guest]
) -> None:
    mine = "10.0.0.77"
    run(f"ip addr add {mine}/32 dev wan0")
    try:
        await place.joined(guests[0], "a", (str(OPEN), 8080))
        assert str(guests[0].do("tcp", PRIVATE[0], 8080)).startswith(PRIVATE[0])
        assert guests[0].do("tcp", mine, 8080) == REFUSED
    finally:
        run(f"ip addr del {mine}/32 dev wan0")


async def test_sandboxes_and_this_host_are_nobodys_in_a_range_that_has_them(
    lab: World, wide: Place, guests: tuple[Guest, Guest]
) -> None:
    """Neither is a metadata service in one."""
    metadata = "100.100.100.200"
    peer = await wide.joined(guests[1], "b", internet=True)
    assert guests[1].do("listen", 8080) == "up"
    await wide.joined(guests[0], "a", ("10.0.0.0/8", 8080), ("100.64.0.0/10", 8080))
    lab.run_there(f"ip addr add {metadata}/32 dev far0")
    for address in (PRIVATE[0], PRIVATE[3]):
        assert str(guests[0].do("tcp", address, 8080)).startswith(address)
    for address in (peer.address, wide.networks.resolver, metadata):
        assert guests[0].do("tcp", address, 8080) == REFUSED, address


async def test_a_name_opens_where_it_leads_when_it_is_looked_up(
    place: Place, guests: tuple[Guest, Guest]
) -> None:
    guest = guests[0]
    await place.joined(guest, "a", ("api.test", 443), ("db.test", 8080))
    place.names.answers = {"api.test": [PUBLIC], "db.test": [PRIVATE[0]], "other.test": [OTHER_PUBLIC]}
    assert guest.do("tcp", PUBLIC, 443) == REFUSED  # nobody has looked it up
    assert await place.look_up(guest, "API.test") == [PUBLIC]
    assert str(guest.do("tcp", PUBLIC, 443)).startswith(PUBLIC)
    assert guest.do("tcp", PUBLIC, 8080) == REFUSED  # that address, but not that port
    assert await place.look_up(guest, "db.test") == [PRIVATE[0]]
    assert str(guest.do("tcp", PRIVATE[0], 8080)).startswith(PRIVATE[0])
    assert await place.look_up(guest, "other.test") == 5
    assert "other.test" not in place.names.asked  # a question is a way out
    assert guest.do("tcp", OTHER_PUBLIC, 443) == REFUSED
    # What one sandbox learned, another does not have.
    await place.joined(guests[1], "b", ("api.test", 443))
    assert guests[1].do("tcp", PUBLIC, 443) == REFUSED


async def test_a_name_that_turns_private_leads_nowhere(strict: Place, guests: tuple[Guest, Guest]) -> None:
    """DNS rebinding."""
    await strict.joined(guests[0], "a", ("api.test", 8080))
    strict.names.answers["api.test"] = [PUBLIC]
    assert await strict.look_up(guests[0], "api.test") == [PUBLIC]
    for address in (*PRIVATE, METADATA, "127.0.0.1", "0.0.0.0"):
        strict.names.answers["api.test"] = [address]
        assert await strict.look_up(guests[0], "api.test") == 3, address
        if not address.startswith(("127", "0")):
            assert guests[0].do("tcp", address, 8080) == REFUSED
    strict.names.answers["api.test"] = [METADATA, OTHER_PUBLIC, PRIVATE[0]]
    assert await strict.look_up(guests[0], "api.test") == [OTHER_PUBLIC]
    assert str(guests[0].do("tcp", OTHER_PUBLIC, 8080)).startswith(OTHER_PUBLIC)


async def test_an_entry_ends_and_is_renewed_by_the_next_look_up(
    place: Place, guests: tuple[Guest, Guest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned, "LEAST", 1.0)
    monkeypatch.setattr(learned, "SLACK", 1.0)
    place.names.answers["api.test"], place.names.ttl = [PUBLIC], 0
    handle = await place.joined(guests[0], "a", ("api.test", 8080))
    for _ in range(2):
        assert await place.look_up(guests[0], "api.test") == [PUBLIC]
        assert str(guests[0].do("tcp", PUBLIC, 8080)).startswith(PUBLIC)
        async with asyncio.timeout(patient(10)):
            while guests[0].do("tcp", PUBLIC, 8080) != REFUSED:
                await asyncio.sleep(0.2)
    await place.networks.close(handle)  # with entries that have ended


async def test_what_was_learned_outlives_a_reload_and_not_its_sandbox(
    place: Place, guests: tuple[Guest, Guest]
) -> None:
    place.names.answers["api.test"] = [PUBLIC]
    handle = await place.joined(guests[0], "a", ("api.test", 8080), (str(OPEN), 8080))
    await place.look_up(guests[0], "api.test")
    run("nft flush ruleset")
    async with asyncio.timeout(patient(10)):
        while "from_sb" not in run("nft list ruleset"):
            await asyncio.sleep(0.02)
    assert str(guests[0].do("tcp", PUBLIC, 8080)).startswith(PUBLIC)
    assert str(guests[0].do("tcp", PRIVATE[0], 8080)).startswith(PRIVATE[0])
    await place.networks.close(handle)
    for name in ("named4", "range24"):
        assert handle.address not in run(f"nft list set inet {TABLE} {name}"), name
    assert place.networks.rights(handle.address) is None
    assert await place.networks.learned(handle.address, "api.test", [PUBLIC], 60) == ()


async def test_a_range_that_somebody_opened_is_closed_again(
    place: Place, guests: tuple[Guest, Guest]
) -> None:
    await place.joined(guests[0], "a", (f"{PRIVATE[1]}/32", 8080))
    run(f"nft add element inet {TABLE} private4 {{ {PRIVATE[1]} }}")
    async with asyncio.timeout(patient(10)):
        while PRIVATE[1] in run(f"nft list set inet {TABLE} private4"):
            await asyncio.sleep(0.02)
    assert guests[0].do("tcp", PRIVATE[1], 8080) == REFUSED


async def test_refusals_are_told_with_who_and_whom(place: Place, guests: tuple[Guest, Guest]) -> None:
    handle = await place.joined(guests[0], "a", ("api.test", 443))
    peer = await place.joined(guests[1], "b", internet=True)
    assert guests[0].do("tcp", METADATA, 80) == REFUSED
    guests[0].do("udp", PRIVATE[1], 53, "x", 0.2)
    assert guests[0].do("tcp", WAN, 8080) == REFUSED
    assert guests[0].do("tcp", peer.address, 8080) == REFUSED
    assert await place.look_up(guests[0], "evil.test") == 5
    assert guests[1].do("tcp", PRIVATE[0], 8080) == REFUSED
    for wanted in (
        Refusal(handle.address, "tcp", METADATA, 80),
        Refusal(handle.address, "udp", PRIVATE[1], 53),
        Refusal(handle.address, "tcp", WAN, 8080),
        Refusal(handle.address, "tcp", peer.address, 8080),
        Refusal(handle.address, "dns", "evil.test", 0),
        Refusal(peer.address, "tcp", PRIVATE[0], 8080),
    ):
        await until_told(place, wanted)
    assert place.networks.sandbox_of(handle.address) == "sb_a"


async def test_one_that_is_refused_all_the_time_hides_nobody(
    place: Place, guests: tuple[Guest, Guest]
) -> None:
    await place.joined(guests[0], "a", internet=True)
    quiet = await place.joined(guests[1], "b", internet=True)
    for port in range(1, 200):
        assert guests[0].do("tcp", METADATA, port) == REFUSED
    assert guests[1].do("tcp", PRIVATE[0], 8080) == REFUSED
    await until_told(place, Refusal(quiet.address, "tcp", PRIVATE[0], 8080))
    assert len([one for one in place.keeper.told if one.target == METADATA]) < 60


async def test_ipv6_leads_nowhere(lab: World, place: Place, guests: tuple[Guest, Guest]) -> None:
    """Sandboxes have none: with an address of its own and a way out made by somebody, it is dropped all the same."""
    handle = await place.joined(guests[0], "a", internet=True)
    assert guests[0].do("tcp", "2606:4700::1", 8080, 1.0) == "OSError"
    inside = f"nsenter -t {guests[0].pid} -n "
    run(inside + "sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0")
    run(inside + "ip -6 addr add fd00::2/64 dev eth0 nodad")
    run("sysctl -qw net.ipv6.conf.all.forwarding=1")
    run(f"ip -6 addr add fd00::1/64 dev {handle.link} nodad")
    run(inside + "ip -6 route add default via fd00::1")
    server = socket.create_server(("fd00::1", 8099), family=socket.AF_INET6)
    try:
        for address in ("fd00::1", "2606:4700::1"):
            assert guests[0].do("tcp", address, 8099, 1.0) in ("TimeoutError", "OSError"), address
    finally:
        server.close()
