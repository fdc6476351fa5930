"""One parsed request: what a handler needs to know of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hearth.gateway.errors import Malformed

HOST = re.compile(
    rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?"
)  # RFC 3986, section 3.2.2
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)(.*)", re.DOTALL)

# Headers that mean something to the gateway; every other one is passed on as it came. All hop-by-hop ones of
# RFC 9110, section 7.6.1, are here, so none of them is passed on.
SPECIAL = frozenset(
    (
        b"authorization",
        b"connection",
        b"content-length",
        b"cookie",
        b"expect",
        b"forwarded",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"traceparent",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
        b"x-request-id",
    )
)
_JOINED = {b"cookie": b"; ", b"connection": b",", b"x-forwarded-for": b", ", b"te": b",", b"keep-alive": b","}
NONE: dict[bytes, bytes] = {}  # never written to


class Request:
    """The head, and as much of the body as came before a handler took over.

    Args:
        method: as received, such as ``GET``.
        target: path and query, percent-encoding as received.
        host: of the one Host header or the absolute form; empty for HTTP/1.0 without.
        lines: ``name:value`` of headers that are passed on, names in lower case.
        special: the headers of `SPECIAL` and ``x-hearth-…``.
        length: announced bytes of the body; None: it is chunked.

    `plain` says that none of this asks for more than the common case: no body, no header that means something here, a
    connection that goes on, an answer that may have a body. An equal head can then be answered with this very object.
    """

    # Class attributes are what most requests never change: an object is made for each, so it sets only what it must.
    expects = False  # waits for 100 Continue before it sends its body
    body: Sequence[bytes] = ()
    size = 0  # bytes of the body that have come
    complete = False
    key = (b"", b"")  # namespace and function; set by the door
    path = b""  # what the function sees
    delivered = False  # a handler has been told that the body is complete
    told: tuple[object, bytes, bytes] = (None, b"", b"")  # the last version, and `forwarded.tell` for it

    def __init__(
        self,
        method: bytes,
        target: bytes,
        host: bytes,
        lines: list[bytes],
        special: dict[bytes, bytes],
        length: int | None,
        http10: bool,
        keep_alive: bool,
    ) -> None:
        self.method = method
        self.target = target
        self.host = host
        self.lines = lines
        self.special = special
        self.length = length
        self.http10 = http10
        self.keep_alive = keep_alive
        self.plain = length == 0 and not special and keep_alive and not http10 and method != b"HEAD"

    def add(self, data: bytes) -> None:
        """More of the body has come."""
        self.size += len(data)
        if isinstance(self.body, list):
            self.body.append(data)
        else:
            self.body = [data]

    @property
    def addressed(self) -> bool:
        """Whether it has a header of Hearth's own: a key, a version, an alias, a trace."""
        return any(name.startswith(b"x-hearth-") for name in self.special)

    def take_body(self) -> bytes:
        """What has come of the body, for who takes the request over."""
        self.delivered = self.complete
        if not self.body:
            return b""
        body, self.body = self.body, ()
        return body[0] if len(body) == 1 else b"".join(body)


def add_special(special: dict[bytes, bytes], name: bytes, value: bytes) -> None:
    """Note one of the special headers. Raises Malformed for one that must not be repeated."""
    before = special.get(name)
    if before is None:
        special[name] = value
        return
    glue = _JOINED.get(name)
    if glue is None:
        raise Malformed(f"more than one {name.decode('latin-1')} header")
    special[name] = before + glue + value


def normalise(target: bytes, host: bytes) -> tuple[bytes, bytes]:
    """Bring a request target to origin form; returns (target, host) (RFC 9112, section 3.2).

    Raises:
        Malformed: authority or asterisk form, or a fragment; a proxy is not what this is.
    """
    if target[:1] != b"/":
        match = _ABSOLUTE.fullmatch(target)
        if match is None or not match[1] or b"@" in match[1] or HOST.fullmatch(match[1]) is None:
            raise Malformed("the request target must be a path", hint="this is no proxy")
        host, target = match[1], match[2]
        if target[:1] != b"/":
            target = b"/" + target
    if b"#" in target:
        raise Malformed("the request target has a fragment")
    return target, host


def without_named(lines: list[bytes], connection: bytes) -> list[bytes]:
    """Drop the headers that a Connection header names."""
    named = {name.strip(b" \t").lower() for name in connection.split(b",")} - {b"close", b"keep-alive", b""}
    if not named:
        return lines
    return [line for line in lines if line.partition(b":")[0] not in named]
