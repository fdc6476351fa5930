"""The connection to one guest: an asyncio.Protocol that turns frames into calls of exchanges.

The data path. Nothing here awaits or makes a task for a request; frames that are pushed within one turn
of the loop leave in one write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from hearth.core.errors import FunctionBadResponse, FunctionCrashed, FunctionFailed, HearthError
from hearth.guest.call import CHUNK, StreamCall
from hearth.guest.lifecycle import TEXT_MAX, Lifecycle, json_object
from hearth.guest.logs import LogIntake, OnLog, plain
from hearth.guest.outbox import STALL, Outbox
from hearth.ports.clock import Clock
from hearth.ports.guest import Exchange
from hearth.protocol import frames
from hearth.protocol.heads import ResponseHead, parse_response_head, trailers_well_formed

RESPONSE, END, WINDOW = frames.RESPONSE, frames.END, frames.WINDOW
HEADER, TO_HEAD = (
    frames.HEADER_SIZE,
    frames.HEADER_SIZE + 4,
)  # bytes of a frame before its payload, before its head
_HEADS_MAX, _HEAD_CACHED_MAX = 512, 2048  # checked response heads that are remembered; bytes of one
_FROM_HOST = (frames.LOAD, frames.REQUEST, frames.DRAIN, frames.LOG_WINDOW_UPDATE)


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
        self._outbox = Outbox(loop, stall, self._stuck)
        self.push = self._outbox.push
        self._life = Lifecycle(loop, self.push)
        self._logs = LogIntake(loop, clock, on_log, self.push)
        self._decoder = frames.Decoder()
        self._calls: dict[int, StreamCall] = {}
        self._cancelled: dict[int, Exchange] = {}  # whose last frame is still to come
        self._next = 1
        self._heads: dict[bytes, ResponseHead] = {}
        self._closed = False
        self._draining = False
        self._error: HearthError | None = None  # why we hung up

    # What `ports.guest.Guest` promises.

    def request(self, head: bytes, body: bytes, end: bool, exchange: Exchange) -> StreamCall:
        """Send a request. `head` is the request head of the protocol page, `body` its first bytes."""
        stream = self._next
        self._next = stream + 1
        whole = end and not body
        call = StreamCall(self, stream, head, self._life.window, exchange, whole)
        if self._closed:
            self._loop.call_soon(self._fail, call, self._death())
            return call
        self._calls[stream] = call
        if whole:
            self.push(frames.whole_request(stream, head))
            return call
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
        return await self._life.load(payload, self._left(deadline))

    async def ping(self, token: bytes, deadline: float) -> None:
        """Wait for the pong to `token` (1 to 64 bytes); a serial guest answers between two requests.

        Raises FunctionTimeout when the deadline (monotonic seconds) passes, FunctionCrashed when it ended.
        """
        if self._closed:
            raise self._death()
        await self._life.ping(token, self._left(deadline))

    def drain(self) -> None:
        """Ask it to take no new requests and to end when the present ones are done."""
        if not self._closed and not self._draining:
            self._draining = True
            self.push(frames.frame(frames.DRAIN, 0))

    def close(self) -> None:
        """Close the connection; open exchanges hear FunctionCrashed."""
        self._end(FunctionCrashed("the function's instance was stopped"))

    def in_work(self) -> list[Exchange]:
        """See the port."""
        return [call.exchange for call in self._calls.values()]

    @property
    def closed(self) -> bool:
        return self._closed

    # What `StreamGuests` and `StreamCall` need.

    async def greeted(self, deadline: float) -> None:
        """The guest's hello has come and ours has answered. Raises ProtocolViolation."""
        await self._life.hello(self._left(deadline))

    @property
    def paused(self) -> bool:
        return self._outbox.paused

    def forget(self, call: StreamCall) -> None:
        self._calls.pop(call.stream, None)

    def cancelled(self, call: StreamCall) -> None:
        self._cancelled[call.stream] = call.exchange

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._outbox.open(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        decoder = self._decoder
        if not decoder.buffered:
            done = self._answers(data)
            if done == len(data):
                return
            data = data[done:] if done else data
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
        self._outbox.pause()

    def resume_writing(self) -> None:
        self._outbox.resume()
        for call in list(self._calls.values()):
            if self._outbox.paused:
                return
            call.pump()

    def connection_lost(self, exc: Exception | None) -> None:
        told = self._life.greeted  # else `open` raises, and its caller hears of it so
        self._end(FunctionCrashed("the function's instance ended"))
        if self._on_closed is not None and told:
            on_closed, self._on_closed = self._on_closed, None
            on_closed()

    # Frames that come in.

    def _answers(self, data: bytes) -> int:
        """Take the whole answers to whole requests that `data` begins with: nearly all that ever comes.

        Returns where something else begins, which `_response` and the others look at in peace.
        """
        calls, heads, unpack = self._calls, self._heads, frames.unpack_with_head
        at, size = 0, len(data)
        while size - at > TO_HEAD:
            length, kind, flags, stream, head_size = unpack(data, at)
            after_head, end = at + TO_HEAD + head_size, at + HEADER + length
            if kind != RESPONSE or flags != END or end > size or after_head > end or length > WINDOW:
                break
            call, parsed = calls.get(stream), heads.get(data[at + TO_HEAD : after_head])
            if call is None or parsed is None or call.answered or not call.sent_end:
                break
            status, fields, announced = parsed
            if announced >= 0:
                break
            at = end
            del calls[stream]
            call.ended = True
            call.exchange.on_response(status, fields, data[after_head:end], True)
            if self._closed:
                return size
        return at

    def _response(self, call: StreamCall, payload: bytes, end: bool) -> None:
        size = int.from_bytes(payload[:4], "big") + 4
        if len(payload) < size:
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
        if end and length < 0 and call.sent_end and len(body) <= call.credit:
            del self._calls[call.stream]  # the common case: a whole answer to a whole request
            call.ended = True
            return call.exchange.on_response(status, fields, body, True)
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
            call.end()
        return True

    def _other(self, kind: int, stream: int, payload: bytes) -> None:
        wrong: str | None = None
        if kind == frames.LOG:
            wrong = self._logs.take(payload)
        elif kind == frames.PING:
            if len(payload) > frames.MAX_PING:
                wrong = "too long a ping"
            else:
                self.push(frames.frame(frames.PONG, 0, payload))
        elif kind == frames.PONG:
            self._life.pong(payload)
        elif kind in (frames.HELLO, frames.READY, frames.INIT_ERROR):
            wrong = self._life.take(kind, payload)
        elif kind in _FROM_HOST:
            wrong = "a frame that only a host may send"
        else:
            call = self._calls.get(stream)
            if call is None:
                self._stray(stream, kind != frames.WINDOW_UPDATE)
            else:
                wrong = self._about(call, kind, payload)
        if wrong is not None:
            self._violate(wrong)

    def _about(self, call: StreamCall, kind: int, payload: bytes) -> str | None:
        """The rarer frames of a stream; returns what is wrong when one breaks the protocol."""
        if kind == frames.WINDOW_UPDATE:
            credit = frames.read_u32(payload)
            if credit is None or call.send_credit + credit > frames.MAX_WINDOW:
                return "a malformed window"
            call.send_credit += credit
            call.pump()
        elif kind == frames.TRAILERS:
            if not call.answered or not trailers_well_formed(payload):
                self._reject(call, "its trailers are malformed")
            elif self._count(call, 0, True):
                call.exchange.on_trailers(payload)
        elif kind == frames.ERROR:
            detail = json_object(payload)
            if detail is None:
                return "a malformed error frame"
            told = {key: plain(detail.get(key), TEXT_MAX) for key in ("type", "message", "traceback")}
            call.end()
            call.exchange.on_failed(_failure(told), told)
        elif kind == frames.CANCEL:
            call.end()
            call.exchange.on_failed(FunctionBadResponse("the function gave up its answer"), None)
        else:  # upgrade: our hello did not offer it
            self._reject(call, "it wants to switch protocols, which is not supported")
        return None

    # Ends.

    def _stray(self, stream: int, last: bool) -> None:
        """A frame of a stream that is not in work. The last one of a cancelled stream says that its handler is done."""
        if not 0 < stream < self._next:
            self._violate("a frame for a stream that never existed")
        elif last and stream in self._cancelled:
            self._cancelled.pop(stream).on_released()

    def _reject(self, call: StreamCall, what: str) -> None:
        """One answer makes no sense; the others go on."""
        call.end()
        self.push(frames.json_frame(frames.CANCEL, call.stream, {"reason": "bad_response"}))
        call.exchange.on_failed(FunctionBadResponse(f"the function's answer makes no sense: {what}"), None)

    def _violate(self, what: str) -> None:
        self._end(FunctionBadResponse(f"the function's instance broke the guest protocol: {what}"))

    def _stuck(self) -> None:
        self._end(FunctionCrashed("the function's instance stopped reading and was ended"))

    def _death(self) -> HearthError:
        return self._error or FunctionCrashed("the function's instance ended")

    def _end(self, error: HearthError) -> None:
        if self._closed:
            return
        self._closed = True
        self._error = error
        self._logs.close()
        self._outbox.close()
        self._life.end(error)
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

    def _left(self, deadline: float) -> float:
        return max(0.0, deadline - self._clock.monotonic())


def _failure(told: dict[str, str]) -> HearthError:
    name, message = told["type"] or "Error", told["message"]
    if name == "BadResponse":
        return FunctionBadResponse(
            message or "the function's answer makes no sense", hint="see the function's logs"
        )
    return FunctionFailed(f"{name}: {message}" if message else name, hint="see the function's logs")
