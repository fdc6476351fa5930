"""One client's connection: HTTP/1.1 (RFC 9112) parsed strictly, one request in work at a time, everything bounded.

httptools has no limits and no pause, so bytes are fed to it in pieces: a head at most up to its end, a body at most up
to its announced end, a chunked body in pieces too small to hold many heads. Nothing is fed while a complete request is
in work; what comes meanwhile is kept, and reading pauses beyond 16 KiB. The parser's callbacks only note what was
seen; `_advance` acts on it.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from hearth.core import limits
from hearth.core.errors import HearthError
from hearth.gateway.errors import HeadersTooLarge, Malformed, RequestTimeout, UriTooLong
from hearth.gateway.request import HOST, NONE, SPECIAL, Request, add_special, normalise, without_named

Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
AHEAD = 16 << 10  # bytes that may come while a request is in work
SMALL_BODY = 64 << 10  # a body up to this size is complete before anybody is bothered with it
LINGER = 2.0  # seconds that a refused client may go on sending, so that it reads the answer before a reset
_PIECE = 800  # of a chunked body: holds at most 30 heads, each at least 26 bytes
_WRITE_HIGH = 256 << 10  # bytes in the transport from which on answers stop giving credit
_HEAD_MAX = limits.URL_MAX + limits.HEADER_BYTES_MAX
_LAST_MAX = 4 << 10  # bytes of a head that is remembered
_END = b"\r\n\r\n"


class Handler(Protocol):
    """Answers one request; speaks to the client through the connection."""

    def body(self, data: bytes, end: bool) -> None:
        """More of the request's body."""
        ...

    def gone(self) -> None:
        """The client has left; nothing can be answered any more."""
        ...

    def broken(self, error: HearthError) -> None:
        """The rest of the request's body is malformed or too late; nothing more of it comes."""
        ...

    def drained(self) -> None:
        """The client has taken what was written, after `Connection.full`."""
        ...

    def expire(self, now: float) -> None:
        """`Connection.expires` has passed."""
        ...


class Front(Protocol):
    """What a connection needs of the door that it came through."""

    loop: asyncio.AbstractEventLoop
    draining: bool

    def now(self) -> float: ...

    def opened(self, connection: Connection) -> None:
        """Sets `client`, `proxies` and the first deadline."""
        ...

    def closed(self, connection: Connection) -> None: ...

    def handle(self, connection: Connection, request: Request) -> None:
        """Give a request to a handler."""
        ...

    def refuse(self, connection: Connection, error: HearthError) -> None:
        """Write an error for what is no request."""
        ...


class Connection(asyncio.Protocol):
    """The server's side of one connection. Made by the door for each accepted socket."""

    def __init__(self, door: Front) -> None:
        self.door = door
        self.transport: asyncio.Transport
        self.client = b""
        self.proxies: Networks = ()  # where this client is one of them, the proxies that are believed
        self.expires = 0.0  # monotonic seconds; the door's sweep calls `expire` after it
        self.full = False  # the client takes less than is written
        self.closing = False
        self.handler: Handler | None = None
        self.current: Request | None = None  # in work
        self._parser = httptools.HttpRequestParser(self)
        self._feed_one = self._parser.feed_data
        self._queue: deque[Request] = deque()  # parsed ahead, behind `current`
        self._receiving: Request | None = None  # whose body is coming
        self._held = b""  # came while nothing could be fed
        self._paused = False
        self._body_paused = False
        self._fault: HearthError | None = None
        self._url = b""
        self._host: bytes | None = None
        self._lines: list[bytes] = []
        self._special = NONE
        self._head_bytes = (
            0  # of the head that is coming, or of a chunked body since its last byte of content
        )
        self._muted = False
        self._last = b""  # bytes of the last head, and what was parsed of them
        self._same: Request | None = None
        self.write: Callable[[bytes], None]
        self.origin_host: bytes | None = None  # for whom `origin` was made
        self.origin = (b"", b"")

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_WRITE_HIGH)
        self.write = self.transport.write
        self.door.opened(self)

    def data_received(self, data: bytes) -> None:
        if self.current is not None or self._held or self._queue or self.closing:
            self._hold_or_feed(data)
        elif data == self._last and not self._head_bytes:
            self.current = self._same  # who asks the same again is not read again
            self._advance()
        elif data.find(_END) + 4 == len(data):
            whole = not self._head_bytes
            self._head_bytes += len(data)  # the common case: exactly the rest of one head
            self._feed(data)
            request = self.current
            if (
                whole
                and request is not None
                and request.complete
                and request.repeatable
                and len(data) <= _LAST_MAX
            ):
                self._last, self._same = data, request
            self._advance()
        else:
            self._feed_pieces(data)

    def eof_received(self) -> bool:
        return False  # a client that stops sending has left: HTTP has no other way to say so

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self.handler is not None:
            self.handler.drained()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        self.door.closed(self)
        handler, self.handler, self.current = self.handler, None, None
        self._queue.clear()
        if handler is not None:
            handler.gone()

    # httptools; only notes.

    def on_url(self, url: bytes) -> None:
        if not self._muted:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        value = value.strip(b" \t")
        if self._muted or self._receiving is not None:
            return  # trailers are not passed on (RFC 9110, section 6.5.1, allows it)
        if name == b"host":
            if self._host is not None:
                self._fault = Malformed("more than one Host header")
            self._host = value
        elif name in SPECIAL or name[:9] == b"x-hearth-":
            if self._special is NONE:
                self._special = {}
            try:
                add_special(self._special, name, value)
            except Malformed as error:
                self._fault = error
        else:
            self._lines.append(name + b":" + value)

    def on_headers_complete(self) -> None:
        if self._muted or self._fault is not None:
            return
        try:
            request = self._make_request()
        except HearthError as error:
            self._fault = self._fault or error
            return
        self._url, self._host, self._lines, self._special, self._head_bytes = b"", None, [], NONE, 0
        self._receiving = request
        if self.current is None:
            self.current = request
        else:
            self._queue.append(request)

    def on_body(self, body: bytes) -> None:
        request = self._receiving
        if request is not None:
            self._head_bytes = 0
            request.size += len(body)
            request.body.append(body)

    def on_message_complete(self) -> None:
        request = self._receiving
        if request is not None and not (self._parser.should_upgrade() and self._expects_body(request)):
            request.complete = True
            self._receiving = None

    # What handlers use.

    def pause_body(self) -> None:
        """Take no more of the body that is coming."""
        self._body_paused = True
        self._pause()

    def resume_body(self) -> None:
        """Take more of it again."""
        if self._body_paused:
            self._body_paused = False
            self.door.loop.call_soon(self._go_on)

    def closing_header(self, request: Request) -> bytes:
        """The Connection header of an answer; after this answer the connection closes if it says so."""
        if not request.keep_alive or self.door.draining or not request.complete:
            request.keep_alive = False
            return b"connection: close\r\n"
        return b"connection: keep-alive\r\n" if request.http10 else b""

    def answered(self, request: Request, now: float) -> None:
        """The answer to `request`, the current one, is written: go on with the next."""
        self.handler = None
        self.current = None
        if not request.keep_alive:
            self._end(not request.complete)
            return
        self.expires = now + limits.KEEP_ALIVE_TIMEOUT
        if self._held or self._queue or self._paused or self._fault is not None:
            self.door.loop.call_soon(self._go_on)

    def cut(self) -> None:
        """End an answer that can't be finished, so that the client sees that it is not whole."""
        self.handler = None
        self.closing = True
        self.transport.abort()

    def expire(self, now: float) -> None:
        """`expires` has passed: the handler's affair, or a client that is slow or idle."""
        if self.handler is not None:
            self.handler.expire(now)
        elif self.transport.is_closing():
            self.transport.abort()
        elif self.closing or not (self._head_bytes or self.current):
            self.closing = True
            self.expires = now + LINGER
            self.transport.close()
        else:
            self._refuse(
                RequestTimeout("the request did not come in time", hint="send it without long pauses")
            )

    @property
    def idle(self) -> bool:
        """Between two requests, with nothing of the next one."""
        return self.current is None and not self._head_bytes and not self._held

    # Feeding.

    def _feed(self, data: bytes | memoryview) -> None:
        try:
            self._feed_one(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._without_upgrade()
            if rest := data[upgrade.args[0] :]:
                self._feed(rest)
        except httptools.HttpParserError as error:
            if self._fault is None:
                self._fault = Malformed(f"this is no well-formed HTTP/1.1: {error}")

    def _feed_pieces(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and self._fault is None and not self.closing:
            if self.current is not None and (self._receiving is None or self._body_paused):
                self._held = bytes(rest)
                break
            cut = self._cut(rest)
            if self._receiving is None or self._receiving.length is None:
                self._head_bytes += cut
            self._feed(rest[:cut])
            rest = rest[cut:]
            if self._head_bytes > _HEAD_MAX:
                self._too_large()
        self._advance()

    def _cut(self, data: memoryview) -> int:
        """How many bytes to feed next: to the end of a head or of an announced body, or a small piece."""
        request = self._receiving
        if request is not None:
            return min(len(data), _PIECE if request.length is None else request.length - request.size)
        found = bytes(data[:_HEAD_MAX]).find(_END)
        return found + 4 if found >= 0 else min(len(data), _HEAD_MAX)

    def _hold_or_feed(self, data: bytes) -> None:
        if self.closing:
            return  # lingering: read and dropped
        if self._held or self._receiving is None or self._body_paused:
            self._held += data
            if len(self._held) > AHEAD:
                self._pause()
        else:
            self._feed_pieces(data)

    def _go_on(self) -> None:
        """A request has been answered or there is room for its body: take what waits."""
        if self.closing or self._body_paused:
            return
        if self.current is None and self._queue:
            self.current = self._queue.popleft()
        if self._held and (self.current is None or self._receiving is not None):
            held, self._held = self._held, b""
            self._feed_pieces(held)
        else:
            self._advance()
        if self._paused and len(self._held) <= AHEAD and not self._body_paused and not self.closing:
            self._paused = False
            self.transport.resume_reading()

    def _advance(self) -> None:
        """Act on what the parser has noted."""
        request, fault = self.current, self._fault
        if request is None:
            if fault is None and self._head_bytes > _HEAD_MAX:
                self._too_large()
                fault = self._fault
            if fault is not None:
                self._refuse(fault)
            elif self._head_bytes:
                self.expires = min(self.expires, self.door.now() + limits.HEADER_TIMEOUT)
        elif fault is not None and not request.complete:
            if self.handler is None:
                self._refuse(fault)
            else:
                self.handler.broken(fault)
        elif self.handler is None:
            if request.complete or request.expects or (request.length or request.size) > SMALL_BODY:
                self.door.handle(self, request)
            else:
                self.expires = self.door.now() + limits.BODY_TIMEOUT
        elif request.body or (request.complete and not request.delivered):
            request.delivered = request.complete
            body, request.body = request.body, []
            self.handler.body(b"".join(body), request.complete)

    def _make_request(self) -> Request:
        parser, special = self._parser, self._special
        keep_alive, host = parser.should_keep_alive(), self._host
        # Without a Connection header only HTTP/1.1 keeps alive; the version's text costs more than this question.
        version = "1.1" if keep_alive and not special else parser.get_http_version()
        if version not in ("1.1", "1.0") or (host is None and version == "1.1"):
            raise Malformed("HTTP/1.1 with exactly one Host header is needed")
        if host is not None and HOST.fullmatch(host) is None:
            raise Malformed("the Host header is malformed")
        if len(self._url) > limits.URL_MAX:
            raise UriTooLong(f"the URL is longer than {limits.URL_MAX} bytes")
        if len(self._lines) + len(special) > limits.HEADER_FIELDS_MAX:
            raise HeadersTooLarge(f"more than {limits.HEADER_FIELDS_MAX} headers")
        if self._head_bytes > _HEAD_MAX:
            raise HeadersTooLarge(f"the headers are larger than {limits.HEADER_BYTES_MAX} bytes")
        target, host = normalise(self._url, host or b"")
        http10 = version == "1.0"
        length: int | None = 0
        lines = self._lines
        if special:
            coding = special.get(b"transfer-encoding")
            if coding is not None:
                if coding.lower() != b"chunked" or http10:
                    raise Malformed("Transfer-Encoding other than chunked")
                length = None
            else:
                length = int(special.get(b"content-length", b"0"))
            connection = special.get(b"connection")
            if connection is not None:
                lines = without_named(lines, connection)
        request = Request(parser.get_method(), target, host, lines, special, length, http10, keep_alive)
        if special and b"expect" in special:
            if special[b"expect"].lower() != b"100-continue":
                raise Malformed("an Expect other than 100-continue")
            request.expects = not http10 and length != 0
        return request

    @staticmethod
    def _expects_body(request: Request) -> bool:
        return request.length is None or request.length > 0

    def _without_upgrade(self) -> None:
        """The parser stops at an Upgrade, which is refused by being ignored (RFC 9110, section 7.8): go on with a fresh
        parser, which is told nothing but the framing of the body that comes."""
        self._parser = httptools.HttpRequestParser(self)
        self._feed_one = self._parser.feed_data
        request = self._receiving
        if request is not None:
            framing = (
                b"transfer-encoding:chunked"
                if request.length is None
                else b"content-length:%d" % request.length
            )
            self._muted = True
            self._feed_one(b"POST / HTTP/1.1\r\nhost:x\r\n" + framing + _END)
            self._muted = False

    # Ends.

    def _too_large(self) -> None:
        if self._receiving is None and len(self._url) + 64 >= limits.URL_MAX:
            self._fault = UriTooLong(f"the URL is longer than {limits.URL_MAX} bytes")
        else:
            self._fault = HeadersTooLarge(f"the headers are larger than {limits.HEADER_BYTES_MAX} bytes")

    def _refuse(self, error: HearthError) -> None:
        """Answer what is no request, and close."""
        self.door.refuse(self, error)
        self._end(True)

    def _end(self, linger: bool) -> None:
        self.closing = True
        self._held = b""
        self._queue.clear()
        if not linger:
            self.transport.close()
            return
        # To close with unread bytes would reset the connection and take the answer with it (RFC 9112, section 9.6).
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.expires = self.door.now() + LINGER
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    def _pause(self) -> None:
        if not self._paused and not self.closing:
            self._paused = True
            self.transport.pause_reading()
