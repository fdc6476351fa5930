"""One call of a function: the story of a request, from its parsed head to the last byte of its answer.

    begin (which version, who asks: entry.py) → enter (an instance, or the line for one) → send (a frame to the guest)
    → on_response, on_body … (the answer as it comes) → finish (give the instance back, note the call)

The warm path runs from `begin` to `send` and from `on_response` to `finish` without a task, a future or an await.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from hearth.app.admission import Ticket
from hearth.app.instances import Instance
from hearth.core import limits
from hearth.core.errors import (
    Cancelled,
    FunctionCrashed,
    FunctionTimeout,
    HearthError,
    TooLarge,
)
from hearth.core.invocation import Outcome
from hearth.core.permissions import Principal
from hearth.core.routing import Deployed, Route
from hearth.gateway import auth
from hearth.gateway.answer import LENGTHS, LENGTHS_END, TIMINGS, Answer
from hearth.gateway.connection import Connection
from hearth.gateway.entry import Admitted, Verdict, admit
from hearth.gateway.errors import RequestTimeout, for_strangers, status_of
from hearth.gateway.forwarded import tell, traced
from hearth.gateway.heads import SANDBOX
from hearth.gateway.request import Request
from hearth.gateway.shared import Shared
from hearth.ports.guest import Call

T = TypeVar("T")
_SUCCEEDED, _FAILED = Outcome.SUCCEEDED, Outcome.FAILED


class FunctionCall:
    """A request on its way through a function (`connection.Handler` towards the client, `ports.guest.Exchange` towards
    the instance)."""

    # Class attributes are what most calls never change: an object is made for each, so it sets only what it must.
    _version: Deployed
    _known = False  # which version it is
    _principal: Principal | None = None
    _instance: Instance | None = None
    _call: Call | None = None
    _answer: Answer | None = None  # one that comes in pieces
    _status = 0  # of the answer, once it has begun
    _ticket: Ticket[Instance] | None = None
    _task: asyncio.Task[None] | None = None
    _ended = False
    _abandoned = False  # the client has left, the guest has not yet put the request down
    _owed = 0  # bytes of the answer that the client has not taken yet
    _waited = False  # for an instance
    _queued = _cold = 0.0
    _size = 0
    _body: list[bytes] | None = None  # of the request, until there is an instance
    _body_end = False
    _deadline = _sent = _stream_end = 0.0
    depth = 0  # of calls by functions

    def __init__(
        self,
        shared: Shared,
        connection: Connection,
        request: Request,
        now: float,
        invocation: bytes,
        trace: bytes,
    ) -> None:
        self._shared = shared
        self._connection = connection
        self._request = request
        self._began = now
        self._trace = trace
        self.invocation = self.request_id = invocation

    @property
    def trace(self) -> bytes:
        """The trace context that the function is told."""
        return traced(self._request, self._trace) if self._request.special else self._trace

    @property
    def until(self) -> float:
        """When it ends at the latest, in monotonic seconds."""
        return self._stream_end or self._deadline

    # At the door.

    def begin(self, route: Route | None) -> None:
        """Find out where the request goes and whether it may."""
        request, shared = self._request, self._shared
        if request.special:
            self.request_id = shared.request_id(request, self.invocation)
        if route is not None:
            version = route.live.only or route.live.pick(shared.chance())
            if version.public and (request.plain or not request.addressed):
                return self._enter(version)
        return self._judged(admit(shared, route, request.special, request.key))

    def _judged(self, verdict: Verdict) -> None:
        if isinstance(verdict, Admitted):
            return self._admitted(verdict)
        if isinstance(verdict, HearthError):
            return self.fail(verdict)
        return self._hold(verdict, self._admitted)

    def _admitted(self, admitted: Admitted) -> None:
        self._principal = admitted.principal
        self._enter(admitted.version)

    # Into an instance.

    def _enter(self, version: Deployed) -> None:
        """Take an instance, or a place in the line for one."""
        self._version = version
        self._known = True
        request, shared = self._request, self._shared
        if not request.plain and (request.length or request.size) > shared.max_body:
            return self.fail(_too_large(shared.max_body))
        instance = shared.pool.take(version)
        if instance is None:
            return self._wait(version)
        self._sent = now = self._began
        self._deadline = now + version.config.timeout
        return self._send(instance, version.timeout_ms)

    def _wait(self, version: Deployed) -> None:
        """Queue up for an instance."""
        request, shared, config, now = self._request, self._shared, version.config, self._began
        patience = config.timeout if shared.pool.is_up(version) else config.timeout + config.init_timeout
        if not request.complete:
            self._connection.pause_body()
        self._deadline = self._connection.expires = now + patience + 1.0  # a net: the pool tells in time
        try:
            self._ticket = shared.pool.wait(version, now, now + patience, self._granted)
        except HearthError as error:
            return self.fail(error)
        return None

    def _granted(self, instance: Instance | None, error: HearthError | None, cold: float) -> None:
        self._ticket = None
        now = self._shared.now()
        self._waited = True
        self._cold = cold
        self._queued = now - self._began - cold
        if instance is None or self._ended:
            if instance is not None:
                self._shared.pool.give_back(instance, now)
            elif error is not None:
                self.fail(error)
            return
        config = instance.group.version.config
        self._deadline = self._began + cold + config.timeout
        self._sent = now
        left = max(1, round((self._deadline - now) * 1000))
        self._connection.resume_body()
        self._send(instance, b"%d" % left)

    def _send(self, instance: Instance, milliseconds: bytes) -> None:
        """The frame: everything before this decides, everything after this answers."""
        request, connection, version = self._request, self._connection, self._version
        self._instance = instance
        invocation = self.invocation
        instance.current = invocation if instance.in_flight == 1 else None
        connection.expires = self._deadline
        to, front, back = request.told
        if to is not version:
            front, back = tell(connection, request, version, self._principal)
        trace = self._trace if request.plain else self.trace
        head = b"".join(
            (invocation, b"\n", milliseconds, front, self.request_id, b"\ntraceparent:", trace, back)
        )
        if request.plain:
            self._call = instance.guest.request(head, b"", True, self)
            return
        if request.expects and not request.size:
            connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body, end = b"".join((*(self._body or ()), request.take_body())), request.complete
        self._body, self._size = None, len(body)
        self._call = call = instance.guest.request(head, body, end, self)
        if not end and not call.write(b"", False):
            connection.pause_body()

    # connection.Handler

    def body(self, data: bytes, end: bool) -> None:
        """More of the request's body: to the guest, as far as it has credit."""
        if self._ended:
            return
        self._size += len(data)
        if self._size > self._shared.max_body:
            self.fail(_too_large(self._shared.max_body))
        elif self._call is None:
            self._body = [*(self._body or ()), data]
            self._body_end = end
            self._connection.pause_body()
        else:
            if self._answer is None:
                self._connection.expires = min(self._deadline, self._shared.now() + limits.BODY_TIMEOUT)
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
        if self._answer is None and not self._request.complete and now < self._deadline:
            self.fail(RequestTimeout("the body did not come in time"))
        elif self._answer is None:
            timeout = self._version.config.timeout if self._known else 0.0
            self.fail(
                FunctionTimeout(
                    f"the function did not answer within {timeout:g} s",
                    hint="raise timeout in function.yaml, or answer sooner",
                ),
                "timeout",
            )
        else:
            self._note(Outcome.FAILED, self._status, FunctionTimeout.code)
            self._drop("timeout")
            self._connection.cut()

    # ports.guest.Exchange

    def on_response(self, status: int, head: bytes, body: bytes, end: bool) -> None:
        shared, connection, version = self._shared, self._connection, self._version
        request, now = self._request, shared.now()
        self._status = status
        timing = None if self._waited else TIMINGS.get(int((now - self._sent) * 100_000))
        ours = b"".join(
            (
                version.version_header,
                shared.common,
                b"x-request-id: ",
                self.request_id,
                b"\r\nx-hearth-invocation: ",
                self.invocation,
                timing or b"\r\nserver-timing: %b\r\n" % self._timing(now),
            )
        )
        translated = shared.heads.known.get(head)
        if translated is None or translated.status != status:
            translated = shared.heads.translate(status, head, version.prefix)
        if end and not translated.empty and request.method != b"HEAD":
            keeps, size = request.plain and not connection.door.draining, len(body)
            closing = b"" if keeps else connection.closing_header(request)
            length = LENGTHS[size] if size < LENGTHS_END else b"content-length: %d\r\n\r\n" % size
            connection.write(b"".join((translated.start, ours, closing, length, body)))
            return self._finish(now)
        answer = Answer(connection, request, translated)
        answer.start(ours, body, end)
        if end:
            return self._finish(now)
        self._answer = answer
        self._stream_end = now + limits.STREAM_MAX
        connection.expires = min(self._stream_end, now + limits.STREAM_IDLE)
        return self._took(len(body))

    def on_body(self, data: bytes, end: bool) -> None:
        answer = self._answer
        assert answer is not None
        answer.more(data, end)
        now = self._shared.now()
        if end:
            self._finish(now)
        else:
            self._connection.expires = min(self._stream_end, now + limits.STREAM_IDLE)
            self._took(len(data))

    def on_trailers(self, head: bytes) -> None:
        answer = self._answer
        assert answer is not None
        answer.end(head)
        self._finish(self._shared.now())

    def on_failed(self, error: HearthError, detail: dict[str, Any] | None) -> None:
        """The handler raised, the instance died, or it answered nonsense."""
        if self._abandoned:
            return self.on_released()
        instance = self._instance
        if isinstance(error, FunctionCrashed) and instance is not None and self._answer is None:
            self._release()
            self._hold(self._shared.cause_of_death(instance), self.fail)
            return None
        if detail is not None and self._may_read():
            error.details.update(detail)
        self._release()
        return self.fail(error)

    def on_writable(self) -> None:
        self._connection.resume_body()

    def on_released(self) -> None:
        """The guest has put down what was cancelled."""
        if self._abandoned:
            self._abandoned = False
            self._shared.abandoned.discard(self)
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
        shared, connection = self._shared, self._connection
        if not self._may_read():
            error = for_strangers(error)
        status = status_of(error)
        self._note(Outcome.FAILED, status, error.code)
        self._drop(reason)
        if self._answer is not None:
            return connection.cut()
        extra = b"x-hearth-invocation: %b\r\n" % self.invocation
        if self._known:
            timing = self._timing(shared.now())
            extra += b"%b%bserver-timing: %b\r\n" % (self._version.version_header, SANDBOX, timing)
        shared.answer_error(connection, self._request, error, self.request_id, extra)
        return None

    def _finish(self, now: float) -> None:
        """The warm path's last step: give the instance back, note the call, go on with the connection."""
        self._ended = True
        self._call = None  # which knows us: without a circle both are gone at once, and no collector has to look for them
        instance, status = self._instance, self._status
        assert instance is not None
        seconds = now - self._sent
        shared = self._shared
        shared.pool.give_back(instance, now, seconds)
        if status < 500 and self._principal is None and not self._waited:
            shared.recorder.warm(self._version, self.invocation, self.request_id, status, now, seconds)
            return self._connection.answered(self._request, now)
        shared.recorder.note(
            self._version,
            self.invocation,
            self.request_id,
            _SUCCEEDED if status < 500 else _FAILED,
            status,
            None,
            now,
            self._queued,
            self._cold,
            seconds,
            self._principal is not None and self._traced(),
        )
        return self._connection.answered(self._request, now)

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
            self._unblock(instance, self._shared.now())
        else:
            self._abandoned = True
            self._shared.abandoned.add(self)

    def _unblock(self, instance: Instance, now: float) -> None:
        """A request that does not end: alone in its instance, that is killed; else it finishes the others and goes."""
        self._instance = None
        if instance.limit == 1:
            self._shared.pool.kill(instance)
        else:
            self._shared.pool.retire(instance)
        self._shared.pool.give_back(instance, now)

    def _release(self) -> None:
        instance, self._instance = self._instance, None
        if instance is not None:
            if instance.guest.closed:
                self._shared.pool.lost(instance)
            self._shared.pool.give_back(instance, self._shared.now())

    def _note(self, outcome: Outcome, status: int, error: str) -> None:
        if self._known:
            now = self._shared.now()
            seconds = now - self._sent if self._call is not None else 0.0
            self._shared.recorder.note(
                self._version,
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
        else:
            self._shared.recorder.refuse(error)

    def _timing(self, now: float) -> bytes:
        took = now - self._sent if self._call is not None else 0.0
        return b"queue;dur=%.2f, cold;dur=%.2f, fn;dur=%.2f" % (
            self._queued * 1000,
            self._cold * 1000,
            took * 1000,
        )

    def _traced(self) -> bool:
        """Whether a member asked that this call be kept."""
        return self._request.special.get(b"x-hearth-trace") == b"1" and auth.is_member(
            self._principal, self._namespace
        )

    def _may_read(self) -> bool:
        return self._known and auth.may_read(self._principal, self._version)

    @property
    def _namespace(self) -> str:
        return self._version.namespace_id if self._known else ""

    def _hold(self, work: Awaitable[T], then: Callable[[T], None]) -> None:
        """Off the warm path: wait for something, then go on. The call owns the task and takes it along when it ends."""
        if not self._request.complete:
            self._connection.pause_body()
        self._connection.expires = self._shared.now() + limits.HEADER_TIMEOUT
        self._deadline = self._connection.expires

        async def hold() -> None:
            try:
                found = await work
            except HearthError as error:
                self._task = None
                self.fail(error)
                return
            self._task = None
            if not self._ended:
                self._connection.resume_body()
                then(found)

        self._task = asyncio.get_running_loop().create_task(hold())


def _too_large(most: int) -> TooLarge:
    return TooLarge(
        f"the body is larger than {limits.format_size(most)}", hint="send less, or raise --max-body"
    )
