"""What a guest sends means the same however its bytes arrive: whole answers, which are read where they stand, and all else."""

from __future__ import annotations

import asyncio
import random
import struct
from typing import Any

import pytest

from hearth.core.errors import HearthError
from hearth.guest.connection import GuestConnection
from hearth.protocol import frames
from hearth.testing.clock import FakeClock
from tests.integration.guest_peer import head

STREAMS = 12
HEADS = (b"200\ncontent-type:text/plain", b"404", b"200\ncontent-length:3", b"no status", b"304")


class Heard:
    """An exchange that writes down what it hears."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def on_response(self, status: int, head: bytes, body: bytes, end: bool) -> None:
        self.events.append(("response", status, head, body, end))

    def on_body(self, data: bytes, end: bool) -> None:
        self.events.append(("body", data, end))

    def on_trailers(self, head: bytes) -> None:
        self.events.append(("trailers", head))

    def on_failed(self, error: HearthError, detail: dict[str, Any] | None) -> None:
        self.events.append(("failed", error.message))

    def on_writable(self) -> None:
        self.events.append(("writable",))

    def on_released(self) -> None:
        self.events.append(("released",))


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def abort(self) -> None:
        pass


def answer(chance: random.Random, stream: int) -> bytes:
    """A frame that a guest might send for a stream, most of them whole answers; some make no sense."""
    told = chance.choice(
        [b"200\ncontent-type:text/plain", b"404", b"200\ncontent-length:3", b"no status", b"304"]
    )
    body = chance.choice([b"", b"abc", b"x" * 100])
    whole = frames.head_frame(frames.RESPONSE, stream, told, body, 1)
    kinds = [
        *[whole] * 12,
        frames.head_frame(frames.RESPONSE, stream, told, body, 0),
        frames.frame(frames.BODY, stream, body, chance.randrange(2)),
        frames.json_frame(frames.ERROR, stream, {"type": "ValueError", "message": "no"}),
        frames.json_frame(frames.LOG, 0, {"stream": "stdout", "t": 0, "level": "info", "text": "line"}),
        frames.frame(99, stream, body),
    ]
    if chance.random() < 0.05:
        kinds = [
            whole[:10] + struct.pack(">I", 1 << 20) + whole[14:],  # a head longer than its frame
            frames.head_frame(frames.RESPONSE, STREAMS + 50, told, body, 1),  # a stream that never was
            struct.pack(">IBBI", (1 << 20) + 1, frames.RESPONSE, 1, stream),  # too long a frame
        ]
    return chance.choice(kinds)


async def heard(
    pieces: list[bytes], sent_whole: list[bool]
) -> tuple[list[list[tuple[Any, ...]]], bool, bytes]:
    """What each exchange hears of these pieces, whether the connection has been ended by them, and what the guest is sent."""
    guest = GuestConnection(asyncio.get_running_loop(), FakeClock(), lambda *_: None, lambda: None)
    transport = Transport()
    guest.connection_made(transport)
    exchanges = [Heard() for _ in sent_whole]
    for exchange, whole in zip(exchanges, sent_whole, strict=True):
        guest.request(head(), b"", whole, exchange)
    for number, told in enumerate(HEADS):  # such heads have come before
        guest.request(head(), b"", True, Heard())
        guest.data_received(frames.head_frame(frames.RESPONSE, len(sent_whole) + 1 + number, told, b"", 1))
    for piece in pieces:
        guest.data_received(piece)
    await asyncio.sleep(0)  # frames leave at the end of a turn
    closed = guest.closed
    before = [list(exchange.events) for exchange in exchanges]
    guest.close()
    return before, closed, transport.written


@pytest.mark.parametrize("seed", range(60))
async def test_the_same_is_heard_however_the_bytes_arrive(seed: int) -> None:
    chance = random.Random(seed)
    sent_whole = [chance.random() < 0.9 for _ in range(STREAMS)]
    order = [chance.randrange(1, STREAMS + 1) for _ in range(3 * STREAMS)]
    single = [answer(chance, stream) for stream in order]
    sent = b"".join(single)
    byte_by_byte = await heard([sent[at : at + 1] for at in range(len(sent))], sent_whole)
    assert await heard([sent], sent_whole) == byte_by_byte
    assert await heard(single, sent_whole) == byte_by_byte
    cuts = sorted(chance.randrange(len(sent)) for _ in range(8))
    pieces = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    assert await heard(pieces, sent_whole) == byte_by_byte
    assert byte_by_byte[1] or any(event[0] == "response" for events in byte_by_byte[0] for event in events)


async def test_a_whole_answer_beyond_its_credit_ends_the_connection() -> None:
    within, beyond = (
        frames.head_frame(frames.RESPONSE, 1, HEADS[1], b"x" * size, 1)
        for size in (frames.WINDOW, frames.WINDOW + 1)
    )
    assert (await heard([within], [True]))[1] is False
    assert (await heard([beyond], [True]))[1] is True
