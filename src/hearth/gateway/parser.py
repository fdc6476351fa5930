"""Bytes of one connection become requests (RFC 9112): strict, bounded, and without acting on what is read.

httptools has no limits and no pause, so it is fed in pieces: a head at most up to its end, a body at most up to its
announced end, a chunked body in pieces too small to hold many heads. Its callbacks only note what was seen.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache

import httptools

from hearth.core import limits
from hearth.core.errors import HearthError
from hearth.gateway.errors import HeadersTooLarge, Malformed, UriTooLong
from hearth.gateway.request import HOST, NONE, SPECIAL, Request, add_special, normalise, without_named

END = b"\r\n\r\n"
_PIECE = 800  # of a chunked body: holds at most 30 heads, each at least 26 bytes
_HEAD_MAX = limits.URL_MAX + limits.HEADER_BYTES_MAX


class Parser:
    """What has been read and not yet been acted upon: `heads`, `receiving`, `fault`."""

    __slots__ = (
        "_good_host",
        "_host",
        "_inner",
        "_lines",
        "_muted",
        "_special",
        "_url",
        "fault",
        "head_bytes",
        "heads",
        "receiving",
    )

    def __init__(self) -> None:
        self.heads: deque[Request] = deque()  # requests whose head has been read, in order
        self.receiving: Request | None = None  # the last of them, while its body is still coming
        self.fault: HearthError | None = None  # why nothing more can be read
        self.head_bytes = 0  # of the head that is coming, or of a chunked body since its last byte of content
        self._inner = httptools.HttpRequestParser(self)
        self._url = b""
        self._good_host = b""  # the last one that was looked at
        self._host: bytes | None = None
        self._lines: list[bytes] = []
        self._special = NONE
        self._muted = False

    def feed(self, data: bytes | memoryview) -> None:
        """Read a piece, no longer than `cut` says."""
        receiving = self.receiving
        if receiving is None or receiving.length is None:
            self.head_bytes += len(data)
        try:
            self._inner.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._without_upgrade()
            if rest := data[upgrade.args[0] :]:
                self.feed(rest)
        except httptools.HttpParserError as error:
            if self.fault is None:
                self.fault = Malformed(f"this is no well-formed HTTP/1.1: {error}")
        if self.head_bytes > _HEAD_MAX and self.fault is None:
            self.fault = self._too_large()

    def cut(self, data: memoryview) -> int:
        """How many bytes to feed next: to the end of a head or of an announced body, or a small piece."""
        request = self.receiving
        if request is not None:
            return min(len(data), _PIECE if request.length is None else request.length - request.size)
        found = bytes(data[:_HEAD_MAX]).find(END)
        return found + 4 if found >= 0 else min(len(data), _HEAD_MAX)

    # httptools

    def on_url(self, url: bytes) -> None:
        if not self._muted:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._muted or self.receiving is not None:
            return  # trailers are not passed on (RFC 9110, section 6.5.1, allows it)
        name, special = _known(name)
        value = value.strip(b" \t")
        if not special:
            self._lines.append(name + b":" + value)
        elif name == b"host":
            if self._host is not None:
                self.fault = Malformed("more than one Host header")
            self._host = value
        else:
            if self._special is NONE:
                self._special = {}
            try:
                add_special(self._special, name, value)
            except Malformed as error:
                self.fault = error

    def on_headers_complete(self) -> None:
        if self._muted or self.fault is not None:
            return
        try:
            request = self._request()
        except HearthError as error:
            self.fault = error
            return
        self._url, self._host, self._lines, self._special, self.head_bytes = b"", None, [], NONE, 0
        self.receiving = request
        self.heads.append(request)

    def on_body(self, body: bytes) -> None:
        request = self.receiving
        if request is not None:
            self.head_bytes = 0
            request.add(body)

    def on_message_complete(self) -> None:
        request = self.receiving
        if request is not None and not (request.length != 0 and self._inner.should_upgrade()):
            request.complete = True
            self.receiving = None

    # Inside.

    def _request(self) -> Request:
        """The request of the head that has been read. Raises Malformed, UriTooLong, HeadersTooLarge."""
        special, host = self._special, self._host
        keep_alive = self._inner.should_keep_alive()
        # Without a Connection header only HTTP/1.1 keeps alive; the version's text costs more than this question.
        known = keep_alive and b"connection" not in special
        version = "1.1" if known else self._inner.get_http_version()
        if version not in ("1.1", "1.0") or (host is None and version == "1.1"):
            raise Malformed("HTTP/1.1 with exactly one Host header is needed")
        if host is not None and host != self._good_host:
            if HOST.fullmatch(host) is None:
                raise Malformed("the Host header is malformed")
            self._good_host = host
        if len(self._url) > limits.URL_MAX:
            raise UriTooLong(f"the URL is longer than {limits.URL_MAX} bytes")
        if len(self._lines) + len(special) > limits.HEADER_FIELDS_MAX or self.head_bytes > _HEAD_MAX:
            raise self._too_large()
        target, host = normalise(self._url, host or b"")
        http10 = version == "1.0"
        length: int | None = 0
        lines = self._lines
        if special:
            length = _body_length(special, http10)
            connection = special.get(b"connection")
            if connection is not None:
                lines = without_named(lines, connection)
        request = Request(self._inner.get_method(), target, host, lines, special, length, http10, keep_alive)
        if special and b"expect" in special:
            if special[b"expect"].lower() != b"100-continue":
                raise Malformed("an Expect other than 100-continue")
            request.expects = not http10 and length != 0
        return request

    def _without_upgrade(self) -> None:
        """httptools stops at an Upgrade, which is refused by being ignored (RFC 9110, section 7.8): go on with a fresh
        one, which is told nothing but the framing of the body that comes."""
        self._inner = httptools.HttpRequestParser(self)
        request = self.receiving
        if request is not None:
            framing = b"transfer-encoding:chunked"
            if request.length is not None:
                framing = b"content-length:%d" % request.length
            self._muted = True
            self._inner.feed_data(b"POST / HTTP/1.1\r\nhost:x\r\n" + framing + END)
            self._muted = False

    def _too_large(self) -> HearthError:
        if self.receiving is None and len(self._url) + 64 >= limits.URL_MAX:
            return UriTooLong(f"the URL is longer than {limits.URL_MAX} bytes")
        return HeadersTooLarge(
            f"the headers are larger than {limits.HEADER_BYTES_MAX} bytes or more than {limits.HEADER_FIELDS_MAX}"
        )


@lru_cache(1024)
def _known(name: bytes) -> tuple[bytes, bool]:
    """A header's name in lower case, and whether the header is the gateway's own affair."""
    name = name.lower()
    return name, name == b"host" or name in SPECIAL or name.startswith(b"x-hearth-")


def _body_length(special: dict[bytes, bytes], http10: bool) -> int | None:
    """Announced bytes of the body; None: chunked (RFC 9112, section 6.3). httptools has refused both at once."""
    coding = special.get(b"transfer-encoding")
    if coding is None:
        return int(special.get(b"content-length", b"0"))
    if coding.lower() != b"chunked" or http10:
        raise Malformed("Transfer-Encoding other than chunked")
    return None
