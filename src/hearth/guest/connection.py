"""The connection to one guest: an asyncio.Protocol that turns frames into calls of exchanges.

The data path. Nothing here awaits or makes a task for a request; frames that are pushed within one turn
of the loop leave in one write.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

from hearth.core.errors import (
    FunctionBadResponse,
    FunctionCrashed,
    FunctionFailed,
    FunctionLoadFailed,
    FunctionTimeout,
    HearthError,
    ProtocolViolation,
)
from hearth.guest.call import CHUNK, StreamCall
from hearth.guest.logs import LogIntake, OnLog, plain
from hearth.ports.clock import Clock
from hearth.ports.guest import Exchange
from hearth.protocol import frames
from hearth.protocol.heads import ResponseHead, parse_response_head, trailers_well_formed

STALL = 30.0  # seconds that a guest may leave what was sent to it unread
HELD_MAX = 32 << 20  # bytes kept for a guest that does not read
_WRITE_HIGH = 512 << 10  # bytes in the transport from which on it pauses us
_HEADS_MAX, _HEAD_CACHED_MAX = 512, 2048  # checked response heads that are remembered; bytes of one
_TEXT_MAX = 64 << 10  # characters of a message or traceback that are kept


class GuestConnection(asyncio.Protocol):
    """`ports.guest.Guest` over a stream socket; made by `StreamGuests.open`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        on_log: OnLog,
        on_closed: Callable[[], None],
        stall: float = STALL,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._on_closed: Callable[[], None] | None = on_closed
        self._stall = stall
        self._logs = LogIntake(loop, clock, on_log, self.push)
        self._decoder = frames.Decoder()
        self._transport: asyncio.Transport | None = None
        self._calls: dict[int, StreamCall] = {}
        self._cancelled: dict[int, Exchange] = {}  # whose last frame is still to come
        self._next = 1
        self._window = 0  # what the guest's hello gives each new stream
        self._heads: dict[bytes, ResponseHead] = {}
        self._out: list[bytes] = []
        self._flush_due = False
        self._held = 0  # bytes in `_out` while paused
        self._stall_timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._draining = False
        self._greeting: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._loading: asyncio.Future[dict[str, Any]] | None = None
        self._pings: dict[bytes, asyncio.Future[None]] = {}
        self._error: HearthError | None = None  # why we hung up
        self.paused = False

    # What `ports.guest.Guest` promises.

    def request(self, head: bytes, body: bytes, end: bool, exchange: Exchange) -> StreamCall:
        """Send a request. `head` is the request head of the protocol page, `body` its first bytes."""
        stream = self._next
        self._next = stream + 1
        call = StreamCall(self, stream, head, self._window, exchange)
        if self._closed:
            self._loop.call_soon(self._fail, call, self._death())
            return call
        self._calls[stream] = call
        size = len(body)
        if size <= call.send_credit and size <= CHUNK:
            call.send_credit -= size
            call.sent_end = end
            self.push(frames.head_frame(frames.REQUEST, stream, head, body, 1 if end else 0))
        else:
            self.push(frames.head_frame(frames.REQUEST, stream, head, b"", 0))
            call.write(body, end)
        return call

    async def load(self, payload: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Send `load`, wait for `ready`; `deadline` in monotonic seconds.

        Raises FunctionLoadFailed, FunctionCrashed or FunctionTimeout, as the port says.
        """
        if self._closed:
            raise self._death()
        try:
            frame = frames.json_frame(frames.LOAD, 0, payload)
        except ValueError:
            raise FunctionLoadFailed(
                "the function's environment is too large", hint="keep env well below 1 MiB in all"
            ) from None
        self._loading = self._loop.create_future()
        self.push(frame)
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                return await self._loading
        except TimeoutError:
            raise FunctionTimeout(
                "the function did not finish loading in time",
                hint="do less at import, or raise init_timeout in function.yaml",
            ) from None

    async def ping(self, token: bytes, deadline: float) -> None:
        """Wait for the pong to `token` (1 to 64 bytes); a serial guest answers between two requests.

        Raises FunctionTimeout when the deadline (monotonic seconds) passes, FunctionCrashed when it ended.
        """
        if self._closed:
            raise self._death()
        future: asyncio.Future[None] = self._loop.create_future()
        self._pings[token] = future
        self.push(frames.frame(frames.PING, 0, token))
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                await future
        except TimeoutError:
            raise FunctionTimeout("the function's instance does not answer") from None
        finally:
            self._pings.pop(token, None)

    def drain(self) -> None:
        """Ask it to take no new requests and to end when the present ones are done."""
        if not self._closed and not self._draining:
            self._draining = True
            self.push(frames.frame(frames.DRAIN, 0))

    def close(self) -> None:
        """Close the connection; open exchanges hear FunctionCrashed."""
        self._end(FunctionCrashed("the function's instance was stopped"))

    @property
    def closed(self) -> bool:
        return self._closed

    # What `StreamGuests` and `StreamCall` need.

    async def greeted(self, deadline: float) -> dict[str, Any]:
        """The guest's hello, which ours has answered. Raises ProtocolViolation."""
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                return await self._greeting
        except TimeoutError:
            raise ProtocolViolation("the sandbox's program did not say hello in time") from None

    def push(self, frame: bytes) -> None:
        """Queue a frame; it leaves with the others at the end of this turn of the loop."""
        self._out.append(frame)
        if self.paused:
            self._held += len(frame)
            if self._held > HELD_MAX:
                self._violate("it does not read what is sent to it")
        elif not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def forget(self, call: StreamCall) -> None:
        self._calls.pop(call.stream, None)

    def cancelled(self, call: StreamCall) -> None:
        self._cancelled[call.stream] = call.exchange

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH)

    def data_received(self, data: bytes) -> None:
        decoder = self._decoder
        calls = self._calls
        for kind, flags, stream, payload in decoder.feed(data):
            if self._closed:
                return
            if kind == frames.RESPONSE or kind == frames.BODY:
                call = calls.get(stream)
                if call is None:
                    self._stray(stream, flags & 1 == 1)
                elif kind == frames.RESPONSE:
                    self._response(call, payload, flags & 1 == 1)
                else:
                    self._body(call, payload, flags & 1 == 1)
            else:
                self._other(kind, stream, payload)
        if decoder.violation is not None:
            self._violate(decoder.violation)

    def pause_writing(self) -> None:
        self.paused = True
        self._stall_timer = self._loop.call_later(self._stall, self._stalled)

    def resume_writing(self) -> None:
        self.paused = False
        self._held = 0
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        self._flush()
        for call in list(self._calls.values()):
            if self.paused:
                return
            call.pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(FunctionCrashed("the function's instance ended"))
        if self._on_closed is not None:
            on_closed, self._on_closed = self._on_closed, None
            on_closed()

    # Frames that come in.

    def _response(self, call: StreamCall, payload: bytes, end: bool) -> None:
        size = int.from_bytes(payload[:4], "big") + 4
        if len(payload) < size or size < 4 or len(payload) < 4:
            return self._violate("a response whose head is longer than its frame")
        if call.answered:
            return self._reject(call, "it answered twice")
        head = payload[4:size]
        parsed = self._heads.get(head)
        if parsed is None:
            checked = parse_response_head(head)
            if isinstance(checked, str):
                return self._reject(call, checked)
            parsed = self._remember(head, checked)
        status, fields, length = parsed
        body = payload[size:]
        if length >= 0 and status != 304 and call.head.split(b"\n", 3)[2] != b"HEAD":
            call.left = length
        call.answered = True
        if self._count(call, len(body), end):
            call.exchange.on_response(status, fields, body, end)
        return None

    def _body(self, call: StreamCall, payload: bytes, end: bool) -> None:
        if not call.answered:
            return self._reject(call, "its body came before its head")
        if self._count(call, len(payload), end):
            call.exchange.on_body(payload, end)
        return None

    def _count(self, call: StreamCall, size: int, end: bool) -> bool:
        """Book bytes of a response's body; whether all is well. Ends the stream at its end."""
        if size > call.credit:
            self._violate("more of a body than it had credit for")
            return False
        call.credit -= size
        if call.left >= 0:
            call.left -= size
            if call.left < 0 or (end and call.left > 0):
                self._reject(call, "its body does not have the length that its content-length says")
                return False
        if end:
            if not call.sent_end:  # the answer came before the whole request: we send no more of it
                self.push(frames.frame(frames.BODY, call.stream, b"", frames.END))
            call.ended = True
            del self._calls[call.stream]
        return True

    def _other(self, kind: int, stream: int, payload: bytes) -> None:
        if kind == frames.LOG:
            wrong = self._logs.take(payload)
            if wrong is not None:
                self._violate(wrong)
        elif kind == frames.PING:
            if len(payload) > frames.MAX_PING:
                return self._violate("too long a ping")
            self.push(frames.frame(frames.PONG, 0, payload))
        elif kind == frames.PONG:
            waiting = self._pings.pop(payload, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
        elif kind in (frames.HELLO, frames.READY, frames.INIT_ERROR):
            self._lifecycle(kind, payload)
        elif kind in (frames.LOAD, frames.REQUEST, frames.DRAIN, frames.LOG_WINDOW_UPDATE):
            self._violate("a frame that only a host may send")
        else:
            call = self._calls.get(stream)
            if call is None:
                return self._stray(stream, kind != frames.WINDOW)
            self._about(call, kind, payload)
        return None

    def _about(self, call: StreamCall, kind: int, payload: bytes) -> None:
        """The rarer frames of a stream."""
        if kind == frames.WINDOW_UPDATE:
            credit = frames.read_u32(payload)
            if credit is None or call.send_credit + credit > frames.MAX_WINDOW:
                return self._violate("a malformed window")
            call.send_credit += credit
            return call.pump()
        if kind == frames.TRAILERS:
            if not call.answered or not trailers_well_formed(payload):
                return self._reject(call, "its trailers are malformed")
            if self._count(call, 0, True):
                call.exchange.on_trailers(payload)
        elif kind == frames.ERROR:
            detail = _object(payload)
            if detail is None:
                return self._violate("a malformed error frame")
            told = {key: plain(detail.get(key), _TEXT_MAX) for key in ("type", "message", "traceback")}
            name, message = told["type"] or "Error", told["message"]
            kind_of = FunctionBadResponse if name == "BadResponse" else FunctionFailed
            text = message if name == "BadResponse" else f"{name}: {message}" if message else name
            call.end()
            call.exchange.on_failed(kind_of(text, hint="see the function's logs"), told)
        elif kind == frames.CANCEL:
            call.end()
            call.exchange.on_failed(FunctionBadResponse("the function gave up its answer"), None)
        else:  # upgrade: our hello did not offer it
            self._reject(call, "it wants to switch protocols, which is not supported")
        return None

    def _lifecycle(self, kind: int, payload: bytes) -> None:
        told = _object(payload)
        if told is None:
            return self._violate("a malformed hello, ready or init-error frame")
        if kind == frames.HELLO:
            window = told.get("window", frames.WINDOW)
            if self._greeting.done() or told.get("version") != frames.VERSION:
                return self._violate("it speaks another version of the guest protocol")
            if type(window) is not int or not 0 <= window <= frames.MAX_WINDOW:
                return self._violate("a malformed window in its hello")
            self._window = window
            self.push(
                frames.json_frame(
                    frames.HELLO,
                    0,
                    {
                        "version": frames.VERSION,
                        "features": [],
                        "window": frames.WINDOW,
                        "log_window": frames.LOG_WINDOW,
                    },
                )
            )
            return self._greeting.set_result(told)
        if self._loading is None or self._loading.done():
            return self._violate("ready or init-error without load")
        if kind == frames.READY:
            return self._loading.set_result(told)
        return self._loading.set_exception(_load_failed(told))

    # Ends.

    def _stray(self, stream: int, last: bool) -> None:
        """A frame of a stream that is not in work. The last one of a cancelled stream says that its handler is done."""
        if not 0 < stream < self._next:
            self._violate("a frame for a stream that never existed")
        elif last and stream in self._cancelled:
            self._cancelled.pop(stream).on_released()

    def _reject(self, call: StreamCall, what: str) -> None:
        """One answer makes no sense; the others go on."""
        call.cancel("bad_response")
        call.exchange.on_failed(FunctionBadResponse(f"the function's answer makes no sense: {what}"), None)

    def _violate(self, what: str) -> None:
        self._end(FunctionBadResponse(f"the function's instance broke the guest protocol: {what}"))

    def _stalled(self) -> None:
        self._end(FunctionCrashed("the function's instance stopped reading and was ended"))

    def _death(self) -> HearthError:
        return self._error or FunctionCrashed("the function's instance ended")

    def _end(self, error: HearthError) -> None:
        if self._closed:
            return
        self._closed = True
        self._error = error
        self._logs.close()
        self._out.clear()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        if not self._greeting.done():
            self._greeting.set_exception(ProtocolViolation(error.message))
            self._greeting.exception()  # read once, so that an abandoned future does not warn
        crashed = FunctionCrashed(error.message)
        for future in (self._loading, *self._pings.values()):
            if future is not None and not future.done():
                future.set_exception(crashed)
                future.exception()
        calls, released = list(self._calls.values()), list(self._cancelled.values())
        self._calls.clear()
        self._cancelled.clear()
        for call in calls:
            self._fail(call, error)
        for exchange in released:
            exchange.on_released()

    def _fail(self, call: StreamCall, error: HearthError) -> None:
        if not call.ended:
            call.ended = True
            call.exchange.on_failed(error, None)

    def _remember(self, head: bytes, parsed: ResponseHead) -> ResponseHead:
        if len(head) <= _HEAD_CACHED_MAX:
            if len(self._heads) >= _HEADS_MAX:
                del self._heads[next(iter(self._heads))]  # the oldest: dicts keep their order
            self._heads[head] = parsed
        return parsed

    def _flush(self) -> None:
        self._flush_due = False
        out = self._out
        if out and not self.paused and self._transport is not None:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._transport.write(data)


def _object(payload: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _load_failed(told: dict[str, Any]) -> FunctionLoadFailed:
    details: dict[str, Any] = {
        key: plain(told.get(key), _TEXT_MAX) for key in ("type", "message", "traceback", "file")
    }
    line = told.get("line")
    details["line"] = line if type(line) is int and line > 0 else None
    where = ""
    if details["file"]:
        where = f" ({details['file']}" + (f", line {details['line']})" if details["line"] else ")")
    text = ": ".join(part for part in (details["type"], details["message"]) if part) or "it did not load"
    return FunctionLoadFailed(text + where, hint="see the traceback in the function's logs", details=details)
