"""Writes one function's answer to the client, in the framing that the client understands."""

from __future__ import annotations

from hearth.gateway.connection import Connection
from hearth.gateway.heads import Head, trailer_lines
from hearth.gateway.request import Request

# What Server-Timing says of warm calls, by hundredths of a millisecond: most calls take less than 20 of them.
TIMINGS = {
    hundredths: b"\r\nserver-timing: queue;dur=0, cold;dur=0, fn;dur=%.2f\r\n" % (hundredths / 100)
    for hundredths in range(2000)
}

LENGTHS_END = 2000
# The end of a head, by the size of the body that follows.
LENGTHS = tuple(b"content-length: %d\r\n\r\n" % size for size in range(LENGTHS_END))


class Answer:
    """An answer under way, in pieces.

    Args:
        connection: of the client.
        request: what is answered.
        head: translated.
    """

    __slots__ = ("_chunked", "_connection", "_head", "_request", "_silent", "status")

    def __init__(self, connection: Connection, request: Request, head: Head) -> None:
        self._connection = connection
        self._request = request
        self._head = head
        self.status = head.status
        self._chunked = False
        self._silent = head.empty or request.method == b"HEAD"

    def start(self, ours: bytes, body: bytes, end: bool) -> None:
        """Write the head with the first bytes of the body.

        Args:
            ours: the headers that Hearth adds, each with its CRLF.
            body: first bytes.
            end: they are all.
        """
        connection, request, head = self._connection, self._request, self._head
        closing = connection.closing_header(request)
        if self._silent:
            framing, body = self._silent_framing(len(body) if end else -1), b""
        elif end:
            framing = b"content-length: %d\r\n" % len(body)
        elif head.length >= 0:
            framing = b"content-length: %d\r\n" % head.length
        elif request.http10:
            request.keep_alive = False  # the end of the connection is the end of the body
            framing, closing = b"", b"connection: close\r\n"
        else:
            self._chunked = True
            framing = b"transfer-encoding: chunked\r\n"
            body = _chunk(body)
        connection.write(b"%b%b%b%b\r\n%b" % (head.start, ours, closing, framing, body))

    def more(self, data: bytes, end: bool) -> None:
        """Write more of the body."""
        if self._silent:
            return
        if self._chunked:
            data = _chunk(data) + b"0\r\n\r\n" if end else _chunk(data)
        if data:
            self._connection.write(data)

    def end(self, trailers: bytes) -> None:
        """End the body with trailers, where the framing has room for them."""
        if self._chunked and not self._silent:
            self._connection.write(b"0\r\n%b\r\n" % trailer_lines(trailers))

    def _silent_framing(self, size: int) -> bytes:
        """What an answer without a body says of its length (RFC 9110, section 8.6)."""
        if self._head.empty:
            return b""
        length = self._head.length if self._head.length >= 0 else size
        return b"content-length: %d\r\n" % length if length >= 0 else b""


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
