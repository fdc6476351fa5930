"""Whether a request comes from this machine itself: what makes `/metrics` answer without a key.

An address of the loopback is not enough: behind a proxy on this machine everybody has one. So a request counts as local
only when nothing about it says that somebody passed it on; where a proxy is trusted, the address that it vouches for counts.
A name in Host that is not the loopback's own is refused too: a web page that a person opens on this machine could reach
us under a name of its own (DNS rebinding).
"""

from __future__ import annotations

import ipaddress

from hearth.gateway.connection import Connection
from hearth.gateway.forwarded import origin
from hearth.gateway.request import Request

LOCAL = b"x-hearth-local"  # the header by which control is told; never taken from a client
_FORWARDED = (
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-forwarded-prefix",
    b"forwarded",
)
_ALSO = (b"via:", b"x-real-ip:", b"x-forwarded-", b"x-client-ip:", b"true-client-ip:", b"cf-connecting-ip:")


def is_local(connection: Connection, request: Request) -> bool:
    """Whether it was sent on this machine, by who asks himself."""
    special = request.special
    passed_on = any(name in special for name in _FORWARDED) or any(
        line.startswith(_ALSO) for line in request.lines
    )
    if passed_on:
        chain = special.get(b"x-forwarded-for", b"").split(b",")
        if not connection.proxies or not all(_is_loopback(part) for part in chain):
            return False
    return _is_loopback(origin(connection, request)[0]) and _names_loopback(request.host)


def _is_loopback(text: bytes) -> bool:
    try:
        address = ipaddress.ip_address(text.strip(b" \t").decode("ascii"))
    except (ValueError, UnicodeDecodeError):
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _names_loopback(host: bytes) -> bool:
    """Whether a Host header (RFC 9110, section 7.2) is ``localhost`` or an address of the loopback, with any port."""
    name = host[1 : host.find(b"]")] if host.startswith(b"[") else host.partition(b":")[0]
    return name.lower() == b"localhost" or _is_loopback(name)
