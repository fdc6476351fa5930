"""A guest without a process: what pool, gateway and queue are tested against."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

from hearth.core.errors import FunctionCrashed, HearthError, ProtocolViolation
from hearth.ports.guest import Exchange
from hearth.protocol.heads import ResponseHead, parse_response_head

OnLog = Callable[[str | None, str, int, str, str], None]


class FakeCall:
    """One request that a FakeGuest was given; a test answers it by `respond`, `body`, `trailers`, `fail`.

    Args:
        head, body, end: as `Guest.request` got them; `body` and `end` grow by `write`.
    """

    def __init__(self, guest: FakeGuest, head: bytes, body: bytes, end: bool, exchange: Exchange) -> None:
        self.guest = guest
        self.head = head
        self.body = body
        self.end = end
        self.exchange = exchange
        self.credit_returned = 0
        self.cancelled: str | None = None
        self.over = False
        self.blocked = False  # while True, `write` returns False

    @property
    def parts(self) -> list[str]:
        """Invocation id, deadline, method, target, prefix, caller, client, scheme."""
        return self.head.decode("latin-1").split("\n")[:8]

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = self.head.decode("latin-1").split("\n")[8:]
        return [(name, value) for name, _, value in (line.partition(":") for line in lines)]

    # The gateway's side: ports.guest.Call.

    def write(self, data: bytes, end: bool) -> bool:
        if not self.over:
            self.body += data
            self.end = end
        return not self.blocked

    def consumed(self, count: int) -> None:
        self.credit_returned += count

    def cancel(self, reason: str) -> None:
        if not self.over:
            self.over = True
            self.cancelled = reason
            self.guest.unreleased.append(self)
            self.guest.forget(self)

    # The test's side.

    def release(self) -> None:
        """The guest has put a cancelled request down."""
        if self in self.guest.unreleased:
            self.guest.unreleased.remove(self)
            self.exchange.on_released()

    def respond(self, head: bytes = b"200", body: bytes = b"", end: bool = True) -> None:
        """Answer with a response head of the protocol page, such as ``b"200\\ncontent-type:text/plain"``."""
        parsed = parse_response_head(head)
        if not isinstance(parsed, ResponseHead):
            raise AssertionError(f"a test's own head is malformed: {parsed}")
        if not self.over:
            self._over(end)
            self.exchange.on_response(parsed.status, parsed.fields, body, end)

    def send_body(self, data: bytes, end: bool = False) -> None:
        if not self.over:
            self._over(end)
            self.exchange.on_body(data, end)

    def trailers(self, lines: bytes) -> None:
        if not self.over:
            self._over(True)
            self.exchange.on_trailers(lines)

    def fail(self, error: HearthError, detail: dict[str, Any] | None = None) -> None:
        if not self.over:
            self._over(True)
            self.exchange.on_failed(error, detail)

    def unblock(self) -> None:
        """Credit is there again."""
        self.blocked = False
        if not self.over:
            self.exchange.on_writable()

    def _over(self, end: bool) -> None:
        if end:
            self.over = True
            self.guest.forget(self)


class FakeGuest:
    """`ports.guest.Guest`.

    Args:
        answer: called with each new request at the loop's next turn; None leaves requests to the test, in `calls`.
        ready: what `load` returns, or the error that it raises.
    """

    def __init__(
        self,
        answer: Callable[[FakeCall], None] | None = None,
        ready: dict[str, Any] | HearthError | None = None,
    ) -> None:
        self._answer = answer
        self._ready = ready if ready is not None else {"handler": "handler.handler", "shape": "lambda"}
        self._closed = False
        self.on_closed: Callable[[], None] | None = None
        self.on_end: Callable[[], None] | None = None  # the sandbox ends too
        self.on_log: OnLog | None = None
        self.calls: list[FakeCall] = []  # in work
        self.seen: list[FakeCall] = []  # all that ever came
        self.unreleased: list[FakeCall] = []  # cancelled, and not yet put down
        self.loaded: dict[str, Any] | None = None
        self.draining = False
        self.load_gate: asyncio.Event | None = None  # when set by a test, `load` waits for it

    def request(self, head: bytes, body: bytes, end: bool, exchange: Exchange) -> FakeCall:
        call = FakeCall(self, head, body, end, exchange)
        loop = asyncio.get_running_loop()
        self.seen.append(call)
        self.calls.append(call)
        if self._closed:
            loop.call_soon(call.fail, FunctionCrashed("the function's instance ended"))
        elif self._answer is not None:
            loop.call_soon(self._answer, call)
        return call

    async def load(self, payload: dict[str, Any], deadline: float) -> dict[str, Any]:
        self.loaded = payload
        if self.load_gate is not None:
            await self.load_gate.wait()
        if isinstance(self._ready, HearthError):
            raise self._ready
        if self._closed:
            raise FunctionCrashed("the function's instance ended")
        return self._ready

    def drain(self) -> None:
        """Like a shim: closes once what is in work is done."""
        self.draining = True
        if not self.calls:
            self.die()

    def close(self) -> None:
        self.die(FunctionCrashed("the function's instance was stopped"))

    def in_work(self) -> list[Exchange]:
        return [call.exchange for call in self.calls]

    @property
    def closed(self) -> bool:
        return self._closed

    def die(self, error: HearthError | None = None) -> None:
        """The connection is gone: open exchanges hear `error`, the owner hears `on_closed` at the next turn."""
        if self._closed:
            return
        self._closed = True
        for call in list(self.calls):
            call.fail(error or FunctionCrashed("the function's instance ended"))
        for call in list(self.unreleased):
            call.release()
        if self.on_end is not None:
            self.on_end()
        if self.on_closed is not None:
            asyncio.get_running_loop().call_soon(self.on_closed)

    def forget(self, call: FakeCall) -> None:
        """A call is over."""
        if call in self.calls:
            self.calls.remove(call)
        if self.draining and not self.calls:
            self.die()

    def log(self, invocation: str | None, stream: str, at_ms: int, level: str, text: str) -> None:
        """A line, as if the function had printed it."""
        if self.on_log is not None:
            self.on_log(invocation, stream, at_ms, level, text)


class FakeGuests:
    """`ports.guest.GuestFactory`: gives out guests that `make` makes; descriptors are only noted.

    Args:
        make: called with the descriptor; an error that it returns is raised.
        on_end: called with the descriptor when its connection is gone.
    """

    def __init__(
        self,
        make: Callable[[int], FakeGuest | HearthError] | None = None,
        on_end: Callable[[int], None] | None = None,
    ) -> None:
        self._on_end = on_end
        self._make = make if make is not None else lambda fd: FakeGuest()
        self.opened: list[FakeGuest] = []

    async def open(self, fd: int, deadline: float, on_log: OnLog, on_closed: Callable[[], None]) -> FakeGuest:
        guest = self._make(fd)
        if isinstance(guest, HearthError):
            raise guest
        if guest.closed:
            raise ProtocolViolation("the sandbox's program hung up")
        guest.on_log, guest.on_closed = on_log, on_closed
        if self._on_end is not None:
            guest.on_end = functools.partial(self._on_end, fd)
        self.opened.append(guest)
        return guest
