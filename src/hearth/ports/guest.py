"""The host's end of one instance: requests go in, answers come out by callback.

Everything here runs on the event loop's thread. The warm path allocates no task and no future.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from hearth.core.errors import HearthError


class Exchange(Protocol):
    """The caller's side of one request: who waits for the answer (the gateway, a queue, a proof)."""

    def on_response(self, status: int, head: bytes, body: bytes, end: bool) -> None:
        """The answer's head: `head` is ``name:value`` lines joined by ``\\n`` (names lower case, checked by the host
        side: no CR, LF, NUL, known to be well-formed), with the first bytes of the body."""
        ...

    def on_body(self, data: bytes, end: bool) -> None: ...

    def on_trailers(self, head: bytes) -> None: ...

    def on_failed(self, error: HearthError, detail: dict[str, Any] | None) -> None:
        """Instead of the rest: the handler raised (FunctionFailed, `detail` has type, message, traceback), the instance
        died (FunctionCrashed), or it broke the protocol (FunctionBadResponse). Nothing follows."""
        ...

    def on_writable(self) -> None:
        """Credit for the request's body is there again, after `Call.write` returned False."""
        ...

    def on_released(self) -> None:
        """After `Call.cancel`: the guest has put the request down (its handler returned or was stopped), so the instance
        has room again. Called once, also when the instance dies first; the one thing heard after a cancel."""
        ...


class Call(Protocol):
    """One request in work on an instance."""

    def write(self, data: bytes, end: bool) -> bool:
        """Send more of the request's body; False: stop until `on_writable`."""
        ...

    def consumed(self, count: int) -> None:
        """`count` bytes of the response's body have left: gives the guest that much credit."""
        ...

    def cancel(self, reason: str) -> None:
        """``client_gone``, ``timeout``, ``drain``. The exchange hears nothing more but `on_released`."""
        ...


class Guest(Protocol):
    """One connected shim."""

    def request(self, head: bytes, body: bytes, end: bool, exchange: Exchange) -> Call:
        """Send a request. `head` is the request head of the protocol page, `body` its first bytes."""
        ...

    async def load(self, payload: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Send `load`, wait for `ready`; returns what ready says (such as the detected handler).

        Raises:
            FunctionLoadFailed: the shim reported an error (details: type, message, traceback, file, line).
            FunctionCrashed: it died first.
            FunctionTimeout: the deadline (monotonic) passed.
        """
        ...

    def drain(self) -> None:
        """Ask it to take no new requests and to end when the present ones are done."""
        ...

    def close(self) -> None:
        """Close the connection; open exchanges hear FunctionCrashed."""
        ...

    def in_work(self) -> list[Exchange]:
        """Who waits for an answer of it now."""
        ...

    @property
    def closed(self) -> bool: ...


class GuestFactory(Protocol):
    """Wraps a connected descriptor."""

    async def open(
        self,
        fd: int,
        deadline: float,
        on_log: Callable[[str | None, str, int, str, str], None],
        on_closed: Callable[[], None],
    ) -> Guest:
        """Exchange hellos; takes the descriptor over.

        Args:
            fd: connected stream socket.
            deadline: monotonic seconds.
            on_log: called with (invocation id or None, stream ``stdout|stderr|log``, time in ms, level, text).
            on_closed: called once when the connection is gone.

        Raises:
            ProtocolViolation: the peer speaks another version or nonsense.
        """
        ...
