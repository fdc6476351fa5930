"""One request: what came of its body, what may still be sent of its answer."""

from collections import deque
from struct import Struct

RESPONSE, BODY, ERROR, CANCEL, WINDOW = 6, 7, 9, 10, 11
CHUNK = 256 << 10  # bytes of an answer in one frame: other streams get their turn between two
_GIVE_BACK = 64 << 10  # credit is given back in portions
_header = Struct(">IBBI")
_header_and_u32 = Struct(">IBBII")


class Disconnected(OSError):
    """The caller has gone; nobody reads this answer any more."""


class Stream:
    """Counters are written by one side each: `received` and `granted` by who reads the socket, `allowed` and `sent`
    by who runs the handler. So threads need no lock for them."""

    # Class attributes are what most requests never change: an object is made for each, so it sets only what it must.
    chunks = ()  # of the body; a deque once there are any
    whole = False  # the request's END has come
    received = 0
    allowed = 262144
    sent = 0
    cancelled = False
    reason = ""
    started = False  # the answer's head has left
    ended = False  # the answer is complete
    waiter = None  # called once when something has changed
    task = None
    _owed = 0

    def __init__(self, connection, number, head, window, arrived):
        self.connection = connection
        self.number = number
        self.head = head  # the eight lines, and the headers in one piece when there are any
        self.granted = window
        self.arrived = arrived  # seconds, monotonic

    # The request's body.

    def add(self, chunk):
        """More of it has come. Only by who reads the socket."""
        if type(self.chunks) is tuple:
            self.chunks = deque()
        self.chunks.append(chunk)

    def take_in(self, size):
        """`size` bytes have been taken off our hands: let the host send as many more."""
        self._owed += size
        if self._owed >= _GIVE_BACK and not self.whole:
            owed, self._owed = self._owed, 0
            self.allowed += owed
            self.connection.send(_header_and_u32.pack(4, WINDOW, 0, self.number, owed))

    def next_chunk(self):
        """The next bytes that are here, or None."""
        if not self.chunks:
            return None
        chunk = self.chunks.popleft()
        self.take_in(len(chunk))
        return chunk

    def body(self):
        """The whole body, once it is whole."""
        chunks = self.chunks
        if not chunks:
            return b""
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def readable(self):
        """Whether a wait for the body is over."""
        return bool(self.chunks) or self.whole or self.cancelled

    def writable(self):
        """Whether a wait for credit is over."""
        return self.granted > self.sent or self.cancelled

    def wake(self):
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            waiter()

    # The answer. These queue frames; who calls flushes.

    def answer(self, head, body):
        """A whole answer, which must fit: at most CHUNK bytes and within the credit."""
        size = len(head)
        length = len(body)
        self.sent = length
        self.started = self.ended = True
        self.connection.streams.pop(self.number, None)
        self.connection.send(
            _header_and_u32.pack(4 + size + length, RESPONSE, 1, self.number, size) + head + body
        )

    def fits(self, size):
        return size <= CHUNK and size <= self.granted - self.sent

    def start(self, head, end=False):
        """The answer's head alone."""
        self.started = True
        if end:
            self._finish()
        size = len(head)
        flags = 1 if end else 0
        self.connection.send(_header_and_u32.pack(4 + size, RESPONSE, flags, self.number, size) + head)

    def push(self, view, end):
        """Send what credit allows of a memoryview; returns the rest. END goes with the last byte."""
        if self.cancelled:
            raise Disconnected("the caller has gone")
        while True:
            room = min(self.granted - self.sent, CHUNK)
            size = len(view)
            last = end and size <= room
            if size and not room:
                return view
            part = view[:room]
            view = view[room:]
            self.sent += len(part)
            if last:
                self._finish()
            if part or last:
                self.connection.send(
                    _header.pack(len(part), BODY, 1 if last else 0, self.number) + bytes(part)
                )
            if not view:
                return view

    def fail(self, payload):
        """End it with an `error` frame."""
        if not self.ended and not self.cancelled:
            self._finish()
            self.connection.send(_header.pack(len(payload), ERROR, 0, self.number) + payload)

    def put_down(self):
        """The handler no longer runs: a cancelled request is owed one last frame, by which the host knows it."""
        if self.cancelled and not self.ended:
            self.ended = True
            payload = b'{"reason":"cancelled"}'
            self.connection.send(_header.pack(len(payload), CANCEL, 0, self.number) + payload)

    def _finish(self):
        self.ended = True
        self.connection.streams.pop(self.number, None)
