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
from hearth.egress import claim, conntrack, docker_user, links
from hearth.egress.netlink import NETFILTER, ROUTE, Netlink
from hearth.egress.nft import Nft, NftError, NftMissing, find
from hearth.egress.ruleset import Names, drop
from hearth.egress.table import Table

log = logging.getLogger(__name__)

_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_BIND_TRIES = 16


@dataclass(frozen=True, slots=True)
class Ground:
    """All that stands before the first sandbox: names, table, and the sockets for the resolver."""

    names: Names
    nft: Nft
    table: Table
    udp: socket.socket
    tcp: socket.socket
    docker: bool
    mtu: int


def prepare_ground(instance: str, name_servers: Iterable[str], lock: Path = claim.LOCK) -> Ground:
    """Clear leftovers, claim a range, bind the resolver's sockets, load the table and read it back.

    After an error nothing is left.

    Raises:
        SandboxFailed: this machine can't hold the rules; its hint is the command that mends it.
    """
    if os.geteuid() != 0:
        raise SandboxFailed("networks of sandboxes need root", hint="run as root: sudo hearth up")
    try:
        nft = find()
    except NftMissing as error:
        raise SandboxFailed("nftables is not installed", hint="run: apt-get install nftables") from error
    opened: list[socket.socket] = []
    try:
        cleanup_leftovers(instance)
        with Netlink(ROUTE) as netlink:
            _try_veth(netlink, instance)
            names, udp, tcp = _claim(netlink, instance, _avoid(name_servers), lock)
            opened += [udp, tcp]
            table = Table(names, nft)
            table.expect(own_addresses(netlink))
            table.load()
            if _FORWARD.read_text().strip() != "1":
                _FORWARD.write_text("1")
            docker = docker_user.admit(names.prefix)
            return Ground(names, nft, table, udp, tcp, docker, links.way_out_mtu(netlink))
    except (OSError, NftError, SandboxFailed) as error:
        for sock in opened:
            sock.close()
        nft.close()
        cleanup_leftovers(instance)
        raise explain(error) from error


def explain(error: Exception) -> SandboxFailed:
    """One failure in the words of the tree."""
    if isinstance(error, SandboxFailed):
        return error
    if isinstance(error, NftError):
        return SandboxFailed(
            f"the packet filter's rules are not in force: {error}",
            hint="see what nftables says: modprobe -a nf_tables nft_ct nft_nat nft_masq nft_reject_inet nft_log "
            "nft_limit nft_connlimit nfnetlink_log; nft list tables",
        )
    if isinstance(error, ValueError):
        return SandboxFailed(str(error))
    if isinstance(error, OSError) and error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
        return SandboxFailed(
            f"this process may not change networks: {error}",
            hint="give it CAP_NET_ADMIN and CAP_SYS_ADMIN and a writable /proc/sys (a container needs --privileged)",
        )
    if isinstance(error, OSError) and error.errno == errno.EOPNOTSUPP:
        return SandboxFailed("this kernel can't make veth links", hint="run: modprobe veth")
    return SandboxFailed(f"the network of a sandbox could not be changed: {error}", hint="run: hearth doctor")


def own_addresses(netlink: Netlink) -> set[IPv4Address]:
    """Every IPv4 address of this host that `internet` could mistake for somebody else's."""
    found = {have.address for have in links.addresses(netlink)}
    return {address for address in found if isinstance(address, IPv4Address) and not address.is_loopback}


def cleanup_leftovers(instance: str) -> None:
    """Remove all that an instance left on this machine: links, table, range, rules. Nothing there is no error.

    Links go first: nothing may pass while there are no rules.

    Raises:
        SandboxFailed: something could not be removed.
    """
    prefix, group = claim.prefix(instance), claim.group(instance)
    try:
        with Netlink(ROUTE) as netlink:
            _remove_links(netlink, prefix, group)
            try:
                nft = find()
            except NftMissing:
                nft = None
            if nft is not None:
                try:
                    nft.run(drop(claim.names(instance, IPv4Network("0.0.0.0/0"))))
                finally:
                    nft.close()
            blocks = claim.release(netlink, instance)
        if blocks:
            docker_user.withdraw(prefix)
            with Netlink(NETFILTER) as netlink:
                for block in blocks:
                    conntrack.cut(netlink, block)
    except (OSError, NftError) as error:
        raise explain(error) from error


def _remove_links(netlink: Netlink, prefix: str, group: int) -> None:
    there = links.links(netlink)
    ours = [link for link in there if link.name.startswith(prefix)]
    strangers = [link for link in there if link.group == group and not link.name.startswith(prefix)]
    if len(ours) > 1 and not strangers and all(link.group == group for link in ours):
        links.delete_group(netlink, group)
        return
    for link in ours:
        links.delete(netlink, link.name)


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
    netlink: Netlink, instance: str, avoid: list[IPv4Network], lock: Path
) -> tuple[Names, socket.socket, socket.socket]:
    """A range whose gateway's port 53 is free: a resolver of the run before may not be quite dead."""
    for _ in range(_BIND_TRIES):
        names = claim.claim(netlink, instance, avoid, lock)
        try:
            return names, *_bind(str(names.gateway))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            claim.release(netlink, instance)
            avoid = [*avoid, names.block]
    raise SandboxFailed("port 53 is taken on every address", hint="see who listens: ss -lnp 'sport = :53'")


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


def obstacles(ground: Ground) -> list[str]:
    """Other people's base chains that drop what ours accepts, each with what to do. They cut off, they don't open."""
    found: list[str] = []
    try:
        shown = ground.nft.show("chains")
    except NftError:  # another's table that this nft can't read; this is advice only
        return found
    for item in shown:
        chain = item.get("chain", {})
        if chain.get("hook") not in ("forward", "input") or chain.get("policy") != "drop":
            continue
        if chain.get("family") not in ("ip", "inet") or (ground.docker and chain["hook"] == "forward"):
            continue
        where = f"{chain['family']} {chain['table']} {chain['name']}"
        found.append(
            f"chain {where} drops by policy: sandboxes may reach nothing; accept iifname/oifname hb* in it"
        )
    return found
