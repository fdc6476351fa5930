"""What one platform has on this machine beside its table: made at the start, removed at the end or after a crash.

Everything here is synchronous and for a worker thread.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path

from hearth.core.errors import SandboxFailed
from hearth.core.finding import RUN, Finding, not_held, note, ok
from hearth.egress import claim, docker_user, links, networkd, nflog
from hearth.egress.leftovers import cleanup_leftovers, explain
from hearth.egress.netlink import ROUTE, Netlink
from hearth.egress.nft import Library, Nft, NftError, NftMissing, find
from hearth.egress.ruleset import Names
from hearth.egress.table import Table
from hearth.linux.commands import by_root, install

log = logging.getLogger(__name__)

_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_BIND_TRIES = 16


@dataclass(frozen=True, slots=True)
class Ground:
    """All that stands before the first sandbox: names, table, and the sockets for the resolver: where it is asked, and where the
    kernel tells of refused packets (None where it can't)."""

    names: Names
    nft: Nft
    table: Table
    udp: socket.socket
    tcp: socket.socket
    refusals: socket.socket | None
    docker: bool
    mtu: int

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The resolver's."""
        told = () if self.refusals is None else (self.refusals,)
        return (self.udp, self.tcp, *told)


def prepare_ground(
    instance: str,
    name_servers: Iterable[str],
    lock: Path = claim.LOCK,
    private: tuple[IPv4Network, ...] = (),
) -> Ground:
    """Clear leftovers, claim a range, bind the resolver's sockets, load the table and read it back.

    After an error nothing is left.

    Raises:
        SandboxFailed: this machine can't hold the rules; its hint is the command that mends it.
    """
    if os.geteuid() != 0:
        raise SandboxFailed("networks of sandboxes need root", hint=RUN + by_root("hearth up"))
    for finding in network_findings():
        if not finding.holds:
            raise SandboxFailed(finding.says, hint=finding.mend and RUN + finding.mend)
    nft = find()
    opened: list[socket.socket] = []
    try:
        cleanup_leftovers(instance)
        networkd.keep_out(claim.prefix(instance))
        with Netlink(ROUTE) as netlink:
            _try_veth(netlink, instance)
            names, udp, tcp = _claim(netlink, instance, _avoid(name_servers), lock, private)
            opened += [udp, tcp]
            refusals = _refusals(names.group)
            if refusals is not None:
                opened.append(refusals)
            table = Table(names, nft)
            table.expect(own_addresses(netlink))
            table.load()
            if _FORWARD.read_text().strip() != "1":
                _FORWARD.write_text("1")
            docker = docker_user.admit(names.prefix)
            mtu = links.way_out_mtu(netlink)
            return Ground(names, nft, table, udp, tcp, refusals, docker, mtu)
    except (OSError, NftError, SandboxFailed) as error:
        for sock in opened:
            sock.close()
        nft.close()
        cleanup_leftovers(instance)
        raise explain(error) from error


def network_findings(forward: Path = _FORWARD) -> list[Finding]:
    """What root's networks depend on and can be seen by looking. Changes nothing."""
    name = "nftables"
    try:
        nft = find()
        nft.close()
        found = [ok(name, "libnftables" if isinstance(nft, Library) else "the program nft")]
    except NftMissing as error:
        found = [not_held(name, str(error), install("nftables"))]
    if not os.access(forward, os.W_OK) and forward.read_text().strip() != "1":
        says = f"{forward} can't be written, and says that packets are not forwarded"
        found.append(not_held("forwarding", says, "mount -o remount,rw /proc/sys"))
    return found


def own_addresses(netlink: Netlink) -> set[IPv4Address]:
    """Every IPv4 address of this host that `internet` could mistake for somebody else's."""
    found = {have.address for have in links.addresses(netlink)}
    return {address for address in found if isinstance(address, IPv4Address) and not address.is_loopback}


def _try_veth(netlink: Netlink, instance: str) -> None:
    """Make and remove a pair: the module may be missing, and a later failure would blame a sandbox."""
    name = f"{claim.prefix(instance)}-try"
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        near, far = links.End(name, b"\x02" + bytes(5)), links.End(f"{name}2", b"\x06" + bytes(5))
        links.add_pair(netlink, near, 0, far, here, 1500)
    finally:
        os.close(here)
    links.delete(netlink, name)


def _avoid(name_servers: Iterable[str]) -> list[IPv4Network]:
    addresses = [ip_address(text) for text in name_servers]
    return [IPv4Network(address) for address in addresses if isinstance(address, IPv4Address)]


def _claim(
    netlink: Netlink,
    instance: str,
    avoid: list[IPv4Network],
    lock: Path,
    private: tuple[IPv4Network, ...],
) -> tuple[Names, socket.socket, socket.socket]:
    """A range whose gateway's port 53 is free: a resolver of the run before may not be quite dead."""
    for _ in range(_BIND_TRIES):
        names = claim.claim(netlink, instance, avoid, lock, private)
        try:
            return names, *_bind(str(names.gateway))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            claim.release(netlink, instance)
            avoid = [*avoid, names.block]
    raise SandboxFailed("port 53 is taken on every address", hint="run: ss -lnp 'sport = :53'")


def _refusals(group: int) -> socket.socket | None:
    """Refusing comes first; a machine that can't tell of it goes on without."""
    try:
        return nflog.listen(group)
    except OSError as error:
        log.warning("what sandboxes are refused can't be told in functions' logs: %s", error)
        return None


def _bind(address: str) -> tuple[socket.socket, socket.socket]:
    """The UDP socket and the TCP listener on port 53, non-blocking."""
    made: list[socket.socket] = []
    try:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            sock = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            made.append(sock)
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, 53))
        made[1].listen(128)
    except OSError:
        for sock in made:
            sock.close()
        raise
    return made[0], made[1]


def obstacles(nft: Nft, docker: bool) -> list[str]:
    """Other people's base chains that drop what ours accepts, each with what to do. They cut off, they don't open.

    Args:
        nft: only asked.
        docker: there is a chain DOCKER-USER, in which ours are let through.
    """
    found: list[str] = []
    try:
        shown = nft.show("chains")
    except NftError:  # another's table that this nft can't read; this is advice only
        return found
    for item in shown:
        chain = item.get("chain", {})
        if chain.get("hook") not in ("forward", "input") or chain.get("policy") != "drop":
            continue
        if chain.get("family") not in ("ip", "inet") or (docker and chain["hook"] == "forward"):
            continue
        where = f"{chain['family']} {chain['table']} {chain['name']}"
        found.append(
            f"chain {where} drops by policy: sandboxes may reach nothing; accept iifname/oifname hb* in it"
        )
    return found


def firewalls() -> list[Finding]:
    """The `obstacles` of this machine, for who only looks; needs root."""
    try:
        nft = find()
    except NftMissing:
        return []
    try:
        return [note("firewall", obstacle) for obstacle in obstacles(nft, docker_user.present())]
    finally:
        nft.close()
