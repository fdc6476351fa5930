"""ASGI applications (https://asgi.readthedocs.io, HTTP specification 2.4), with lifespan."""

import asyncio
from urllib.parse import unquote

from . import logs
from .answer import BadResponse
from .loop import Loop, until_drained
from .loop import serve as serve_loop
from .stream import Disconnected
from .sync_lambda import fail

_ABOUT = {"version": "3.0", "spec_version": "2.4"}


def serve(connection, app, ready, failed):
    """Answer requests until the host drains or hangs up."""
    connection.whole_bodies = False

    async def main():
        lifespan = Lifespan(app)
        try:
            await lifespan.startup()
        except (
            BaseException
        ) as error:  # whatever startup does, SystemExit as well, is told to who deployed it
            failed(error)
        loop = Loop(connection, lambda stream: _handle(loop, connection, app, lifespan.state, stream))
        connection.on_cancel = _cancel
        ready()
        await until_drained(loop, lifespan.shutdown)

    serve_loop(main)


def _cancel(stream):
    # A caller that left is an `http.disconnect`, as in every ASGI server; a request out of time is cancelled.
    if stream.reason != "client_gone" and stream.task is not None:
        stream.task.cancel()


class StartupFailed(Exception):
    """The application said that its startup failed."""


class Lifespan:
    """Tells the application of its start and its end; one that knows no lifespan is left alone."""

    def __init__(self, app):
        self.state = {}
        self._app = app
        self._events = asyncio.Queue()
        self._said = asyncio.Queue()
        self._task = None

    async def startup(self):
        self._task = asyncio.ensure_future(self._run())
        self._events.put_nowait({"type": "lifespan.startup"})
        said = await self._said.get()
        if said["type"] == "lifespan.startup.failed":
            raise said.get("error") or StartupFailed(said.get("message", ""))

    async def shutdown(self):
        if self._task.done():
            return
        self._events.put_nowait({"type": "lifespan.shutdown"})
        await self._said.get()

    async def _run(self):
        scope = {"type": "lifespan", "asgi": _ABOUT, "state": self.state}
        try:
            await self._app(scope, self._events.get, self._send)
        except Exception:
            pass  # by the specification: it does not support lifespan
        except BaseException as error:
            self._said.put_nowait({"type": "lifespan.startup.failed", "error": error})
        self._said.put_nowait({"type": "lifespan.ended"})

    async def _send(self, message):
        self._said.put_nowait(message)


async def _handle(loop, connection, app, state, stream):
    invocation = stream.head[0].decode("latin-1")
    logs.current.set(invocation)
    exchange = Exchange(loop, stream)
    try:
        await app(_scope(stream.head, state), exchange.receive, exchange.send)
        if not stream.ended and not stream.cancelled:
            raise BadResponse("the ASGI application returned without a whole response")
    except Disconnected:
        pass
    except asyncio.CancelledError as error:
        if not stream.cancelled:
            fail(connection, stream, invocation, error)
    except BaseException as error:  # SystemExit too: this request failed, the instance goes on
        if stream.ended or stream.cancelled:  # after its answer, or nobody to tell: the logs alone
            connection.streams.pop(stream.number, None)
        fail(connection, stream, invocation, error)
    finally:
        logs.finish(invocation)
        connection.end_if_forked()
        loop.flush_soon()


class Exchange:
    """`receive` and `send` of one request."""

    __slots__ = ("_head", "_loop", "_stream", "_whole")

    def __init__(self, loop, stream):
        self._loop = loop
        self._stream = stream
        self._whole = False  # the application has been given the last of the body
        self._head = None

    async def receive(self):
        stream = self._stream
        if not self._whole:
            await self._loop.wait(stream, stream.readable)
            if not stream.cancelled:
                chunk = stream.next_chunk() or b""
                self._loop.flush_soon()  # the credit that this gave back
                self._whole = stream.whole and not stream.chunks
                return {"type": "http.request", "body": chunk, "more_body": not self._whole}
        await self._loop.wait(stream, lambda: stream.cancelled or stream.ended)
        return {"type": "http.disconnect"}

    async def send(self, message):
        stream = self._stream
        kind = message["type"]
        if stream.cancelled:
            raise Disconnected("the caller has gone")
        if kind == "http.response.start":
            if self._head is not None:
                raise RuntimeError("http.response.start was sent twice")
            self._head = _head(message)
        elif kind == "http.response.body":
            if self._head is None:
                raise RuntimeError("http.response.body before http.response.start")
            if stream.ended:
                raise RuntimeError("http.response.body after the last one")
            await self._body(bytes(message.get("body", b"")), message.get("more_body", False))
        else:
            raise RuntimeError(f"the message {kind!r} is not known here")

    async def _body(self, data, more):
        stream = self._stream
        if not stream.started:
            if not more and stream.fits(len(data)):
                logs.finish(logs.current.get())
                stream.answer(self._head, data)
                self._loop.flush_soon()
                stream.wake()
                return
            stream.start(self._head)
        await self._loop.send_all(stream, data, not more)
        if not more:
            stream.wake()


def _head(message):
    lines = [b"%d" % message["status"]]
    for name, value in message.get("headers", ()):
        name, value = bytes(name).lower(), bytes(value).strip(b" \t")
        if b"\n" in name or b"\n" in value or b"\r" in value:
            raise BadResponse(f"the header {name!r:.60} has a line break in it")
        lines.append(name + b":" + value)
    return b"\n".join(lines)


def _scope(head, state):
    target, prefix = head[3], head[4]
    raw_path, _, query = target.partition(b"?")
    headers = []
    host, port = "", None
    if len(head) > 8:
        for line in head[8].split(b"\n"):
            name, _, value = line.partition(b":")
            headers.append((name, value))
            if name == b"host":
                host = value.decode("latin-1")
    scheme = head[7].decode("latin-1")
    name, colon, number = host.rpartition(":")
    if colon and number.isdigit():
        host, port = name, int(number)
    scope = {
        "type": "http",
        "asgi": _ABOUT,
        "http_version": "1.1",
        "method": head[2].decode("latin-1"),
        "scheme": scheme,
        "path": unquote((prefix + raw_path).decode("latin-1")),
        "raw_path": prefix + raw_path,
        "query_string": query,
        "root_path": unquote(prefix.decode("latin-1")),
        "headers": headers,
        "client": (head[6].decode("latin-1"), 0),
        "server": (host, port or (443 if scheme == "https" else 80)),
        "state": state.copy(),
        "extensions": {},
    }
    if head[5]:
        scope["hearth.caller"] = head[5].decode("latin-1")
    return scope
