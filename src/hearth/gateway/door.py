"""What all connections of a shard share: where requests go, who may ask, and the one timer that holds deadlines."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

from hearth.app.instances import Instance
from hearth.app.invoke import Recorder
from hearth.app.pool import Pool
from hearth.app.routes import Routes
from hearth.core import limits
from hearth.core.errors import Draining, HearthError, NotFound
from hearth.gateway.call import FunctionCall
from hearth.gateway.connection import Connection, Front
from hearth.gateway.errors import MethodNotAllowed, NotServedYet
from hearth.gateway.forwarded import is_trusted, parse_networks
from hearth.gateway.proxy import ProxyCall
from hearth.gateway.request import Request
from hearth.gateway.shared import Shared
from hearth.gateway.upstream import Upstream
from hearth.ports.clock import Clock, Ids
from hearth.ports.credentials import Verifier

SWEEP = 0.1  # seconds: how exact deadlines are
QUIET = 1.0  # seconds without a request after which a stop does not wait for connections that are only kept
FAREWELL = 0.5  # seconds that last answers may take to leave
_log = logging.getLogger(__name__)


class Door:
    """One shard's front. Make it, `serve` on a listening socket, `drain`, `close`.

    Args:
        routes: the route table.
        pool: instances.
        verifier: judges credentials.
        recorder: keeps invocations.
        upstream: control, for all that is no function.
        clock: monotonic seconds and wall clock.
        ids: where invocation ids come from.
        chance: a number in [0, 1) for weighted aliases.
        cause_of_death: why an instance whose connection closed has ended.
        ready: why this shard can't serve now, or None.
        max_body: bytes of a request's body.
        trusted_proxies: CIDRs.
    """

    def __init__(
        self,
        *,
        routes: Routes,
        pool: Pool,
        verifier: Verifier,
        recorder: Recorder,
        upstream: Upstream,
        clock: Clock,
        ids: Ids,
        chance: Callable[[], float],
        cause_of_death: Callable[[Instance], Awaitable[HearthError]],
        ready: Callable[[], str | None] = lambda: None,
        max_body: int = limits.BODY_MAX,
        trusted_proxies: tuple[str, ...] = (),
    ) -> None:
        self.shared = Shared(
            routes=routes,
            pool=pool,
            verifier=verifier,
            recorder=recorder,
            upstream=upstream,
            clock=clock,
            ids=ids,
            chance=chance,
            cause_of_death=cause_of_death,
            max_body=max_body,
        )
        self.now = clock.monotonic
        self.loop: asyncio.AbstractEventLoop
        self.draining = False
        self.connections: set[Connection] = set()
        self.refusing = False  # the grace is over
        self._newcomers: Front = self  # whom a new connection meets
        self._entries = routes.entries
        self._ids = self.shared.ids
        self._clock = clock
        self._trusted = parse_networks(trusted_proxies)
        self._ready = ready
        self._servers: list[asyncio.Server] = []
        self._timer: asyncio.TimerHandle | None = None

    # Life.

    async def serve(self, sock: socket.socket) -> None:
        """Accept connections on a bound, listening socket; it is taken over."""
        self.loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._sweep()
        self._servers.append(
            await self.loop.create_server(lambda: Connection(self._newcomers), sock=sock, backlog=4096)
        )

    async def drain(self, grace: float, closing: asyncio.Event | None = None) -> int:
        """Let what is in work end; returns the number of requests still in work after `grace` seconds.

        Answers say ``Connection: close`` from now on, so a client that keeps its connection goes after its next request,
        which is still served. Nothing in work is cut: that is `close`.

        Args:
            grace: seconds.
            closing: set when nobody listens here afterwards, before or meanwhile. Until it is, others accept on the same
                socket: this door no longer does, and connections without a request in work are kept up to the grace. Once
                it is, newcomers are told 503 at once, and it is over when nothing has been in work for `QUIET`: a
                connection that somebody only keeps does not hold a stop up.
        """
        closing = closing or asyncio.Event()
        self.draining = True
        if closing.is_set():
            self._newcomers = TurnedAway(self)
        else:
            self._shut()
        end = self.now() + grace
        quiet = self.now()
        # Asked again and again, since calls that end tell nobody: that would cost every one of them something.
        while (now := self.now()) < end:
            ours = [connection for connection in self.connections if connection.door is self]
            if not all(connection.idle for connection in ours):
                quiet = now
            if not ours or (closing.is_set() and now - quiet >= QUIET):
                break
            await self._clock.sleep(min(0.05, end - now))
        self.refusing = True
        for connection in [c for c in self.connections if c.idle]:
            connection.transport.close()
        return sum(1 for connection in self.connections if connection.current is not None)

    async def close(self) -> None:
        """Cut what is left: who has no answer yet gets 503, who has half of one a broken connection."""
        self.draining = self.refusing = True
        self._shut()
        for connection in list(self.connections):
            if connection.handler is None:
                connection.cut()
            else:
                connection.handler.broken(
                    Draining(
                        "this server stopped before there was an answer",
                        hint="what was asked for may have been done",
                        retry_after=1,
                    )
                )
        end = self.now() + FAREWELL
        while self.connections and self.now() < end:
            await self._clock.sleep(0.01)
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self.connections):
            connection.cut()
        await self.shared.close()

    def _shut(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    # What connections call.

    def opened(self, connection: Connection) -> None:
        """A client has connected."""
        peer = connection.transport.get_extra_info("peername")
        address = str(peer[0]).partition("%")[0] if isinstance(peer, tuple) else ""
        connection.client = address.encode()
        connection.proxies = self._trusted if is_trusted(address, self._trusted) else ()
        connection.expires = self.now() + limits.HEADER_TIMEOUT
        self.connections.add(connection)

    def closed(self, connection: Connection) -> None:
        """A client's connection is gone."""
        self.connections.discard(connection)

    def handle(self, connection: Connection, request: Request) -> None:
        """Give a request to who answers it."""
        if self.refusing:
            return self._handle_other(connection, request)
        if not request.path:
            request.key, request.path = split_target(request.target)
            if not request.path:
                return self._handle_other(connection, request)
        now = self.now()
        invocation, trace = self._ids.next(now)
        connection.handler = call = FunctionCall(self.shared, connection, request, now, invocation, trace)
        return call.begin(self._entries.get(request.key))

    def refuse(self, connection: Connection, error: HearthError) -> None:
        """Answer what is no request. The connection closes itself afterwards."""
        self.shared.refuse(connection, error)

    def _handle_other(self, connection: Connection, request: Request) -> None:
        self.answer_other(connection, request, self.refusing)

    def answer_other(self, connection: Connection, request: Request, refusing: bool) -> None:
        """Answer what is no function's; when `refusing`, only to say how this shard is."""
        path = request.target.partition(b"?")[0]
        request_id = self.shared.request_id(request, self._ids.next(self.now())[0])
        error: HearthError | None = None
        if path == b"/healthz" or path == b"/readyz":
            if request.method not in (b"GET", b"HEAD"):
                error = MethodNotAllowed("only GET and HEAD are answered here")
            elif path == b"/readyz":
                reason = "draining" if self.draining else self._ready()
                error = Draining(f"not ready: {reason}", retry_after=1) if reason else None
            if error is None:
                return self.shared.answer(
                    connection, request, 200, b"content-type: text/plain\r\n", b"ok\n", request_id
                )
        elif refusing:
            error = Draining("this server is stopping", hint="try again", retry_after=1)
        elif path.startswith(b"/async/"):
            error = NotServedYet("asynchronous calls are not yet supported", hint="use /fn/")
        elif path.startswith(b"/fn/") or path == b"/fn":
            error = NotFound("a function's URL is /fn/NAMESPACE/FUNCTION")
        if error is not None:
            return self.shared.answer_error(connection, request, error, request_id)
        connection.handler = call = ProxyCall(self.shared, connection, request, request_id)
        return call.begin()

    # The timer.

    def _sweep(self) -> None:
        """Hold deadlines. One timer looks at everybody: to set a deadline is then to set a number."""
        now = self.now()
        self._timer = self.loop.call_later(SWEEP, self._sweep)
        self.shared.tick()
        for connection in [c for c in self.connections if c.expires < now]:
            try:
                connection.expire(now)
            except Exception:  # a bug that meets one connection must not stop the clock of all others
                _log.exception("a connection's deadline could not be handled")
                connection.cut()
        for call in [c for c in self.shared.abandoned if c.overdue(now)]:
            self.shared.abandoned.discard(call)


class TurnedAway:
    """The front of a door that closes for good (`connection.Front`): who comes now is told to go elsewhere."""

    draining = True

    def __init__(self, door: Door) -> None:
        self._door = door
        self.loop = door.loop
        self.now = door.now
        self.opened = door.opened
        self.closed = door.closed
        self.refuse = door.refuse

    def handle(self, connection: Connection, request: Request) -> None:
        """Answer 503, but to who asks how this shard is."""
        self._door.answer_other(connection, request, True)


def split_target(target: bytes) -> tuple[tuple[bytes, bytes], bytes]:
    """Read ``/fn/NAMESPACE/FUNCTION[/path][?query]``: (namespace, function) and what the function sees of it; that is
    empty when the target is no function's."""
    path, mark, query = target.partition(b"?")
    parts = path.split(b"/", 4)
    if len(parts) < 4 or parts[1] != b"fn":
        return (b"", b""), b""
    rest = parts[4] if len(parts) == 5 else b""
    return (parts[2], parts[3]), b"/" + rest + mark + query
