"""WSGI applications (PEP 3333), on the thread that calls."""

import sys
from urllib.parse import unquote_to_bytes

from . import logs
from .answer import BadResponse
from .event import fields
from .stream import Disconnected
from .sync_lambda import fail, send_all


class Input:
    """wsgi.input: the request's body as it comes."""

    def __init__(self, stream):
        self._stream = stream
        self._rest = b""

    def _more(self):
        """The next bytes, b"" at the end."""
        stream = self._stream
        while True:
            chunk = stream.next_chunk()
            if chunk is not None:
                return chunk
            if stream.cancelled:
                raise Disconnected("the caller has gone")
            if stream.whole:
                return b""
            stream.connection.wait(stream, stream.readable)

    def read(self, size=-1):
        if size is None:
            size = -1
        parts, have = [self._rest], len(self._rest)
        while size < 0 or have < size:
            chunk = self._more()
            if not chunk:
                break
            parts.append(chunk)
            have += len(chunk)
        data = b"".join(parts)
        if size < 0:
            size = len(data)
        self._rest = data[size:]
        return data[:size]

    def readline(self, size=-1):
        if size is None:
            size = -1
        parts, have = [], 0
        while True:
            chunk = self._rest or self._more()
            self._rest = b""
            at = chunk.find(b"\n") + 1
            cut = at or len(chunk)
            if 0 <= size < have + cut:
                cut, at = size - have, 1
            parts.append(chunk[:cut])
            have += cut
            self._rest = chunk[cut:]
            if at or not chunk or have == size:
                return b"".join(parts)

    def readlines(self, hint=-1):
        return list(self)

    def __iter__(self):
        return iter(self.readline, b"")


def runner(connection, app, multithread):
    """The function that answers one stream with `app`."""

    def run(stream):
        if stream.cancelled:
            return stream.put_down()
        invocation = stream.head[0].decode("latin-1")
        logs.current.set(invocation)
        try:
            _answer(connection, stream, app, multithread)
        except Disconnected:
            pass
        except BaseException as error:  # SystemExit too: this request failed, the instance goes on
            fail(connection, stream, invocation, error)
        finally:
            logs.finish(invocation)
            logs.current.set(None)
            connection.end_if_forked()
            stream.put_down()

    return run


def _answer(connection, stream, app, multithread):
    told = []  # [head] once start_response was called

    def start_response(status, headers, exc_info=None):
        if exc_info:
            try:
                if stream.started:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif told:
            raise AssertionError("start_response was called twice")
        told[:] = [_head(status, headers)]
        return write

    def write(data):
        if not told:
            raise AssertionError("write() before start_response()")
        if not stream.started:
            stream.start(told[0])
        send_all(stream, data, False)
        connection.flush()
        connection.glance()

    items = app(_environ(stream, multithread), start_response)
    try:
        whole = isinstance(items, (list, tuple)) and len(items) == 1
        for item in items:
            if not isinstance(item, bytes):
                raise BadResponse(f"a WSGI application gives bytes, not {type(item).__name__}")
            if not item:
                continue
            if not told:
                raise BadResponse("the WSGI application did not call start_response")
            if whole and not stream.started and stream.fits(len(item)) and not stream.cancelled:
                logs.finish(logs.current.get())
                stream.answer(told[0], item)
                return
            write(item)
        if not told:
            raise BadResponse("the WSGI application did not call start_response")
        if not stream.started:
            stream.start(told[0], True)
        elif not stream.ended:
            send_all(stream, b"", True)
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


def _head(status, headers):
    code = status[:3]
    if not (code.isascii() and code.isdigit()):
        raise BadResponse(f"the WSGI application's status is {status!r:.60}")
    lines = [code]
    for name, value in headers:
        if "\n" in name or "\n" in value or "\r" in value:
            raise BadResponse(f"the header {name!r:.60} has a line break in it")
        lines.append(f"{name.lower()}:{value}")
    try:
        return "\n".join(lines).encode("latin-1")
    except UnicodeEncodeError:
        raise BadResponse("a WSGI header has characters outside ISO-8859-1") from None


def _environ(stream, multithread):
    head = stream.head
    _, _, method, target, prefix, caller, client, scheme = (part.decode("latin-1") for part in head[:8])
    path, _, query = target.partition("?")
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": unquote_to_bytes(prefix).decode("latin-1"),
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "RAW_URI": prefix + target,
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": client,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.input": Input(stream),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": multithread,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "hearth.invocation": head[0].decode("latin-1"),
    }
    if caller:
        environ["REMOTE_USER"] = caller
    host = ""
    for name, value in fields(head[8]) if len(head) > 8 else ():
        if "_" in name:
            continue  # would look like the same header with a hyphen
        if name == "host":
            host = value
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = "HTTP_" + key
        if key in environ:
            value = environ[key] + ("; " if name == "cookie" else ",") + value
        environ[key] = value
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdigit():
        name, port = host, "443" if scheme == "https" else "80"
    environ["SERVER_NAME"] = name or "localhost"
    environ["SERVER_PORT"] = port
    return environ
