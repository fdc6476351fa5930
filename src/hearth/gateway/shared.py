"""What all calls of a shard share: where requests go, who may ask, what answers of our own look like."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Protocol

from hearth.app.instances import Instance
from hearth.app.invoke import Recorder
from hearth.app.pool import Pool
from hearth.app.routes import Routes
from hearth.core.errors import HearthError, NotFound
from hearth.core.permissions import Principal
from hearth.core.routing import Deployed, Route
from hearth.gateway.connection import Connection
from hearth.gateway.errors import status_of
from hearth.gateway.heads import SANDBOX, Heads, status_line
from hearth.gateway.ids import InvocationIds
from hearth.gateway.request import REQUEST_ID, Request
from hearth.gateway.upstream import Upstream
from hearth.ports.clock import Clock, Ids
from hearth.ports.credentials import Verifier
from hearth.web.errors import error_body, retry_after


class Abandoned(Protocol):
    """A request in work that nobody waits for any more."""

    def overdue(self, now: float) -> bool:
        """Whether its deadline has passed; it has done then what that means for its instance."""
        ...


class Shared:
    """See `Door` for the arguments."""

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
        max_body: int,
    ) -> None:
        self.routes = routes
        self.pool = pool
        self.verifier = verifier
        self.recorder = recorder
        self.upstream = upstream
        self.now = clock.monotonic
        self.chance = chance
        self.cause_of_death = cause_of_death
        self.max_body = max_body
        self.ids = InvocationIds(ids)
        self.heads = Heads()
        self.common = b""  # headers of every function's answer: the sandbox and the date
        self.date = b""
        self.abandoned: set[Abandoned] = set()
        self._clock = clock
        self._resolving: dict[bytes, asyncio.Task[Principal]] = {}

    def tick(self) -> None:
        """Keep the date (RFC 9110, section 6.6.1)."""
        date = formatdate(self._clock.now_ms() // 1000, usegmt=True).encode()
        if date != self.date:
            self.date = date
            self.common = SANDBOX + b"date: " + date + b"\r\n"

    async def close(self) -> None:
        """End what is under way."""
        for task in self._resolving.values():
            task.cancel()
        await asyncio.gather(*self._resolving.values(), return_exceptions=True)
        await self.upstream.close()

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
        request_id = self.ids.next(self.now())[0]
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

    # What calls need off the warm path.

    def request_id(self, request: Request, ours: bytes) -> bytes:
        """The client's X-Request-Id if it is well-formed, else ours."""
        theirs = request.special.get(b"x-request-id")
        return theirs if theirs is not None and REQUEST_ID.fullmatch(theirs) else ours

    async def resolve(self, token: bytes) -> Principal:
        """Look a credential up; many requests with the same one look once. Raises Unauthenticated, StoreUnavailable."""
        task = self._resolving.get(token)
        if task is None:
            task = self._resolving[token] = asyncio.get_running_loop().create_task(
                self.verifier.resolve(token)
            )
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
