"""A function's response head as the client gets it: cleaned of what could reach beyond the function."""

from __future__ import annotations

from http import HTTPStatus

SANDBOX = b"content-security-policy: sandbox allow-scripts allow-forms allow-popups allow-downloads\r\n"
_DROPPED = frozenset(
    (
        b"alt-svc",
        b"clear-site-data",
        b"connection",
        b"content-length",  # written anew, from the body or from what the guest announced
        b"date",
        b"keep-alive",
        b"proxy-connection",
        b"server-timing",  # ours; a client that trusts it must not be lied to
        b"service-worker-allowed",
        b"strict-transport-security",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-request-id",
    )
)
_NOT_TRAILERS = _DROPPED | {
    b"set-cookie",
    b"content-type",
    b"content-encoding",
    b"content-range",
    b"host",
    b"location",
}
OWN_COOKIES = b"hearth_"  # names of Hearth's own cookies begin so
_REMEMBERED, _REMEMBERED_SIZE = 1024, 2048  # heads, and bytes of one


class Head:
    """A translated head.

    Args:
        start: status line and headers, each with its CRLF.
        status: of the answer.
        length: content-length that the function announced, or -1.
        empty: an answer of this status never has a body (RFC 9110, section 6.4.1).
    """

    __slots__ = ("empty", "length", "start", "status")

    def __init__(self, start: bytes, status: int, length: int) -> None:
        self.start = start
        self.status = status
        self.length = length
        self.empty = status in (204, 304)


class Heads:
    """Translates response heads; equal ones are translated once. Bounded."""

    __slots__ = ("known",)

    def __init__(self) -> None:
        self.known: dict[bytes, Head] = {}

    def translate(self, status: int, head: bytes, prefix: bytes) -> Head:
        """The head for clients of the function below `prefix`. `head` is well-formed: the guest's side checked it."""
        found = self.known.get(head)
        if found is not None and found.status == status:
            return found
        made, shared = _translate(status, head, prefix)
        if shared and len(head) <= _REMEMBERED_SIZE:
            if len(self.known) >= _REMEMBERED:
                self.known.clear()
            self.known[head] = made
        return made


def status_line(status: int) -> bytes:
    """``HTTP/1.1 200 OK`` with its CRLF."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase.encode())


def _translate(status: int, head: bytes, prefix: bytes) -> tuple[Head, bool]:
    """The head, and whether it is the same for every function."""
    out, length, shared = [status_line(status)], -1, True
    for line in head.split(b"\n") if head else ():
        name, _, value = line.partition(b":")
        value = value.strip(b" \t")
        if name == b"set-cookie":
            shared = False
            cookie = own_cookie(value, prefix)
            if cookie is None:
                continue
            value = cookie
        elif name == b"content-length":
            length = int(value)
            continue
        elif name in _DROPPED or name.startswith(b"x-hearth-"):
            continue
        out.append(b"%b: %b\r\n" % (name, value))
    return Head(b"".join(out), status, length), shared


def own_cookie(value: bytes, prefix: bytes) -> bytes | None:
    """A cookie that reaches its function only, or None when it can't be made so.

    Other functions and the dashboard share the origin, so Path is the function's own (a narrower one stays) and Domain
    goes (RFC 6265, section 5.1.4). ``__Host-`` demands Path=/ and can't be given.
    """
    pair, *attributes = value.split(b";")
    name = pair.partition(b"=")[0].strip(b" \t").lower()
    if name.startswith((b"__host-", OWN_COOKIES)):
        return None
    path, kept = prefix, [pair]
    for attribute in attributes:
        key, _, text = attribute.partition(b"=")
        key = key.strip(b" \t").lower()
        if key == b"path":
            text = text.strip(b" \t")
            inside = text == prefix or text.startswith(prefix + b"/")
            path = text if inside and b".." not in text and b"%" not in text else prefix
        elif key != b"domain":
            kept.append(attribute)
    return b";".join((*kept, b" Path=" + path))


def trailer_lines(head: bytes) -> bytes:
    """Trailers as HTTP/1.1 writes them, without what must not be one (RFC 9110, section 6.5.1)."""
    out = []
    for line in head.split(b"\n") if head else ():
        name, _, value = line.partition(b":")
        if name not in _NOT_TRAILERS and not name.startswith(b"x-hearth-"):
            out.append(b"%b: %b\r\n" % (name, value.strip(b" \t")))
    return b"".join(out)


def without_own_cookies(cookie: bytes) -> bytes:
    """A Cookie header without Hearth's own; may come out empty."""
    return b";".join(
        pair for pair in cookie.split(b";") if not pair.strip(b" \t").lower().startswith(OWN_COOKIES)
    ).strip(b" \t")
