"""The one connection to the host: frames in and out, streams, credit. docs/reference/guest-protocol.md is its page."""

import os
from _thread import allocate_lock, get_ident
from collections import deque
from struct import Struct
from time import monotonic

from .stream import Stream

HELLO, LOAD, READY, INIT_ERROR, REQUEST, RESPONSE, BODY, TRAILERS, ERROR = 1, 2, 3, 4, 5, 6, 7, 8, 9
CANCEL, WINDOW, UPGRADE, DRAIN, PING, PONG, LOG, LOG_WINDOW = 10, 11, 12, 13, 14, 15, 16, 17
END = 1
MAX_PAYLOAD = 1 << 20
MAX_WINDOW = (1 << 31) - 1
EARLY = 4  # frames that are worth a write of their own: the host begins with them while others are made
OUR_WINDOW = 256 << 10  # what each request's body may have under way towards us
_READ = 64 << 10  # below malloc's mmap threshold: a larger buffer would cost page faults at every read

_header = Struct(">IBBI")


def frame(kind, stream, payload=b"", flags=0):
    return _header.pack(len(payload), kind, flags, stream) + payload


class Connection:
    """Frames of one socket. One thread at a time reads; any thread may send."""

    def __init__(self, sock):
        self.sock = sock
        self.streams = {}
        self.ready = deque()  # streams whose handler may start
        self.whole_bodies = True  # a stream is ready once its whole body is here
        self.draining = False
        self.window = OUR_WINDOW  # the host's: what each answer may have under way
        self.loaded = None  # the payload of `load`
        self.greeted = False
        self.closed = False
        self.on_cancel = None  # called with a stream that the host gave up
        self.on_log_credit = None
        self._highest = 0
        self._buffer = bytearray()
        self._need = 10
        self._out = []
        self._lock = allocate_lock()
        self._sender = 0  # the thread that is sending now
        self._unsent = b""  # what a non-blocking socket did not take
        self.on_unsent = None  # non-blocking sockets: called when something is left to send

    # Sending.

    def send(self, data):
        """Queue frames; they leave at the next flush, in order."""
        self._out.append(data)

    def flush_early(self):
        """Write what is queued if it is enough; else it leaves with what follows, at the next flush."""
        if len(self._out) >= EARLY:
            self.flush()

    def flush(self):
        """Write what is queued; never waits for another thread's write, which takes ours along.

        From any thread; entered again (by a signal, a __del__) it leaves the work to the outer call.
        """
        me = get_ident()
        if self._sender == me:
            return
        lock = self._lock
        rest = self._unsent
        while self._out or rest:
            if not lock.acquire(False):
                return  # who holds it looks at the queue again after letting go
            self._sender = me
            try:
                self._write()
            except OSError:
                self.hung_up()
            finally:
                self._sender = 0
                lock.release()
            if self._unsent:
                return
            rest = b""

    def finish_sending(self):
        """Write all that is queued, however long the host takes."""
        self.sock.setblocking(True)
        self.on_unsent = None
        self.flush()
        with self._lock:
            pass  # another thread was at it
        self.flush()

    def _write(self):
        out = self._out
        while out or self._unsent:
            count = len(out)
            data = out[0] if count == 1 and not self._unsent else self._unsent + b"".join(out[:count])
            del out[:count]
            self._unsent = b""
            if self.closed:
                return
            if self.on_unsent is None:
                self.sock.sendall(data)
                continue
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                sent = 0
            self._unsent = data[sent:]
            if self._unsent:
                self.on_unsent()
                return

    @property
    def unsent(self):
        return bool(self._unsent)

    # Receiving.

    def read(self):
        """Wait for bytes and deal with their frames. Does not return when the host has hung up."""
        try:
            data = self.sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.hung_up()
        self.feed(data)

    def poll(self):
        """Deal with frames that are already here, without waiting."""
        try:
            data = self.sock.recv(_READ, 0x40)  # MSG_DONTWAIT
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.hung_up()
        self.feed(data)

    def feed(self, data):
        """Cut bytes into frames and deal with them."""
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < self._need:
                return
            data = bytes(buffer)
            buffer.clear()
        at, size, need = 0, len(data), 10
        unpack = _header.unpack_from
        while size - at >= 10:
            length, kind, flags, stream = unpack(data, at)
            if length > MAX_PAYLOAD:
                self.violation("too long a frame")
            body = at + 10
            end = body + length
            if end > size:
                need = 10 + length
                break
            at = end
            if kind == REQUEST:
                self._request(stream, flags & 1, data, body, end)
            elif kind == BODY:
                self._body(stream, flags & 1, data[body:end])
            else:
                self._other(kind, stream, data[body:end])
        if at < size:
            buffer += data[at:]
            self._need = need

    def _request(self, number, end, data, start, stop):
        if stop - start < 4 or self.loaded is None:
            self.violation("a request without a head, or before load")
        head_end = start + 4 + int.from_bytes(data[start : start + 4], "big")
        if head_end > stop:
            self.violation("a head longer than its frame")
        if number <= self._highest:
            self.violation("a stream number used twice")
        head = data[start + 4 : head_end].split(b"\n", 8)
        if len(head) < 8:
            self.violation("a head without its eight lines")
        self._highest = number
        size = stop - head_end
        if size > OUR_WINDOW:
            self.violation("more of a body than it had credit for")
        stream = Stream(self, number, head, self.window, monotonic())
        if size:
            stream.received = size
            stream.add(data[head_end:stop])
        self.streams[number] = stream
        if end:
            stream.whole = True
            self.ready.append(stream)
        elif self.whole_bodies:
            stream.take_in(size)
        else:
            self.ready.append(stream)

    def _body(self, number, end, payload):
        stream = self.streams.get(number)
        if stream is None:
            if number > self._highest or number == 0:
                self.violation("a body for a stream that never existed")
            return
        size = len(payload)
        stream.received += size
        if stream.received > stream.allowed:
            self.violation("more of a body than it had credit for")
        if stream.whole:
            return
        if size:
            stream.add(payload)
        if end:
            stream.whole = True
        if self.whole_bodies:
            if end:
                self.ready.append(stream)
            else:
                stream.take_in(size)
        stream.wake()

    def _other(self, kind, number, payload):
        if kind in (WINDOW, CANCEL, TRAILERS):
            stream = self.streams.get(number)
            if stream is None:
                if number > self._highest or number == 0:
                    self.violation("a frame for a stream that never existed")
            elif kind == WINDOW:
                if len(payload) != 4:
                    self.violation("a malformed window")
                stream.granted += int.from_bytes(payload, "big")
                if stream.granted - stream.sent > MAX_WINDOW:
                    self.violation("a window that overflows")
                stream.wake()
            elif kind == TRAILERS:
                self._body(number, 1, b"")
            else:
                self._cancel(stream, payload)
        elif kind == PING:
            if len(payload) > 64:
                self.violation("too long a ping")
            self.send(frame(PONG, 0, payload))
        elif kind == DRAIN:
            self.draining = True
        elif kind == LOG_WINDOW:
            if len(payload) != 4:
                self.violation("a malformed log-window")
            if self.on_log_credit is not None:
                self.on_log_credit(int.from_bytes(payload, "big"))
        elif kind in (HELLO, LOAD):
            self._lifecycle(kind, payload)
        elif kind in (READY, INIT_ERROR, RESPONSE, ERROR, UPGRADE, LOG):
            self.violation("a frame that only a guest may send")

    def _cancel(self, stream, payload):
        self.streams.pop(stream.number, None)  # its handler may have ended it meanwhile
        stream.cancelled = True
        stream.reason = "timeout" if b"timeout" in payload else "client_gone"
        if self.whole_bodies and not stream.whole:
            stream.put_down()  # its handler has not started and never will
            return
        if self.on_cancel is not None:
            self.on_cancel(stream)
        stream.wake()

    def _lifecycle(self, kind, payload):
        from json import loads

        try:
            told = loads(payload)
        except ValueError:
            told = None
        if type(told) is not dict:
            self.violation("a malformed hello or load")
        if kind == HELLO:
            if self.greeted or told.get("version") != 1:
                self.violation("another version of the protocol")
            self.greeted = True
            self.window = int(told.get("window", OUR_WINDOW))
            self.on_log_credit(int(told.get("log_window", 0)))
        else:
            if self.loaded is not None or not self.greeted:
                self.violation("load twice, or before hello")
            self.loaded = told

    # Ends.

    def hung_up(self):
        """The host has closed the connection: there is nobody to work for."""
        if not self.closed:
            os._exit(0)
        os._exit(1)  # a forked child that went on into our loop

    def violation(self, what):
        """The host broke the protocol: this instance can't be trusted to be in step any more."""
        os.write(2, b"hearth: the host broke the guest protocol: " + what.encode() + b"\n")
        os._exit(70)

    def end_if_forked(self):
        """After a handler: a child that it forked, and that came back to us, has nothing to do here."""
        if self.closed:
            os._exit(1)

    def forked(self):
        """In a child made by fork: never answer on the parent's connection."""
        self.closed = True
        self._lock = allocate_lock()
        self._sender = 0
        self._out = []
        self._unsent = b""
        self.sock.close()
