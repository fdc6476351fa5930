"""Networks of sandboxes against a world of network namespaces: who may reach whom, and what stays closed."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import select
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import IPv4Address, ip_network
from pathlib import Path

import pytest

from hearth.core.errors import SandboxFailed
from hearth.core.launch import Network
from hearth.egress import claim, conntrack, inside, links, machine
from hearth.egress.door import Door
from hearth.egress.netlink import NETFILTER, ROUTE, Netlink
from hearth.egress.networks import HostNetworks
from hearth.egress.ruleset import CONNECTIONS, Member
from hearth.linux.netns import alone
from hearth.ports.egress import NetHandle, Networks
from tests.integration.netlab import METADATA, OTHER_PUBLIC, PRIVATE, PUBLIC, WAN, Guest, World, run, world

pytestmark = pytest.mark.root

INSTANCE = "01testegress"
TABLE = f"hearth_{INSTANCE}"
INTERNET = Network("internet")
REFUSED = "ConnectionRefusedError"  # a reset, at once


@pytest.fixture(scope="module")
def lab() -> Iterator[World]:
    with world() as made:
        yield made


@pytest.fixture
async def networks(lab: World, tmp_path: Path) -> AsyncIterator[HostNetworks]:
    made = HostNetworks(INSTANCE, lock=tmp_path / "lock")
    await made.start()
    assert made.missing() == ()
    try:
        yield made
    finally:
        await made.stop()
        assert_nothing_left()


@pytest.fixture
def guests() -> Iterator[tuple[Guest, Guest]]:
    """Two sandboxes."""
    made = Guest(), Guest()
    yield made
    for guest in made:
        guest.end()


def assert_nothing_left() -> None:
    prefix = claim.prefix(INSTANCE)
    seen = run("ip -br link") + run("ip addr show") + run("ip route show") + run("nft list tables")
    assert prefix not in seen and TABLE not in seen and "unreachable" not in seen


async def joined(
    networks: Networks, guest: Guest, name: str, network: Network | None = INTERNET
) -> NetHandle:
    handle = await networks.prepare(f"sb_{name}", guest.pid)
    if network is not None:
        await networks.open(handle, network)
    return handle


async def until(condition: Callable[[], bool]) -> None:
    """Await a state that somebody else brings about."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def rules() -> str:
    """The table's rules and its denied ranges, without what changes all the time; empty when there is none."""
    try:
        return run(f"nft -s -t list table inet {TABLE}") + run(f"nft list set inet {TABLE} deny4")
    except AssertionError:
        return ""


async def test_internet_reaches_public_addresses_and_nothing_else(
    networks: HostNetworks, guests: tuple[Guest, Guest]
) -> None:
    first, second = guests
    await joined(networks, first, "a")
    peer = await joined(networks, second, "b")
    assert second.do("listen", 8080) == "up"
    for address in (PUBLIC, OTHER_PUBLIC, f"::ffff:{PUBLIC}"):
        assert str(first.do("tcp", address, 8080)).endswith(
            f"{address.removeprefix('::ffff:')}|{WAN}"
        )  # masqueraded
    refused = (METADATA, *PRIVATE, WAN, networks.resolver, peer.address)
    for address in (*refused, *(f"::ffff:{address}" for address in refused)):
        assert first.do("tcp", address, 8080) == REFUSED, address


async def test_the_world_is_open_where_there_is_no_table(lab: World, guests: tuple[Guest, Guest]) -> None:
    """The negative control of the test above: the same links with masquerade only, and all is reached."""
    gateway, prefix = IPv4Address("10.99.0.1"), claim.prefix("control")
    addresses = [IPv4Address("10.99.0.2"), IPv4Address("10.99.0.3")]
    run("sysctl -qw net.ipv4.ip_forward=1")
    run("nft add table ip control")
    try:
        run("nft add chain ip control post { type nat hook postrouting priority 100 ; }")
        run("nft add rule ip control post ip saddr 10.99.0.0/16 masquerade")
        with Netlink(ROUTE) as netlink:
            links.add_address(netlink, 1, gateway)
            for number, (guest, address) in enumerate(zip(guests, addresses, strict=True)):
                name = f"{prefix}{number}"
                await alone(
                    lambda g=guest, n=name, a=address: inside.join(g.pid, n, 0, 1500, a, gateway)  # type: ignore[misc]
                )
                run(f"ip link set {name} up")
                run(f"ip route replace {address}/32 dev {name}")
        assert guests[1].do("listen", 8080) == "up"
        for target in (PUBLIC, METADATA, *PRIVATE, WAN, str(gateway), str(addresses[1])):
            assert str(guests[0].do("tcp", target, 8080)).startswith(f"{target}|"), target
    finally:
        run("nft delete table ip control")
        with Netlink(ROUTE) as netlink:
            links.delete_address(netlink, 1, gateway)
            for number in range(2):
                links.delete(netlink, f"{prefix}{number}")


async def test_a_prepared_network_is_down_and_in_no_set(
    networks: HostNetworks, guests: tuple[Guest, Guest]
) -> None:
    first = guests[0]
    handle = await joined(networks, first, "a", None)
    assert json.loads(run(f"ip -j link show {handle.link}"))[0]["operstate"] == "DOWN"
    assert handle.address not in run(f"nft list table inet {TABLE}")
    assert first.do("tcp", PUBLIC, 8080, 0.3) in ("TimeoutError", "OSError")
    assert first.do("ipv6") == "1"
    # Even with its link brought up by somebody, it is in no set: all that it sends is dropped.
    run(f"ip link set {handle.link} up")
    run(f"ip route replace {handle.address}/32 dev {handle.link}")
    for target in (PUBLIC, WAN, networks.resolver):
        assert first.do("tcp", target, 8080, 0.3) == "TimeoutError"
    assert first.do("udp", networks.resolver, 53, "x", 0.3) == "TimeoutError"


async def test_named_targets_are_reached_whatever_their_address(
    networks: HostNetworks, guests: tuple[Guest, Guest]
) -> None:
    """A build's package index may be private, or on this very host; only the named port of it."""
    only, both = guests
    allow = ((PUBLIC, 443), (PRIVATE[0], 8080), (WAN, 8080))
    await joined(networks, only, "a", Network("none", allow))
    await joined(networks, both, "b", Network("internet", allow))
    for guest in guests:
        assert str(guest.do("tcp", PUBLIC, 443)).startswith(PUBLIC)
        assert str(guest.do("tcp", PRIVATE[0], 8080)).startswith(PRIVATE[0])
        assert str(guest.do("tcp", WAN, 8080)).startswith(WAN)
        assert guest.do("tcp", PRIVATE[0], 443) == REFUSED
        assert guest.do("tcp", WAN, 443) == REFUSED
        assert guest.do("tcp", PRIVATE[1], 8080) == REFUSED
    assert only.do("tcp", PUBLIC, 8080) == REFUSED
    assert str(both.do("tcp", PUBLIC, 8080)).startswith(PUBLIC)


async def test_another_sandbox_can_not_be_named(networks: HostNetworks, guests: tuple[Guest, Guest]) -> None:
    peer = await joined(networks, guests[1], "b")
    assert guests[1].do("listen", 8080) == "up"
    await joined(networks, guests[0], "a", Network("internet", ((peer.address, 8080),)))
    assert guests[0].do("tcp", peer.address, 8080) == REFUSED


async def test_none_stays_closed(networks: HostNetworks, guests: tuple[Guest, Guest]) -> None:
    handle = await joined(networks, guests[0], "a", Network("none"))
    assert json.loads(run(f"ip -j link show {handle.link}"))[0]["operstate"] == "DOWN"
    assert guests[0].do("udp", networks.resolver, 53, "x", 0.3) in ("TimeoutError", "OSError")


async def test_ipv6_targets_can_not_be_named(networks: HostNetworks, guests: tuple[Guest, Guest]) -> None:
    handle = await joined(networks, guests[0], "a", None)
    with pytest.raises(SandboxFailed, match="IPv4 only"):
        await networks.open(handle, Network("internet", (("2001:db8::1", 443),)))


async def test_the_first_packet_after_open_arrives(
    networks: HostNetworks, guests: tuple[Guest, Guest]
) -> None:
    """A link that has come up drops for a moment what it is given; `open` waits that moment out."""
    sockets = networks.resolver_sockets()
    assert sockets is not None
    udp = sockets[0][0]
    for number in range(12):
        handle = await joined(networks, guests[0], f"{number}")
        assert guests[0].do("udp", networks.resolver, 53, f"{number}", 0.0001) in (
            "TimeoutError",
            "BlockingIOError",
        )
        data, (source, _) = udp.recvfrom(64)
        assert (data, source) == (f"{number}".encode(), handle.address)
        await networks.close(handle)


async def test_a_forged_source_is_dropped(networks: HostNetworks, guests: tuple[Guest, Guest]) -> None:
    sockets = networks.resolver_sockets()
    assert sockets is not None
    handle = await joined(networks, guests[0], "a")
    other = await joined(networks, guests[1], "b")
    assert guests[0].do("forge", other.address, networks.resolver, 53) == "sent"
    assert guests[0].do("forge", handle.address, networks.resolver, 53) == "sent"
    await until(lambda: _readable(sockets[0][0].fileno()))
    assert sockets[0][0].recvfrom(64)[1][0] == handle.address  # the first that arrived is the true one
    assert not _readable(sockets[0][0].fileno())


def _readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


async def test_connections_of_one_sandbox_are_counted(
    networks: HostNetworks, guests: tuple[Guest, Guest]
) -> None:
    await joined(networks, guests[0], "a")
    await joined(networks, guests[1], "b")
    assert guests[0].do("many", PUBLIC, 8080, 300) == CONNECTIONS
    assert str(guests[1].do("tcp", PUBLIC, 8080)).startswith(PUBLIC)


async def test_close_cuts_flows_and_leaves_nothing_for_the_next_owner(
    networks: HostNetworks, guests: tuple[Guest, Guest]
) -> None:
    first, second = guests
    handle = await joined(networks, first, "a")
    await joined(networks, second, "b")
    for guest in guests:
        assert str(guest.do("keep", PUBLIC, 8080)).startswith(PUBLIC)
        assert guest.do("echo") == "again"
    with Netlink(NETFILTER) as netlink:
        assert conntrack.cut(netlink, IPv4Address("10.255.255.1")) == 0  # nobody's
    assert handle.address in run(f"conntrack -L -s {handle.address}")
    await networks.close(handle)
    await networks.close(handle)  # idempotent
    assert handle.address not in run(f"conntrack -L -s {handle.address}")
    for name in ("owner4", "inet4", "allow4"):
        assert handle.address not in run(f"nft list set inet {TABLE} {name}")
    assert handle.link not in run("ip -br link")
    assert second.do("echo") == "again"  # others' flows go on
    with pytest.raises(SandboxFailed):
        await networks.open(handle, INTERNET)


async def test_close_of_a_sandbox_that_died(networks: HostNetworks) -> None:
    guest = Guest()
    handle = await joined(networks, guest, "a")
    guest.end()
    await networks.close(handle)
    assert handle.link not in run("ip -br link")


async def test_a_failed_prepare_leaves_nothing(networks: HostNetworks, guests: tuple[Guest, Guest]) -> None:
    with pytest.raises(SandboxFailed, match="no network namespace of its own"):
        await networks.prepare("sb_own", os.getpid())
    with pytest.raises(SandboxFailed):
        await networks.prepare("sb_gone", 2**22)
    run(f"nsenter -t {guests[0].pid} -n ip link add eth0 type veth peer name eth1")
    with pytest.raises(SandboxFailed):
        await networks.prepare("sb_full", guests[0].pid)
    handle = await joined(networks, guests[1], "a", None)
    with pytest.raises(SandboxFailed, match="already"):
        await networks.prepare("sb_a", guests[1].pid)
    assert run("ip -br link").count(claim.prefix(INSTANCE)) == 1
    await networks.close(handle)


async def test_a_cancelled_prepare_is_undone(networks: HostNetworks, guests: tuple[Guest, Guest]) -> None:
    task = asyncio.create_task(networks.prepare("sb_a", guests[0].pid))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not networks.holds("sb_a"))
    assert claim.prefix(INSTANCE) not in run("ip -br link")
    handle = await joined(networks, guests[0], "a")  # the name is free again
    assert str(guests[0].do("tcp", PUBLIC, 8080)).startswith(PUBLIC)
    await networks.close(handle)


async def test_damaged_rules_come_back(networks: HostNetworks, guests: tuple[Guest, Guest]) -> None:
    """Somebody's `nft flush ruleset`, or an edited rule."""
    await joined(networks, guests[0], "a")
    assert str(guests[0].do("keep", PUBLIC, 8080)).startswith(PUBLIC)
    before = rules()
    for damage in (
        f"nft delete table inet {TABLE}",
        f"nft flush chain inet {TABLE} from_sb",
        f"nft insert rule inet {TABLE} from_sb ip daddr {PRIVATE[0]} accept",
        f"nft delete element inet {TABLE} deny4 {{ 10.0.0.0/8 }}",
        f"nft add chain inet {TABLE} more",
    ):
        run(damage)
        await until(lambda: rules() == before)
        assert guests[0].do("tcp", PRIVATE[0], 8080) == REFUSED, damage
        assert str(guests[0].do("tcp", PUBLIC, 8080)).startswith(PUBLIC), damage
    assert (
        guests[0].do("echo") == "again"
    )  # an honest flow survives: its next packet is judged anew, and passes


async def test_what_slipped_through_a_gap_is_cut(
    lab: World, guests: tuple[Guest, Guest], tmp_path: Path
) -> None:
    """Nobody watches here, so that the gap stays open long enough to slip through."""
    ground = machine.prepare_ground(INSTANCE, (), tmp_path / "lock")
    try:
        door, address, gateway = Door(ground), ground.names.block[2], ground.names.gateway
        link = f"{ground.names.prefix}1"
        index = await alone(lambda: inside.join(guests[0].pid, link, 7, 1500, address, gateway))
        door.open(index, Member(link, address, True))
        assert door.inspect(False) is None
        assert str(guests[0].do("keep", PUBLIC, 8080)).startswith(PUBLIC)
        run(f"nft insert rule inet {TABLE} from_sb ip daddr {PRIVATE[0]} accept")
        run(f"nft insert rule inet {TABLE} input tcp dport 8080 accept")
        assert str(guests[0].do("keep", PRIVATE[0], 8080)).startswith(PRIVATE[0])
        assert str(guests[0].do("keep", WAN, 8080)).startswith(WAN)
        assert door.inspect(False) is None
        assert (
            guests[0].do("echo", 0) == "again"
        )  # an honest flow survives: its next packet is judged anew, and passes
        assert guests[0].do("echo", 1) != "again"
        assert guests[0].do("echo", 2) != "again"
    finally:
        for sock in ground.sockets:
            sock.close()
        ground.nft.close()
        machine.cleanup_leftovers(INSTANCE)
        assert_nothing_left()


async def test_links_are_down_while_the_rules_can_not_be_loaded(
    networks: HostNetworks, guests: tuple[Guest, Guest], monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = await joined(networks, guests[0], "a")
    waiting = await joined(networks, guests[1], "b", None)
    with monkeypatch.context() as broken:
        broken.setattr("hearth.egress.table.script", lambda *_: "this is no rule\n")
        run(f"nft delete table inet {TABLE}")
        await until(lambda: networks.missing() != ())
        assert "not in force" in networks.missing()[0].says
        assert json.loads(run(f"ip -j link show {handle.link}"))[0]["operstate"] == "DOWN"
        assert guests[0].do("tcp", WAN, 8080, 0.3) in ("TimeoutError", "OSError")
        with pytest.raises(SandboxFailed):
            await networks.open(waiting, INTERNET)
        with pytest.raises(SandboxFailed):
            await networks.prepare("sb_c", guests[1].pid)
    networks.look()
    await until(lambda: networks.missing() == ())
    assert str(guests[0].do("tcp", PUBLIC, 8080)).startswith(PUBLIC)
    await networks.open(waiting, INTERNET)
    assert guests[1].do("tcp", METADATA, 8080) == REFUSED


async def test_the_hosts_new_address_is_followed(
    lab: World, networks: HostNetworks, guests: tuple[Guest, Guest]
) -> None:
    """A public address of this host's own is refused, also one that it got later."""
    new = "93.184.216.77"
    await joined(networks, guests[0], "a")
    run(f"ip addr add {new}/32 dev wan0")
    try:
        await until(lambda: new in run(f"nft list set inet {TABLE} host4"))
        assert guests[0].do("tcp", new, 8080) == REFUSED
    finally:
        run(f"ip addr del {new}/32 dev wan0")
    await until(lambda: new not in run(f"nft list set inet {TABLE} host4"))


@pytest.mark.program("iptables")  # dockerd uses it
async def test_a_dockerd_that_starts_later_is_told_of_us(networks: HostNetworks) -> None:
    run("iptables -N DOCKER-USER")
    try:
        prefix = claim.prefix(INSTANCE)
        for way in ("-i", "-o"):
            rule = f"-A DOCKER-USER {way} {prefix}+ -j ACCEPT"
            await until(lambda r=rule: r in run("iptables -S DOCKER-USER"))  # type: ignore[misc]
        run("iptables -F DOCKER-USER")
        await until(lambda: prefix in run("iptables -S DOCKER-USER"))
        await networks.stop()
        assert prefix not in run("iptables -S DOCKER-USER")
    finally:
        run("iptables -F DOCKER-USER")
        run("iptables -X DOCKER-USER")


async def test_routes_are_marked_as_ones_that_systemd_networkd_leaves(
    networks: HostNetworks, guests: tuple[Guest, Guest]
) -> None:
    mine = await joined(networks, guests[0], "a")
    block = ip_network(f"{networks.resolver}/20", strict=False)
    shown = run("ip route show table main").splitlines()
    ours = [line for line in shown if line.startswith((f"unreachable {block}", f"{mine.address} "))]
    assert len(ours) == 2 and all("proto kernel" in line for line in ours), shown


async def test_two_platforms_do_not_meet(
    networks: HostNetworks, guests: tuple[Guest, Guest], tmp_path: Path
) -> None:
    other = HostNetworks("01testother", lock=tmp_path / "lock")
    await other.start()
    try:
        assert other.missing() == ()
        mine, theirs = await joined(networks, guests[0], "a"), await joined(other, guests[1], "a")
        assert mine.link[:6] != theirs.link[:6] and networks.resolver != other.resolver
        assert guests[1].do("listen", 8080) == "up"
        for address in (theirs.address, other.resolver):
            assert guests[0].do("tcp", address, 8080, 0.3) in (
                REFUSED,
                "TimeoutError",
            )  # by us, or by the other
        for guest in guests:
            assert str(guest.do("tcp", PUBLIC, 8080)).startswith(PUBLIC)
    finally:
        await other.stop()
    assert str(guests[0].do("tcp", PUBLIC, 8080)).startswith(PUBLIC)  # one's end is not the other's


async def test_leftovers_of_a_dead_keeper_are_removed(lab: World, tmp_path: Path) -> None:
    dead = HostNetworks(INSTANCE, lock=tmp_path / "lock")
    await dead.start()
    guest = Guest()
    handle = await joined(dead, guest, "a")
    assert str(guest.do("keep", PUBLIC, 8080)).startswith(PUBLIC)
    # It dies here: nothing of `dead` runs any more, but its sockets still hold the gateway's port.
    assert dead._watch is not None
    dead._watch.close()
    for task in list(dead._tasks):
        task.cancel()
    await asyncio.gather(*dead._tasks, return_exceptions=True)
    alive = HostNetworks(INSTANCE, lock=tmp_path / "lock")
    await alive.start()
    assert alive.missing() == ()
    assert handle.link not in run("ip -br link")
    assert alive.resolver != dead.resolver  # the port there is not free yet
    await alive.stop()
    assert_nothing_left()
    await dead.stop()
    machine.cleanup_leftovers(INSTANCE)  # nothing there is no error
    guest.end()


async def test_a_machine_that_can_not_hold_the_rules_says_so(
    lab: World, guests: tuple[Guest, Guest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(links, "add_pair", refuse)
    networks = HostNetworks(INSTANCE, lock=tmp_path / "lock")
    await networks.start()
    try:
        (found,) = networks.missing()
        assert found.name == "network" and "CAP_NET_ADMIN" in found.says
        assert networks.resolver_sockets() is None
        with pytest.raises(SandboxFailed):
            await networks.prepare("sb_a", guests[0].pid)
        assert_nothing_left()
    finally:
        await networks.stop()
