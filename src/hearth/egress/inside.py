"""The sandbox's end of its link. Runs in a thread of its own, which enters the namespace and never comes back."""

from __future__ import annotations

import contextlib
import os
import socket
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from hearth.egress import links
from hearth.egress.netlink import ROUTE, Netlink
from hearth.linux.libc import CLONE_NEWNET, setns
from hearth.linux.netns import namespace_of

NAME = "eth0"
_EVERYWHERE = IPv4Network("0.0.0.0/0")
NO_IPV6 = (
    Path("/proc/sys/net/ipv6/conf/all/disable_ipv6"),
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6"),
)


def macs(address: IPv4Address) -> tuple[bytes, bytes]:
    """Hardware addresses of the host's and the sandbox's end; locally administered, from the one address."""
    return b"\x02\x00" + address.packed, b"\x06\x00" + address.packed


def join(pid: int, link: str, group: int, mtu: int, address: IPv4Address, gateway: IPv4Address) -> int:
    """Put a link into the network namespace of `pid` and prepare all in there; the host's end stays down.

    Returns the index of the host's end. Leaves the calling thread in the other namespace: see `netns.alone`.

    Raises:
        OSError: as the kernel said it; the host's end may exist.
        ValueError: `pid` is in this very namespace.
    """
    own, theirs = macs(address)
    namespace = namespace_of(pid)
    try:
        with Netlink(ROUTE) as outside:
            links.add_pair(outside, links.End(link, own), group, links.End(NAME, theirs), namespace, mtu)
            index = socket.if_nametoindex(link)
        setns(namespace, CLONE_NEWNET)
    finally:
        os.close(namespace)
    for knob in NO_IPV6:
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            knob.write_text("1")
    with Netlink(ROUTE) as inside:
        eth0 = socket.if_nametoindex(NAME)
        # `lo` is whoever made the namespace's: bubblewrap is just bringing it up, and fails when it is up already.
        links.add_address(inside, eth0, address)
        links.set_up(inside, eth0)
        # Nobody is asked who the gateway is: it answers on every link, whatever arp_ignore says on this host.
        links.add_neighbour(inside, eth0, gateway, own)
        links.replace_route(inside, IPv4Network(gateway), eth0)
        links.replace_route(inside, _EVERYWHERE, eth0, gateway)
    return index
