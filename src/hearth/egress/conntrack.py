"""Cutting flows that are already established: the packet filter's sets only decide about new ones.

Done as `conntrack -D -s ADDRESS` does it (list, then delete each by its own tuple), without the process.
Source: linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import errno
import struct
from ipaddress import IPv4Address, IPv4Network

from hearth.egress.netlink import Netlink, attr, attrs

_CTNETLINK = 1 << 8
_NEW, _GET, _DELETE = _CTNETLINK | 0, _CTNETLINK | 1, _CTNETLINK | 2
_TUPLE_ORIG, _ZONE, _ID, _FILTER = 1, 18, 12, 25
_TUPLE_IP, _IP_V4_SRC = 1, 1
_FILTER_ORIG_FLAGS, _FILTER_IP_SRC = 1, 1 << 0
_NESTED = 0x8000
_HEAD = struct.pack("=BBH", 2, 0, 0)  # AF_INET, NFNETLINK_V0


def cut(netlink: Netlink, sources: IPv4Address | IPv4Network) -> int:
    """Forget every flow that these addresses began; returns how many.

    Args:
        netlink: a socket of `NETFILTER`.
        sources: one address, or a range.

    Raises:
        OSError: as the kernel said it.
    """
    wanted = IPv4Network(sources)
    query = _HEAD
    if wanted.prefixlen == 32:  # the kernel does the sieving (5.8 and newer; others list all, and we sieve)
        source = attr(_TUPLE_IP | _NESTED, attr(_IP_V4_SRC, wanted.network_address.packed))
        query += attr(_TUPLE_ORIG | _NESTED, source)
        query += attr(_FILTER | _NESTED, attr(_FILTER_ORIG_FLAGS, struct.pack("=I", _FILTER_IP_SRC)))
    count = 0
    for message in _list(netlink, query):
        have = attrs(message)
        address = attrs(attrs(have.get(_TUPLE_ORIG, b"")).get(_TUPLE_IP, b"")).get(_IP_V4_SRC)
        if address is None or IPv4Address(address) not in wanted:
            continue
        body = _HEAD + attr(_TUPLE_ORIG | _NESTED, have[_TUPLE_ORIG])
        body += b"".join(attr(kind, have[kind]) for kind in (_ZONE, _ID) if kind in have)
        try:
            netlink.request(_DELETE, 0, body)
            count += 1
        except OSError as error:
            if error.errno != errno.ENOENT:  # it ended by itself
                raise
    return count


def _list(netlink: Netlink, query: bytes) -> list[bytes]:
    try:
        found = netlink.dump(_GET, query)
    except OSError as error:
        if error.errno != errno.EINVAL or query == _HEAD:
            raise
        found = netlink.dump(_GET, _HEAD)  # a kernel that doesn't know the filter
    return [message.body[len(_HEAD) :] for message in found if message.type == _NEW]
