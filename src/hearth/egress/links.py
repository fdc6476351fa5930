"""Links, addresses and routes by rtnetlink: the verbs that networks of sandboxes are made of.

Every function takes the socket to speak on, which decides the network namespace, and raises OSError as the kernel
said it. Sources: rtnetlink(7), linux/if_link.h, linux/rtnetlink.h, linux/veth.h.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

from hearth.egress.netlink import CREATE, EXCL, NESTED, REPLACE, ROUTE, Netlink, attr, attrs, text, u32

_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWNEIGH = 28
_INET, _INET6 = 2, 10
_IFF_UP = 1
_UNICAST, _UNREACHABLE = 1, 7
_TABLE_MAIN, _TABLE_LOCAL = 254, 255
_ANY, _KERNEL = 0, 2
"""Protocols of routes. systemd-networkd removes from a link that it configures, and of the routes without a link, whatever it has
not made itself and is not the kernel's; so ours are marked as the kernel's (ManageForeignRoutes= in networkd.conf(5))."""
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_HOST = 0, 253, 254

_EVERYWHERE = IPv4Network("0.0.0.0/0")
_ETHERNET = 1500  # bytes

_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")


@dataclass(frozen=True, slots=True)
class Link:
    """One link as the kernel shows it."""

    index: int
    name: str
    up: bool
    group: int
    mtu: int


@dataclass(frozen=True, slots=True)
class End:
    """One end of a pair that is to be made: its name and hardware address."""

    name: str
    mac: bytes


@dataclass(frozen=True, slots=True)
class Address:
    """One address of this host; `label` is empty for IPv6."""

    index: int
    address: IPv4Address | IPv6Address
    prefix: int
    label: str


@dataclass(frozen=True, slots=True)
class Route:
    """One route: where it leads, and the index of its link (0: none)."""

    network: IPv4Network
    index: int


def _link(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _IFINFO.pack(0, 0, index, flags, change)


def add_pair(netlink: Netlink, near: End, group: int, far: End, netns: int, mtu: int) -> None:
    """Make a veth pair: `near` here, down and in `group`; `far` in the namespace that descriptor `netns` is."""
    size = u32(4, mtu)
    other = (
        _link() + text(3, far.name) + attr(1, far.mac) + size + u32(28, netns)
    )  # IFNAME, ADDRESS, NET_NS_FD
    info = text(1, "veth") + attr(2 | NESTED, attr(1 | NESTED, other))  # KIND, DATA: VETH_INFO_PEER
    body = _link() + text(3, near.name) + attr(1, near.mac) + size + u32(27, group)  # GROUP
    netlink.request(_NEWLINK, CREATE | EXCL, body + attr(18 | NESTED, info))  # LINKINFO


def set_up(netlink: Netlink, index: int, up: bool = True) -> None:
    """Bring a link up, or take it down."""
    netlink.request(_SETLINK, 0, _link(index, _IFF_UP if up else 0, _IFF_UP))


def far_end(netlink: Netlink, index: int) -> tuple[int, int]:
    """Where the other end of a pair is: (the kernel's id of its namespace, its index there)."""
    have = _one(netlink, _link(index))
    return struct.unpack("=i", have[37])[0], struct.unpack("=I", have[5])[0]  # LINK_NETNSID, LINK


def is_running(netlink: Netlink, namespace: int, index: int) -> bool:
    """Whether a link in another namespace has noticed that its far end is up.

    The kernel tells it by a work queue. Until then it drops what is sent, silently: a first SYN would be repeated
    after a second only (seen: 16 of 40 packets sent at once were lost).
    """
    return (
        _one(netlink, _link(index) + u32(46, namespace))[16][0] == 6
    )  # TARGET_NETNSID; OPERSTATE: IF_OPER_UP


def _one(netlink: Netlink, body: bytes) -> dict[int, bytes]:
    for message in netlink.ask(_GETLINK, body):
        if message.type == _NEWLINK:
            return attrs(message.body[_IFINFO.size :])
    raise OSError(errno.ENODEV, "the kernel showed no link")


def delete(netlink: Netlink, name: str) -> None:
    """Remove a link; one that is gone is no error."""
    try:
        netlink.request(_DELLINK, 0, _link() + text(3, name))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def remove(name: str) -> None:
    """As `delete`, on a socket of its own: takes 20 ms, and is for a thread."""
    with Netlink(ROUTE) as netlink:
        delete(netlink, name)


def delete_group(netlink: Netlink, group: int) -> None:
    """Remove every link of a group in one step: one wait of the kernel's for all, 20 ms, and not for each."""
    try:
        netlink.request(_DELLINK, 0, _link() + u32(27, group))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def links(netlink: Netlink) -> list[Link]:
    """All links of this namespace."""
    found = []
    for message in netlink.dump(_GETLINK, _link()):
        if message.type != _NEWLINK:
            continue
        _, _, index, flags, _ = _IFINFO.unpack_from(message.body)
        have = attrs(message.body[_IFINFO.size :])
        group = struct.unpack("=I", have[27])[0] if 27 in have else 0
        mtu = struct.unpack("=I", have[4])[0] if 4 in have else 0
        found.append(Link(index, have.get(3, b"").rstrip(b"\0").decode(), bool(flags & _IFF_UP), group, mtu))
    return found


def add_address(netlink: Netlink, index: int, address: IPv4Address, label: str = "") -> None:
    """Give a link an address of its own (/32)."""
    body = _IFADDR.pack(_INET, 32, 0, _SCOPE_UNIVERSE, index)
    body += attr(2, address.packed) + attr(1, address.packed)  # IFA_LOCAL, IFA_ADDRESS
    netlink.request(_NEWADDR, CREATE | EXCL, body + (text(3, label) if label else b""))


def delete_address(netlink: Netlink, index: int, address: IPv4Address) -> None:
    """Take an address away; one that is gone is no error."""
    body = _IFADDR.pack(_INET, 32, 0, 0, index) + attr(2, address.packed)
    try:
        netlink.request(_DELADDR, 0, body)
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
            raise


def addresses(netlink: Netlink) -> list[Address]:
    """All addresses of this namespace, both families."""
    found = []
    for family in (_INET, _INET6):
        for message in netlink.dump(_GETADDR, _IFADDR.pack(family, 0, 0, 0, 0)):
            if message.type != _NEWADDR:
                continue
            _, prefix, _, _, index = _IFADDR.unpack_from(message.body)
            have = attrs(message.body[_IFADDR.size :])
            packed = have.get(2) or have.get(1)  # LOCAL is the own address; ADDRESS may be a peer's
            if packed is not None:
                label = have.get(3, b"").rstrip(b"\0").decode() if family == _INET else ""
                found.append(Address(index, ip_address(packed), prefix, label))
    return found


def _route(kind: int, scope: int, network: IPv4Network, extra: bytes, protocol: int = _KERNEL) -> bytes:
    head = _RTMSG.pack(_INET, network.prefixlen, 0, 0, _TABLE_MAIN, protocol, scope, kind, 0)
    return head + (attr(1, network.network_address.packed) if network.prefixlen else b"") + extra


def replace_route(
    netlink: Netlink, network: IPv4Network, index: int, gateway: IPv4Address | None = None
) -> None:
    """Send `network` through a link, straight or by a gateway."""
    scope = _SCOPE_LINK if gateway is None else _SCOPE_UNIVERSE
    extra = u32(4, index) + (attr(5, gateway.packed) if gateway is not None else b"")
    netlink.request(_NEWROUTE, CREATE | REPLACE, _route(_UNICAST, scope, network, extra))


def claim_route(netlink: Netlink, network: IPv4Network) -> None:
    """Mark a range as taken: what isn't routed more precisely is unreachable, and never leaves by the default route."""
    netlink.request(_NEWROUTE, CREATE | EXCL, _route(_UNREACHABLE, _SCOPE_UNIVERSE, network, b""))


def unclaim_route(netlink: Netlink, network: IPv4Network) -> None:
    """The reverse of `claim_route`; a route that is gone is no error."""
    try:
        netlink.request(_DELROUTE, 0, _route(_UNREACHABLE, _SCOPE_UNIVERSE, network, b"", _ANY))
    except OSError as error:
        if error.errno != errno.ESRCH:
            raise


def routes(netlink: Netlink) -> list[Route]:
    """This host's IPv4 routes, of every table."""
    found = []
    for message in netlink.dump(_GETROUTE, _RTMSG.pack(_INET, 0, 0, 0, 0, 0, 0, 0, 0)):
        if message.type != _NEWROUTE:
            continue
        length = message.body[1]
        have = attrs(message.body[_RTMSG.size :])
        network = IPv4Network((have[1], length)) if 1 in have else _EVERYWHERE
        found.append(Route(network, struct.unpack("=I", have[4])[0] if 4 in have else 0))
    return found


def way_out_mtu(netlink: Netlink) -> int:
    """The largest packet that every default route takes, bytes. A sandbox that offers more would, where ICMP is lost,
    have connections that stall."""
    outward = {route.index for route in routes(netlink) if route.network == _EVERYWHERE}
    return min((link.mtu for link in links(netlink) if link.index in outward), default=_ETHERNET)


def add_neighbour(netlink: Netlink, index: int, address: IPv4Address, mac: bytes) -> None:
    """Write down who has an address, for ever: nobody asks for it, and nobody can answer wrongly."""
    body = struct.pack("=BxxxiHBB", _INET, index, 0x80, 0, _UNICAST)  # NUD_PERMANENT
    netlink.request(_NEWNEIGH, CREATE | REPLACE, body + attr(1, address.packed) + attr(2, mac))
