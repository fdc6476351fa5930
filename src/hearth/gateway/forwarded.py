"""What a request says of where it comes from, and what a function is told: made here, believed from proxies we trust."""

from __future__ import annotations

import ipaddress

from hearth.core.permissions import Principal
from hearth.core.routing import Deployed
from hearth.gateway import auth
from hearth.gateway.connection import Connection, Networks
from hearth.gateway.heads import OWN_COOKIES, without_own_cookies
from hearth.gateway.request import HOST, TRACEPARENT, Request


def parse_networks(texts: tuple[str, ...]) -> Networks:
    """CIDRs of trusted proxies. Raises ValueError."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def is_trusted(address: str, trusted: Networks) -> bool:
    """Whether an address is a proxy whose X-Forwarded-* are believed."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed.version == network.version and parsed in network for network in trusted)


def _is_address(text: bytes) -> bool:
    try:
        ipaddress.ip_address(text.decode("ascii"))
    except (ValueError, UnicodeDecodeError):
        return False
    return True


def origin(connection: Connection, request: Request) -> tuple[bytes, bytes, bytes, bytes]:
    """(client's address, scheme, host, X-Forwarded-For) of a request.

    Behind a trusted proxy the client is the last address in X-Forwarded-For that is not itself a trusted proxy;
    what stands before it was written by somebody whom nobody vouches for.
    """
    special, peer, host = request.special, connection.client, request.host
    if not connection.proxies or not special:
        return peer, b"http", host, peer
    chain = [part.strip(b" \t") for part in special.get(b"x-forwarded-for", b"").split(b",")]
    client = peer
    for part in reversed(chain):
        if not _is_address(part):
            break
        client = part
        if not is_trusted(part.decode(), connection.proxies):
            break
    scheme = special.get(b"x-forwarded-proto", b"http").lower()
    named = special.get(b"x-forwarded-host", host)
    passed = b", ".join([part for part in chain if _is_address(part)] + [peer])
    return (
        client,
        scheme if scheme in (b"http", b"https") else b"http",
        named if HOST.fullmatch(named) else host,
        passed,
    )


def told_origin(connection: Connection, request: Request) -> tuple[bytes, bytes]:
    """What a function is told of a request's origin, as lines of a request head: (client and scheme, headers)."""
    client, scheme, host, passed = origin(connection, request)
    return (
        client + b"\n" + scheme,
        b"host:%b\nx-forwarded-for:%b\nx-forwarded-proto:%b\nx-forwarded-host:%b\nx-forwarded-prefix:"
        % (request.host, passed, scheme, host),
    )


def traced(request: Request, ours: bytes) -> bytes:
    """The trace context that came with a request if it is well-formed, else ours."""
    theirs = request.special.get(b"traceparent")
    return theirs if theirs is not None and TRACEPARENT.fullmatch(theirs) else ours


def tell(
    connection: Connection, request: Request, version: Deployed, principal: Principal | None
) -> tuple[bytes, bytes]:
    """What a guest is told of a request, to stand in the head of its frame (docs/reference/guest-protocol.md, "Heads")
    between the deadline and the request's id, and after the trace context.

    Those three differ from request to request. The rest is put together once for a request that comes again, byte by byte,
    on its connection (`Request.told`), and a guest can know it again.
    """
    front, back = _told(connection, request, version, principal)
    if request.plain:
        request.told = version, front, back
    return front, back


def _told(
    connection: Connection, request: Request, version: Deployed, principal: Principal | None
) -> tuple[bytes, bytes]:
    prefix, caller, lines = version.prefix, b"", request.lines
    if request.special:
        peer, origin_lines = told_origin(connection, request)
        lines = _special_lines(request, version.public) + request.lines
    else:
        if connection.origin_host != request.host:
            connection.origin_host, connection.origin = request.host, told_origin(connection, request)
        peer, origin_lines = connection.origin
    if principal is not None:
        caller = principal.label.encode()
        lines = [b"x-hearth-caller:" + caller, *lines]
    front = b"\n%b\n%b\n%b\n%b\n%b\nx-request-id:" % (request.method, request.path, prefix, caller, peer)
    return front, b"\n".join((b"\n" + origin_lines + prefix, *lines))


def _special_lines(request: Request, public: bool) -> list[bytes]:
    """Of the special headers, those that a function may see; no credential that Hearth used is among them."""
    special, lines = request.special, []
    cookie = special.get(b"cookie")
    if cookie is not None and OWN_COOKIES in cookie.lower():
        cookie = without_own_cookies(cookie)
    if cookie:
        lines.append(b"cookie:" + cookie)
    authorization = special.get(b"authorization")
    if authorization is not None and (public or auth.bearer(special) is None):
        lines.append(b"authorization:" + authorization)
    if request.length:
        lines.append(b"content-length:%d" % request.length)
    return lines
