"""What a function prints and logs, as log frames that carry the invocation's id."""

import os
import sys
from _json import encode_basestring_ascii as quoted
from _thread import RLock
from contextvars import ContextVar
from io import TextIOBase
from struct import Struct
from time import time

LOG = 16
LINE_MAX = 64 << 10  # bytes of UTF-8; what is longer is cut
_header = Struct(">IBBI")

# The invocation whose code runs here. A task that a handler makes inherits it; a thread that it starts does not.
current = ContextVar("hearth_invocation", default=None)
unfinished = set()  # invocations that have begun a line and not ended it
_sender = None
_streams = ()


class Sender:
    """Log frames within the host's credit. What doesn't fit is dropped and counted.

    Once something was dropped, nothing is sent until there is credit for more than a longest line: one count for a gap, not
    a count for each line.
    """

    def __init__(self, connection):
        self.connection = connection
        self.credit = 0
        self.dropped = 0
        self.lock = RLock()

    def grant(self, credit):
        self.credit += credit  # only the thread that reads the socket adds; `lines` subtracts under its lock
        if self.dropped and self.credit > LINE_MAX:
            self.lines(None, "stderr", "warning", ())

    def lines(self, invocation, stream, level, texts):
        """Send lines (without line breaks) in one write."""
        connection = self.connection
        if connection.closed:  # a forked child has only the pipes
            for text in texts:
                os.write(1 if stream == "stdout" else 2, text.encode("utf-8", "replace") + b"\n")
            return
        inv = "null" if invocation is None else f'"{invocation}"'
        with self.lock:
            if self.dropped and self.credit > LINE_MAX:
                count = self.dropped
                were = "line was" if count == 1 else "lines were"
                said = f"{count} {were} dropped here: more is logged than is taken"
                self.dropped = 0
                if not self._send("null", "stderr", "warning", said):
                    self.dropped = count
            for text in texts:
                if self.dropped or not self._send(inv, stream, level, _cut(text)):
                    self.dropped += 1
        connection.flush()

    def _send(self, inv, stream, level, text):
        payload = (
            f'{{"inv":{inv},"stream":"{stream}","t":{int(time() * 1000)},"level":"{level}","text":{quoted(text)}}}'
        ).encode()
        size = len(payload)
        if size > self.credit:
            return False
        self.credit -= size
        self.connection.send(_header.pack(size, LOG, 0, 0) + payload)
        return True


def _cut(text):
    if len(text) * 4 <= LINE_MAX:
        return text
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= LINE_MAX:
        return text
    return data[: LINE_MAX - 16].decode("utf-8", "ignore") + " … (cut)"


class Bytes:
    """The `.buffer` of a stream."""

    def __init__(self, text):
        self._text = text

    def write(self, data):
        data = bytes(data)
        self._text.write(data.decode("utf-8", "replace"))
        return len(data)

    def flush(self):
        pass

    def fileno(self):
        return self._text.fileno()

    def writable(self):
        return True

    def isatty(self):
        return False

    @property
    def closed(self):
        return False


class Lines(TextIOBase):
    """sys.stdout or sys.stderr: cuts what is written into lines, per invocation."""

    def __init__(self, sender, name, fd):
        self._sender = sender
        self._name = name
        self._fd = fd
        self._partial = {}  # invocation: the beginning of a line
        self._lock = RLock()
        self.buffer = Bytes(self)

    encoding = "utf-8"
    errors = "replace"
    line_buffering = True

    @property
    def name(self):
        return f"<{self._name}>"

    def fileno(self):
        return self._fd

    def writable(self):
        return True

    def isatty(self):
        return False

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        invocation = current.get()
        with self._lock:
            partial = self._partial
            if "\n" not in text:
                before = partial.get(invocation, "")
                if len(before) <= LINE_MAX:  # the rest of an endless line is cut anyway
                    partial[invocation] = before + text
                    unfinished.add(invocation)
                return len(text)
            texts = (partial.pop(invocation, "") + text).split("\n")
            last = texts.pop()
            if last:
                partial[invocation] = last
                unfinished.add(invocation)
        self._sender.lines(invocation, self._name, "info", texts)
        return len(text)

    def finish(self, invocation):
        """Send a line that was begun and never ended."""
        if self._partial:
            with self._lock:
                text = self._partial.pop(invocation, "")
            if text:
                self._sender.lines(invocation, self._name, "info", (text,))

    def close(self):
        """Function code may close its stdout; the platform's goes on."""


def install(connection):
    """Take over sys.stdout, sys.stderr and what `logging` does when nobody set it up."""
    global _sender, _streams
    _sender = Sender(connection)
    connection.on_log_credit = _sender.grant
    _streams = sys.stdout, sys.stderr = Lines(_sender, "stdout", 1), Lines(_sender, "stderr", 2)


def install_logging():
    """Send records that nobody else handles as they are, with their level.

    `logging.basicConfig` works as ever: what it sets goes to our handler, or replaces it by a stream or file.
    """
    import logging

    class Frames(logging.Handler):
        def emit(self, record):
            try:
                text = self.format(record)
            except Exception:  # a bad format string is function code's error, and logging shows it so
                self.handleError(record)
                return
            _sender.lines(current.get(), "log", record.levelname.lower()[:16], text.split("\n"))

    ours = Frames()
    root = logging.getLogger()
    original = logging.basicConfig

    def basic_config(**wanted):
        if root.handlers == [ours] and ours.formatter is None:
            root.removeHandler(ours)
            if not wanted.keys() & {"stream", "filename", "handlers"}:
                wanted["handlers"] = [ours]
        original(**wanted)

    basic_config.__doc__ = original.__doc__
    logging.basicConfig = basic_config
    root.addHandler(ours)


def error(invocation, text):
    """Log a traceback."""
    _sender.lines(invocation, "stderr", "error", text.rstrip("\n").split("\n"))


def finish(invocation):
    """An invocation is over: send what it printed without a line break at its end. Only to be called when there is
    something in `unfinished`."""
    unfinished.discard(invocation)
    for stream in _streams:
        stream.finish(invocation)


def close():
    finish(None)
