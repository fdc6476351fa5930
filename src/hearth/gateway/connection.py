"""One client's connection: one request in work at a time, everything bounded, time held.

Nothing is parsed while a complete request is in work; what comes meanwhile is kept, and reading pauses beyond 16 KiB.
The parser only notes what it has read; `_advance` acts on it.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from typing import Protocol, cast

from hearth.core import limits
from hearth.core.errors import HearthError
from hearth.gateway.errors import RequestTimeout
from hearth.gateway.parser import END, Parser
from hearth.gateway.request import Request

Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
AHEAD = 16 << 10  # bytes that may come while a request is in work
SMALL_BODY = 64 << 10  # a body up to this size is complete before anybody is bothered with it
LINGER = 2.0  # seconds that a refused client may go on sending, so that it reads the answer before a reset
_WRITE_HIGH = 256 << 10  # bytes in the transport from which on answers stop giving credit
_LAST_MAX = 4 << 10  # bytes of a head that is remembered


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

    @property
    def draining(self) -> bool:
        """Answers close their connections."""
        ...

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
        self._parser = Parser()
        self._held = b""  # came while nothing could be fed
        self._more = False  # something is held or paused, or was parsed and not acted upon
        self._paused = False
        self._body_paused = False
        self._last = b""  # bytes of the last head, and what was parsed of them
        self._same: Request
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
        parser = self._parser
        if self.current is not None or self._more or self.closing:
            self._hold_or_feed(data)
        elif parser.head_bytes:
            self._feed(data)
        elif data == self._last:
            self.current = same = self._same  # who asks the same again is not read again
            self.door.handle(self, same)
        elif data.find(END) + 4 == len(data):
            parser.feed(data)  # the common case: exactly one head
            self._advance_from(data)
        else:
            self._feed(data)

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
        if handler is not None:
            handler.gone()

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
        if self._more:
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
        elif self.closing or not (self._parser.head_bytes or self.current):
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
        return self.current is None and not self._parser.head_bytes and not self._held

    def turn_away(self, error: HearthError) -> None:
        """Answer with an error before anything was asked, and close."""
        self._refuse(error)

    # Feeding.

    def _feed(self, data: bytes) -> None:
        parser, rest = self._parser, memoryview(data)
        while rest and parser.fault is None and not self.closing:
            busy = self.current is not None or parser.heads
            if busy and (parser.receiving is None or self._body_paused):
                self._held = bytes(rest)
                break
            cut = parser.cut(rest)
            parser.feed(rest[:cut])
            rest = rest[cut:]
        self._note_more()  # an answer that is given at once goes by it
        self._advance()
        self._note_more()

    def _hold_or_feed(self, data: bytes) -> None:
        if self.closing:
            return  # lingering: read and dropped
        if self._held or self._parser.receiving is None or self._body_paused:
            self._held += data
            self._more = True
            if len(self._held) > AHEAD:
                self._pause()
        else:
            self._feed(data)

    def _go_on(self) -> None:
        """A request has been answered or there is room for its body: take what waits."""
        if self.closing or self._body_paused:
            return
        parser = self._parser
        if self._held and (parser.receiving is not None or not (self.current or parser.heads)):
            held, self._held = self._held, b""
            self._feed(held)
        else:
            self._advance()
        if self._paused and len(self._held) <= AHEAD and not self._body_paused and not self.closing:
            self._paused = False
            self.transport.resume_reading()
        self._note_more()

    def _note_more(self) -> None:
        """Whoever is answered looks at `_more` alone."""
        parser = self._parser
        self._more = bool(self._held or self._paused or parser.heads) or parser.fault is not None

    def _advance_from(self, data: bytes) -> None:
        """Act on what was parsed of `data`, exactly one head, and remember it if it may come again."""
        heads = self._parser.heads
        if heads and heads[0].complete and heads[0].plain and len(data) <= _LAST_MAX:
            self._last, self._same = data, heads[0]
        self._advance()

    def _advance(self) -> None:
        """Act on what the parser has noted."""
        parser = self._parser
        request, fault = self.current, parser.fault
        if request is None and parser.heads:
            request = self.current = parser.heads.popleft()
        if request is None:
            if fault is not None:
                self._refuse(fault)
            elif parser.head_bytes:
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
        elif request.body or (request.complete and not (request.delivered or request.plain)):
            request.delivered = request.complete
            body, request.body = request.body, ()
            self.handler.body(b"".join(body), request.complete)

    # Ends.

    def _refuse(self, error: HearthError) -> None:
        """Answer what is no request, and close."""
        self.door.refuse(self, error)
        self._end(True)

    def _end(self, linger: bool) -> None:
        self.closing = True
        self._held = b""
        self._parser.heads.clear()
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
            self._paused = self._more = True
            self.transport.pause_reading()
