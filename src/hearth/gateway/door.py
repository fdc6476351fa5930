"""What all connections of a shard share: where requests go, who may ask, and the one timer that holds deadlines."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from email.utils import formatdate

from hearth.app.instances import Instance
from hearth.app.invoke import Recorder
from hearth.app.pool import Pool
from hearth.app.routes import Routes
from hearth.core import limits
from hearth.core.errors import Draining, HearthError, NotFound
from hearth.core.permissions import Principal
from hearth.core.routing import Deployed, Route
from hearth.gateway import auth
from hearth.gateway.call import FunctionCall
from hearth.gateway.connection import Connection
from hearth.gateway.errors import MethodNotAllowed, NotServedYet, status_of
from hearth.gateway.forwarded import Networks, is_trusted, parse_networks
from hearth.gateway.heads import SANDBOX, Heads, status_line
from hearth.gateway.ids import InvocationIds
from hearth.gateway.proxy import ProxyCall
from hearth.gateway.request import REQUEST_ID, Request
from hearth.gateway.upstream import Upstream
from hearth.ports.clock import Clock, Ids
from hearth.ports.credentials import Verifier
from hearth.web.errors import error_body, retry_after

SWEEP = 0.1  # seconds: how exact deadlines are
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
        self.routes = routes
        self.pool = pool
        self.verifier = verifier
        self.recorder = recorder
        self.upstream = upstream
        self.clock = clock
        self.now = clock.monotonic
        self.chance = chance
        self.cause_of_death = cause_of_death
        self.max_body = max_body
        self.trusted: Networks = parse_networks(trusted_proxies)
        self.heads = Heads()
        self.draining = False
        self.refusing = False
        self.loop: asyncio.AbstractEventLoop
        self.common = b""  # headers of every function's answer: the sandbox and the date
        self.date = b""
        self.abandoned: set[FunctionCall] = set()
        self.connections: set[Connection] = set()
        self._ids = InvocationIds(ids)
        self.traceparent = self._ids.traceparent
        self._ready = ready
        self._servers: list[asyncio.Server] = []
        self._timer: asyncio.TimerHandle | None = None
        self._resolving: dict[bytes, asyncio.Task[Principal]] = {}

    # Life.

    async def serve(self, sock: socket.socket) -> None:
        """Accept connections on a bound, listening socket; it is taken over."""
        self.loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._sweep()
        self._servers.append(await self.loop.create_server(lambda: Connection(self), sock=sock, backlog=4096))

    async def drain(self, grace: float) -> int:
        """Stop accepting and let what is in work end; returns the number of requests still in work after `grace` seconds.

        Answers say ``Connection: close`` from now on. Idle connections are kept up to the grace, so that a request that
        is on its way is still served; after it new requests get 503. Nothing in work is cut: that is `close`.
        """
        self.draining = True
        for server in self._servers:
            server.close()
        self._servers.clear()
        end = self.now() + grace
        while self.connections and self.now() < end:
            await self.clock.sleep(min(0.05, max(0.0, end - self.now())))
        self.refusing = True
        for connection in [c for c in self.connections if c.idle]:
            connection.transport.close()
        return sum(1 for connection in self.connections if connection.current is not None)

    async def close(self) -> None:
        """Cut what is left."""
        self.draining = self.refusing = True
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self.connections):
            connection.cut()
        for task in self._resolving.values():
            task.cancel()
        await asyncio.gather(*self._resolving.values(), return_exceptions=True)
        await self.upstream.close()

    # What connections call.

    def opened(self, connection: Connection) -> None:
        """A client has connected."""
        peer = connection.transport.get_extra_info("peername")
        address = str(peer[0]).partition("%")[0] if isinstance(peer, tuple) else ""
        connection.client = address.encode()
        connection.trusted = bool(self.trusted) and is_trusted(address, self.trusted)
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
        connection.handler = call = FunctionCall(self, connection, request, now, self._ids.next(now))
        return call.begin(self.routes.entries.get(request.key))

    def _handle_other(self, connection: Connection, request: Request) -> None:
        path = request.target.partition(b"?")[0]
        request_id = self.request_id(request, self._ids.next(self.now()))
        error: HearthError | None = None
        if path == b"/healthz" or path == b"/readyz":
            if request.method not in (b"GET", b"HEAD"):
                error = MethodNotAllowed("only GET and HEAD are answered here")
            elif path == b"/readyz":
                reason = "draining" if self.draining else self._ready()
                error = Draining(f"not ready: {reason}", retry_after=1) if reason else None
            if error is None:
                return self.answer(
                    connection, request, 200, b"content-type: text/plain\r\n", b"ok\n", request_id
                )
        elif self.refusing:
            error = Draining("this server is stopping", hint="try again", retry_after=1)
        elif path.startswith(b"/async/"):
            error = NotServedYet("asynchronous calls are not yet supported", hint="use /fn/")
        elif path.startswith(b"/fn/") or path == b"/fn":
            error = NotFound("a function's URL is /fn/NAMESPACE/FUNCTION")
        if error is not None:
            return self.answer_error(connection, request, error, request_id)
        connection.handler = call = ProxyCall(self, connection, request, request_id)
        return call.begin()

    # Answers of our own.

    def answer(
        self,
        connection: Connection,
        request: Request,
        status: int,
        headers: bytes,
        body: bytes,
        request_id: bytes,
    ) -> None:
        """Write a whole answer and go on with the connection."""
        closing = connection.closing_header(request)
        connection.write(
            b"%b%bdate: %b\r\nx-request-id: %b\r\n%bcontent-length: %d\r\n\r\n%b"
            % (
                status_line(status),
                headers,
                self.date,
                request_id,
                closing,
                len(body),
                b"" if request.method == b"HEAD" else body,
            )
        )
        connection.answered(request, self.now())

    def answer_error(
        self,
        connection: Connection,
        request: Request,
        error: HearthError,
        request_id: bytes,
        headers: bytes = b"",
    ) -> None:
        """Answer with an error of the tree."""
        status, fields, body = self._error(error, request_id)
        self.answer(connection, request, status, fields + headers, body, request_id)

    def refuse(self, connection: Connection, error: HearthError) -> None:
        """Answer what is no request. The connection closes itself afterwards."""
        request_id = self._ids.next(self.now())
        status, fields, body = self._error(error, request_id)
        connection.write(
            b"%b%bdate: %b\r\nx-request-id: %b\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
            % (status_line(status), fields, self.date, request_id, len(body), body)
        )

    def _error(self, error: HearthError, request_id: bytes) -> tuple[int, bytes, bytes]:
        status = status_of(error)
        fields = b"content-type: application/json\r\nx-hearth-error: %b\r\n" % error.code.encode()
        seconds = retry_after(error)
        if seconds is not None:
            fields += b"retry-after: %d\r\n" % seconds
        if status == 401:
            fields += b'www-authenticate: Bearer realm="hearth"\r\n'
        if status == 405:
            fields += b"allow: GET, HEAD\r\n"
        return status, fields, error_body(error, request_id.decode())

    status_of = staticmethod(status_of)
    refusal = staticmethod(auth.refusal)

    # What calls need off the warm path.

    def request_id(self, request: Request, ours: bytes) -> bytes:
        """The client's X-Request-Id if it is well-formed, else ours."""
        theirs = request.special.get(b"x-request-id")
        return theirs if theirs is not None and REQUEST_ID.fullmatch(theirs) else ours

    async def resolve(self, token: bytes) -> Principal:
        """Look a credential up; many requests with the same one look once. Raises Unauthenticated, StoreUnavailable."""
        task = self._resolving.get(token)
        if task is None:
            task = self._resolving[token] = self.loop.create_task(self.verifier.resolve(token))
            task.add_done_callback(lambda _: self._resolving.pop(token, None))
        return await asyncio.shield(task)

    async def named(self, route: Route, version: bytes | None, alias: bytes | None) -> Deployed:
        """The version that a member asks for by header. Raises NotFound."""
        if version is None:
            name = (alias or b"").decode("latin-1")
            weighted = route.aliases.get(name)
            if weighted is None:
                raise NotFound(f"the function has no alias {name[:64]!r}")
            return weighted.pick(self.chance())
        if not version.isdigit() or len(version) > 9:
            raise NotFound("X-Hearth-Version is not a version's number")
        return await self.routes.version(route, int(version))

    # The timer.

    def _sweep(self) -> None:
        """Hold deadlines. One timer looks at everybody: to set a deadline is then to set a number."""
        now = self.now()
        self._timer = self.loop.call_later(SWEEP, self._sweep)
        date = formatdate(self.clock.now_ms() // 1000, usegmt=True).encode()
        if date != self.date:
            self.date = date
            self.common = SANDBOX + b"date: " + date + b"\r\n"
        for connection in [c for c in self.connections if c.expires < now]:
            try:
                connection.expire(now)
            except Exception:  # a bug that meets one connection must not stop the clock of all others
                _log.exception("a connection's deadline could not be handled")
                connection.cut()
        for call in [c for c in self.abandoned if c.overdue(now)]:
            self.abandoned.discard(call)


def split_target(target: bytes) -> tuple[tuple[bytes, bytes], bytes]:
    """Read ``/fn/NAMESPACE/FUNCTION[/path][?query]``: (namespace, function) and what the function sees of it; that is
    empty when the target is no function's."""
    path, mark, query = target.partition(b"?")
    parts = path.split(b"/", 4)
    if len(parts) < 4 or parts[1] != b"fn":
        return (b"", b""), b""
    rest = parts[4] if len(parts) == 5 else b""
    return (parts[2], parts[3]), b"/" + rest + mark + query
