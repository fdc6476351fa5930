"""One call of a function: the story of a request, from its parsed head to the last byte of its answer.

    begin → admit (route, version, who asks) → enter (an instance, or the line for one) → send (a frame to the guest)
    → on_response, on_body … (the answer as it comes) → finish (give the instance back, note the call)

The warm path runs from `begin` to `send` and from `on_response` to `finish` without a task, a future or an await.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hearth.app.admission import Ticket
from hearth.app.instances import Instance
from hearth.core import limits
from hearth.core.errors import (
    Cancelled,
    Forbidden,
    FunctionCrashed,
    FunctionError,
    FunctionTimeout,
    HearthError,
    TooLarge,
)
from hearth.core.invocation import Outcome
from hearth.core.permissions import Principal
from hearth.core.routing import Deployed, Route
from hearth.gateway import auth
from hearth.gateway.answer import Answer
from hearth.gateway.connection import Connection
from hearth.gateway.errors import RequestTimeout, for_strangers
from hearth.gateway.forwarded import request_lines
from hearth.gateway.request import Request
from hearth.ports.guest import Call

if TYPE_CHECKING:
    from hearth.gateway.door import Door

_WARM = b"queue;dur=0, cold;dur=0"


class FunctionCall:
    """A request on its way through a function (`connection.Handler` towards the client, `ports.guest.Exchange` towards
    the instance)."""

    __slots__ = (
        "_abandoned",
        "_answer",
        "_began",
        "_body",
        "_body_end",
        "_call",
        "_cold",
        "_connection",
        "_deadline",
        "_door",
        "_ended",
        "_instance",
        "_owed",
        "_path",
        "_principal",
        "_queued",
        "_request",
        "_sent",
        "_size",
        "_stream_end",
        "_task",
        "_ticket",
        "_version",
        "invocation",
        "request_id",
    )

    def __init__(
        self, door: Door, connection: Connection, request: Request, now: float, path: bytes, invocation: bytes
    ) -> None:
        self._door = door
        self._connection = connection
        self._request = request
        self._path = path
        self._began = now
        self.invocation = invocation
        self.request_id = invocation
        self._version: Deployed | None = None
        self._principal: Principal | None = None
        self._instance: Instance | None = None
        self._call: Call | None = None
        self._answer: Answer | None = None
        self._ticket: Ticket | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = False
        self._abandoned = False  # the client has left, the guest has not yet put the request down
        self._owed = 0  # bytes of the answer that the client has not taken yet
        self._queued = self._cold = 0.0
        self._size = 0
        self._body: list[bytes] | None = None  # of the request, until there is an instance
        self._body_end = False

    # At the door.

    def begin(self, route: Route | None) -> None:
        """Find out where the request goes and whether it may."""
        request = self._request
        if request.special:
            self.request_id = self._door.request_id(request, self.invocation)
        if route is not None and (not request.special or auth.KEY not in request.special):
            version = self._choose(route)
            if version is not None and version.config.auth == "public":
                return self._enter(version)
        return self._ask(route)

    def _choose(self, route: Route) -> Deployed | None:
        """The version by the weights of ``live``; None when the request names one itself."""
        special = self._request.special
        if special and (b"x-hearth-version" in special or b"x-hearth-alias" in special):
            return None
        live = route.live
        return live.only or live.pick(self._door.chance())

    def _ask(self, route: Route | None) -> None:
        """A credential, a members' function, a version asked for by name, or nothing of that name."""
        special = self._request.special
        public = route is not None and route.live.versions[0].config.auth == "public"
        token = auth.credential(special, public)
        if token is None:
            return self._admit(route, None)
        principal = self._door.verifier.cached(token)
        if isinstance(principal, Principal):
            return self._admit(route, principal)
        if principal is None:
            return self.fail(auth.bad_credential())
        self._hold(self._door.resolve(token), lambda found: self._admit(route, found))
        return None

    def _admit(self, route: Route | None, principal: Principal | None) -> None:
        """Judge who asks, for the version that he asks for."""
        self._principal = principal
        if route is None:
            return self.fail(auth.unknown_function())
        version = self._choose(route)
        if version is None:
            return self._named(route, principal)
        error = self._door.refusal(principal, version)
        return self._enter(version) if error is None else self.fail(error)

    def _named(self, route: Route, principal: Principal | None) -> None:
        """``X-Hearth-Version`` and ``X-Hearth-Alias``: for members only."""
        error = self._door.refusal(principal, route.live.versions[0])
        if error is None and not auth.is_member(principal, route.function.namespace_id):
            error = Forbidden("only members of the namespace may choose a version")
        if error is not None:
            return self.fail(error)
        special = self._request.special
        found = self._door.named(route, special.get(b"x-hearth-version"), special.get(b"x-hearth-alias"))
        self._hold(found, self._enter)
        return None

    # Into an instance.

    def _enter(self, version: Deployed) -> None:
        """Take an instance, or a place in the line for one."""
        self._version = version
        request = self._request
        door = self._door
        if (request.length or request.size) > door.max_body:
            return self.fail(_too_large(door.max_body))
        now = self._began
        instance = door.pool.take(version)
        if instance is not None:
            self._deadline = now + version.config.timeout
            return self._send(instance, version.timeout_ms)
        config = version.config
        patience = config.timeout if door.pool.is_up(version) else config.timeout + config.init_timeout
        if not request.complete:
            self._connection.pause_body()
        self._deadline = self._connection.expires = (
            now + patience + 1.0
        )  # the pool tells in time; this is the net
        try:
            self._ticket = door.pool.wait(version, now, now + patience, self._granted)
        except HearthError as error:
            return self.fail(error)
        return None

    def _granted(self, instance: Instance | None, error: HearthError | None, cold: float) -> None:
        self._ticket = None
        now = self._door.now()
        self._cold = cold
        self._queued = now - self._began - cold
        if instance is None or self._ended:
            if instance is not None:
                self._door.pool.give_back(instance, now)
            elif error is not None:
                self.fail(error)
            return
        config = instance.group.version.config
        self._deadline = self._began + cold + config.timeout
        left = max(1, round((self._deadline - now) * 1000))
        self._connection.resume_body()
        self._send(instance, b"%d" % left)

    def _send(self, instance: Instance, milliseconds: bytes) -> None:
        """The frame: everything before this decides, everything after this answers."""
        request, connection, version = self._request, self._connection, self._version
        assert version is not None
        self._instance = instance
        instance.current = self.invocation if instance.in_flight == 1 else None
        self._sent = self._began if self._cold == 0.0 == self._queued else self._door.now()
        connection.expires = self._deadline
        if request.expects and not request.size:
            connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        head = b"\n".join(
            (
                self.invocation,
                milliseconds,
                request.method,
                self._path,
                version.prefix,
                *request_lines(
                    connection, request, version, self._principal, self.request_id, self.invocation
                ),
            )
        )
        body, end = request.take_body(), request.complete
        if self._body is not None:
            body, end, self._body = b"".join(self._body) + body, self._body_end or end, None
        self._size += len(body)
        self._call = call = instance.guest.request(head, body, end, self)
        if not end and not call.write(b"", False):
            connection.pause_body()

    # connection.Handler

    def body(self, data: bytes, end: bool) -> None:
        """More of the request's body: to the guest, as far as it has credit."""
        if self._ended:
            return
        self._size += len(data)
        if self._size > self._door.max_body:
            self.fail(_too_large(self._door.max_body))
        elif self._call is None:
            self._body = [*(self._body or ()), data]
            self._body_end = end
            self._connection.pause_body()
        else:
            if self._answer is None:
                self._connection.expires = min(self._deadline, self._door.now() + limits.BODY_TIMEOUT)
                if end:
                    self._connection.expires = self._deadline
            if not self._call.write(data, end):
                self._connection.pause_body()

    def broken(self, error: HearthError) -> None:
        self.fail(error)

    def gone(self) -> None:
        """The client has left: the guest is told, and the instance has room again once it has put the request down."""
        if not self._ended:
            self._note(Outcome.CANCELLED, 499, Cancelled.code)
            self._drop("client_gone")

    def drained(self) -> None:
        """The client has taken what was written: the guest may send as much again."""
        if self._call is not None and self._owed and not self._ended:
            owed, self._owed = self._owed, 0
            self._call.consumed(owed)

    def expire(self, now: float) -> None:
        """A deadline has passed: of the head, of a silent stream, or of a client that does not send its body."""
        version = self._version
        if self._answer is None and not self._request.complete and now < self._deadline:
            self.fail(RequestTimeout("the body did not come in time"))
        elif self._answer is None:
            timeout = version.config.timeout if version is not None else 0.0
            self.fail(
                FunctionTimeout(
                    f"the function did not answer within {timeout:g} s",
                    hint="raise timeout in function.yaml, or answer sooner",
                ),
                "timeout",
            )
        else:
            self._note(Outcome.FAILED, self._answer.status, FunctionTimeout.code)
            self._drop("timeout")
            self._connection.cut()

    # ports.guest.Exchange

    def on_response(self, status: int, head: bytes, body: bytes, end: bool) -> None:
        door, connection, request, version = self._door, self._connection, self._request, self._version
        assert version is not None
        now = door.now()
        if self._cold == 0.0 == self._queued:
            timing = b"%b, fn;dur=%.2f" % (_WARM, (now - self._sent) * 1000)
        else:
            timing = self._timing(now)
        translated = door.heads.translate(status, head, version.prefix)
        answer = Answer(connection, request, translated)
        answer.start(
            b"%b%bx-request-id: %b\r\nx-hearth-invocation: %b\r\nserver-timing: %b\r\n"
            % (version.version_header, door.common, self.request_id, self.invocation, timing),
            body,
            end,
        )
        self._answer = answer
        if end:
            self._finish(now)
        else:
            self._stream_end = now + limits.STREAM_MAX
            connection.expires = min(self._stream_end, now + limits.STREAM_IDLE)
            self._took(len(body))

    def on_body(self, data: bytes, end: bool) -> None:
        answer = self._answer
        assert answer is not None
        answer.more(data, end)
        now = self._door.now()
        if end:
            self._finish(now)
        else:
            self._connection.expires = min(self._stream_end, now + limits.STREAM_IDLE)
            self._took(len(data))

    def on_trailers(self, head: bytes) -> None:
        answer = self._answer
        assert answer is not None
        answer.end(head)
        self._finish(self._door.now())

    def on_failed(self, error: HearthError, detail: dict[str, Any] | None) -> None:
        """The handler raised, the instance died, or it answered nonsense."""
        if self._abandoned:
            return self.on_released()
        instance = self._instance
        if isinstance(error, FunctionCrashed) and instance is not None and self._answer is None:
            self._release()
            self._hold(self._door.cause_of_death(instance), self.fail)
            return None
        if detail is not None and auth.is_member(self._principal, self._namespace):
            error.details.update(detail)
        self._release()
        return self.fail(error)

    def on_writable(self) -> None:
        self._connection.resume_body()

    def on_released(self) -> None:
        """The guest has put down what was cancelled."""
        if self._abandoned:
            self._abandoned = False
            self._door.abandoned.discard(self)
            self._release()

    # The end.

    def overdue(self, now: float) -> bool:
        """Whether a request that nobody waits for has passed its deadline in the guest: it does not come back."""
        if now < self._deadline or self._instance is None:
            return False
        self._abandoned = False
        self._unblock(self._instance, now)
        return True

    def fail(self, error: HearthError, reason: str = "client_gone") -> None:
        """Answer with an error; where an answer has begun, cut it off."""
        if self._ended:
            return None
        door, connection, version = self._door, self._connection, self._version
        if not auth.is_member(self._principal, self._namespace):
            error = for_strangers(error)
        status = door.status_of(error)
        if version is not None:
            self._note(Outcome.FAILED, status, error.code)
        self._drop(reason)
        if self._answer is not None:
            return connection.cut()
        extra = b"x-hearth-invocation: %b\r\n" % self.invocation
        if version is not None:
            extra += b"%bserver-timing: %b\r\n" % (version.version_header, self._timing(door.now()))
            if isinstance(error, FunctionError):
                extra += door.common
        door.answer_error(connection, self._request, error, self.request_id, extra)
        return None

    def _finish(self, now: float) -> None:
        """The warm path's last step: give the instance back, note the call, go on with the connection."""
        self._ended = True
        instance, version, answer = self._instance, self._version, self._answer
        assert instance is not None and version is not None and answer is not None
        seconds = now - self._sent
        self._door.pool.give_back(instance, now, seconds)
        self._door.recorder.note(
            version,
            self.invocation,
            self.request_id,
            Outcome.SUCCEEDED if answer.status < 500 else Outcome.FAILED,
            answer.status,
            None,
            now,
            self._queued,
            self._cold,
            seconds,
        )
        self._connection.answered(self._request, now)

    def _took(self, count: int) -> None:
        """Give the guest credit for what the client takes; none while it is behind."""
        if self._connection.full:
            self._owed += count
        elif self._call is not None:
            self._call.consumed(count)

    def _drop(self, reason: str) -> None:
        """End this call without its answer: leave the line, or have the guest stop."""
        self._ended = True
        if self._ticket is not None:
            self._ticket.cancel()
        if self._task is not None:
            self._task.cancel()
        instance, call = self._instance, self._call
        if instance is None or call is None:
            return
        call.cancel(reason)
        if reason == "timeout":
            self._unblock(instance, self._door.now())
        else:
            self._abandoned = True
            self._door.abandoned.add(self)

    def _unblock(self, instance: Instance, now: float) -> None:
        """A request that does not end: alone in its instance, that is killed; else it finishes the others and goes."""
        self._instance = None
        if instance.limit == 1:
            self._door.pool.kill(instance)
        else:
            self._door.pool.retire(instance)
        self._door.pool.give_back(instance, now)

    def _release(self) -> None:
        instance, self._instance = self._instance, None
        if instance is not None:
            self._door.pool.give_back(instance, self._door.now())

    def _note(self, outcome: Outcome, status: int, error: str) -> None:
        version = self._version
        if version is not None:
            now = self._door.now()
            seconds = now - self._sent if self._call is not None else 0.0
            self._door.recorder.note(
                version,
                self.invocation,
                self.request_id,
                outcome,
                status,
                error,
                now,
                self._queued,
                self._cold,
                seconds,
            )

    def _timing(self, now: float) -> bytes:
        took = now - self._sent if self._call is not None else 0.0
        return b"queue;dur=%.2f, cold;dur=%.2f, fn;dur=%.2f" % (
            self._queued * 1000,
            self._cold * 1000,
            took * 1000,
        )

    @property
    def _namespace(self) -> str:
        return self._version.namespace_id if self._version is not None else ""

    def _hold(self, work: Any, then: Any) -> None:
        """Off the warm path: wait for something, then go on. The call owns the task and takes it along when it ends."""
        if not self._request.complete:
            self._connection.pause_body()
        self._connection.expires = self._door.now() + limits.HEADER_TIMEOUT
        self._deadline = self._connection.expires

        async def hold() -> None:
            try:
                found = await work
            except HearthError as error:
                found, self._task = None, None
                self.fail(error)
                return
            self._task = None
            if not self._ended:
                self._connection.resume_body()
                then(found)

        self._task = self._door.loop.create_task(hold())


def _too_large(most: int) -> TooLarge:
    return TooLarge(
        f"the body is larger than {limits.format_size(most)}", hint="send less, or raise --max-body"
    )
