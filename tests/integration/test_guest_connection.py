"""The host side's credit, ends, logs and bounds, against a guest that the test plays."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator

import pytest

from hearth.core.errors import (
    FunctionBadResponse,
    FunctionCrashed,
    FunctionFailed,
    FunctionLoadFailed,
    FunctionTimeout,
)
from hearth.guest import logs
from hearth.guest.outbox import EARLY
from tests.integration.guest_peer import Listener, Peer, connect, frame, head

WINDOW = 262144


def window(stream: int, credit: int) -> bytes:
    return frame(11, stream, struct.pack(">I", credit))


def response(stream: int, body: bytes = b"", end: bool = True, told: bytes = b"200") -> bytes:
    return frame(6, stream, struct.pack(">I", len(told)) + told + body, int(end))


def log(text: str, inv: str | None = "inv_1", **more: object) -> bytes:
    return frame(
        16,
        0,
        json.dumps({"inv": inv, "stream": "stdout", "t": 5, "level": "info", "text": text} | more).encode(),
    )


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = await connect()
    yield peer
    peer.guest.close()
    await peer.closed.wait()
    peer.sock.close()


async def passed(peer: Peer) -> None:
    """All that was sent to the host before has been dealt with."""
    pong = asyncio.ensure_future(peer.guest.ping(b"sync", 2000.0))
    await peer.until(14)
    await peer.send(frame(15, 0, b"sync"))
    await pong


async def test_a_few_frames_of_one_turn_leave_together(peer: Peer) -> None:
    for _ in range(EARLY - 1):
        peer.guest.request(head(), b"body", True, Listener())
    data = await asyncio.get_running_loop().sock_recv(peer.sock, 1 << 20)
    assert data.count(b"/fn/a/b") == EARLY - 1


async def test_a_body_within_and_beyond_credit(peer: Peer) -> None:
    heard = Listener()
    call = peer.guest.request(head("POST"), b"a" * 1000, False, heard)
    assert call.write(b"b" * (WINDOW - 1000), False)
    assert not call.write(b"c" * 500, False)
    assert not call.write(b"d" * 500, True)
    got = b""
    while len(got) < WINDOW:
        kind, flags, _, payload = await peer.frame()
        assert not flags
        got += payload[4 + len(head("POST")) :] if kind == 5 else payload
    assert len(got) == WINDOW and not heard.writable.is_set()
    await peer.send(window(1, 600))
    assert (await peer.frame())[3] == b"c" * 500 + b"d" * 100
    assert not heard.writable.is_set()
    await peer.send(window(1, 10_000))
    assert (await peer.frame())[1:] == (1, 1, b"d" * 400)
    await heard.writable.wait()


async def test_a_first_body_larger_than_the_window(peer: Peer) -> None:
    peer.guest.request(head("POST"), b"x" * 1_000_000, True, Listener())
    got, end = 0, 0
    while not end:
        kind, end, _, payload = await peer.frame()
        if kind == 7:
            got += len(payload)
            await peer.send(window(1, len(payload)))
    assert got == 1_000_000


async def test_an_empty_end(peer: Peer) -> None:
    call = peer.guest.request(head("POST"), b"", False, Listener())
    assert call.write(b"", True)
    await peer.until(5)
    assert await peer.frame() == (7, 1, 1, b"")
    assert call.write(b"late", True)  # nothing more is sent
    await passed(peer)


async def test_consumed_bytes_come_back_as_credit(peer: Peer) -> None:
    heard = Listener()
    call = peer.guest.request(head(), b"", True, heard)
    await peer.until(5)
    await peer.send(response(1, b"x" * WINDOW, end=False))
    await passed(peer)
    assert len(heard.body) == WINDOW
    call.consumed(1000)
    call.consumed(WINDOW - 1000)
    assert (await peer.until(11))[2:] == (1, struct.pack(">I", WINDOW))
    await peer.send(frame(7, 1, b"y" * WINDOW, 1))
    await heard.over.wait()
    assert len(heard.body) == 2 * WINDOW and heard.error is None


async def test_an_answer_before_the_whole_request(peer: Peer) -> None:
    heard = Listener()
    call = peer.guest.request(head("POST"), b"x", False, heard)
    await peer.until(5)
    await peer.send(response(1, b"enough"))
    await heard.over.wait()
    assert await peer.frame() == (7, 1, 1, b"")
    assert call.write(b"more", False)
    await passed(peer)


async def test_head_and_hop_by_hop(peer: Peer) -> None:
    for stream in (1, 2):  # the second comes from the memory of checked heads
        heard = Listener()
        peer.guest.request(head(), b"", True, heard)
        await peer.until(5)
        await peer.send(response(stream, told=b"201\nx-a:1\nconnection:close\nx-b:2"))
        await heard.over.wait()
        assert (heard.status, heard.head) == (201, b"x-a:1\nx-b:2")


async def test_many_different_heads_are_not_kept(peer: Peer) -> None:
    for number in range(1, 700):
        heard = Listener()
        peer.guest.request(head(), b"", True, heard)
        await peer.until(5)
        await peer.send(response(number, told=b"200\nx-number:%d" % number))
        await heard.over.wait()
    assert len(peer.guest._heads) <= 512


async def test_errors_carry_their_detail(peer: Peer) -> None:
    heard, bad = Listener(), Listener()
    peer.guest.request(head(), b"", True, heard)
    peer.guest.request(head(), b"", True, bad)
    await peer.until(5)
    raised = {"type": "ValueError", "message": "no \ud800", "traceback": "Traceback…"}
    await peer.send(frame(9, 1, json.dumps(raised).encode()))
    await peer.send(frame(9, 2, b'{"type":"BadResponse","message":"no JSON"}'))
    await bad.over.wait()
    assert isinstance(heard.error, FunctionFailed) and heard.error.message == "ValueError: no ?"
    assert heard.detail == {"type": "ValueError", "message": "no ?", "traceback": "Traceback…"}
    assert isinstance(bad.error, FunctionBadResponse) and bad.error.message == "no JSON"


async def test_a_cancelled_call_hears_only_its_release(peer: Peer) -> None:
    heard = Listener()
    call = peer.guest.request(head(), b"", True, heard)
    await peer.until(5)
    call.cancel("client_gone")
    call.cancel("timeout")
    assert await peer.frame() == (10, 0, 1, b'{"reason":"client_gone"}')
    await peer.send(response(1, b"partly", end=False))
    await passed(peer)
    assert not heard.released.is_set()
    await peer.send(frame(7, 1, b"the rest", 1))
    await heard.released.wait()
    assert not heard.over.is_set() and heard.status == 0


async def test_death_reaches_everybody(peer: Peer) -> None:
    one, two, gone = Listener(), Listener(), Listener()
    peer.guest.request(head(), b"", True, one)
    peer.guest.request(head(), b"", True, two)
    peer.guest.request(head(), b"", True, gone).cancel("timeout")
    await peer.until(5)
    peer.sock.shutdown(2)
    await peer.closed.wait()
    assert isinstance(one.error, FunctionCrashed) and isinstance(two.error, FunctionCrashed)
    assert gone.released.is_set() and gone.error is None
    assert peer.guest.closed
    late = Listener()
    peer.guest.request(head(), b"", True, late)
    await late.over.wait()
    assert isinstance(late.error, FunctionCrashed)
    with pytest.raises(FunctionCrashed):
        await peer.guest.load({}, 2000.0)
    with pytest.raises(FunctionCrashed):
        await peer.guest.ping(b"x", 2000.0)


async def test_an_exchange_may_close_the_guest_that_calls_it(peer: Peer) -> None:
    class Closer(Listener):
        def on_response(self, status: int, head: bytes, body: bytes, end: bool) -> None:
            super().on_response(status, head, body, end)
            peer.guest.close()

    closer, other = Closer(), Listener()
    peer.guest.request(head(), b"", True, closer)
    peer.guest.request(head(), b"", True, other)
    await peer.until(5)
    await peer.send(response(1) + response(2))
    await peer.closed.wait()
    assert closer.status == 200 and isinstance(other.error, FunctionCrashed) and other.status == 0


async def test_a_guest_that_never_reads_is_ended() -> None:
    peer = await connect(stall=0.05)
    heard = Listener()
    for _ in range(20):
        peer.guest.request(head("POST"), b"x" * WINDOW, True, heard if not _ else Listener())
    await peer.closed.wait()
    assert isinstance(heard.error, FunctionCrashed) and "stopped reading" in heard.error.message
    peer.sock.close()


async def test_what_is_held_for_a_guest_that_does_not_read_is_bounded() -> None:
    peer = await connect()
    heard = [Listener() for _ in range(200)]
    for one in heard:
        peer.guest.request(head("POST"), b"x" * WINDOW, True, one)
        await asyncio.sleep(0)
    await peer.closed.wait()
    assert all(isinstance(one.error, FunctionCrashed) for one in heard)
    peer.sock.close()


async def test_a_slow_reader_goes_on(peer: Peer) -> None:
    heard = [Listener() for _ in range(20)]
    calls = [peer.guest.request(head("POST"), b"x" * WINDOW, False, one) for one in heard]
    await asyncio.sleep(0)
    assert peer.guest.paused
    assert not calls[0].write(b"later", True)
    ends = 0
    while not ends:
        kind, ends, stream, _ = await peer.frame()
        if kind == 5 and stream == 1:
            await peer.send(window(1, 100))
    assert not peer.guest.paused
    await heard[0].writable.wait()


async def test_logs(peer: Peer) -> None:
    await peer.send(log("hello") + log("\ud800", None, stream="what", level="WARNING", t=1_700_000_000_100))
    await peer.send(log("absurd", 5, t="soon", level=7))  # type: ignore[arg-type]
    await passed(peer)
    now = 1_700_000_000_000
    assert peer.logs == [
        ("inv_1", "stdout", now, "info", "hello"),
        (None, "log", now + 100, "warning", "?"),
        (None, "stdout", now, "", "absurd"),
    ]


async def test_log_credit_comes_back_in_time(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "REFILL", 0.01)
    line = log("x" * 60_000)
    for _ in range(5):
        await peer.send(line)
    kind, _, _, payload = await peer.until(17)
    assert kind == 17 and struct.unpack(">I", payload) == (5 * (len(line) - 10),)


async def test_more_log_bytes_than_credit_end_it(peer: Peer) -> None:
    line = log("x" * 60_000)
    for _ in range(18):
        await peer.send(line)
    await peer.closed.wait()
    assert len(peer.logs) == 1_048_576 // (len(line) - 10)


async def test_drain_and_pings(peer: Peer) -> None:
    peer.guest.drain()
    peer.guest.drain()
    assert await peer.frame() == (13, 0, 0, b"")
    await peer.send(frame(14, 0, b"you"))
    assert await peer.frame() == (15, 0, 0, b"you")
    await peer.send(frame(15, 0, b"nobody asked"))
    with pytest.raises(FunctionTimeout):
        await peer.guest.ping(b"?", 1000.0)
    await peer.send(frame(14, 0, b"x" * 65))
    await peer.closed.wait()


async def test_init_errors() -> None:
    peer = await connect(ready=False)
    loading = asyncio.ensure_future(peer.guest.load({}, 2000.0))
    await peer.until(2)
    told = {"type": "SyntaxError", "message": "bad", "traceback": "T", "file": "handler.py", "line": 3}
    await peer.send(frame(4, 0, json.dumps(told).encode()))
    with pytest.raises(FunctionLoadFailed, match=r"SyntaxError: bad \(handler.py, line 3\)") as raised:
        await loading
    assert raised.value.details == told
    peer.sock.close()
    await peer.closed.wait()


MISSING = {
    "ModuleNotFoundError": ("No module named 'x'", "requirements.txt"),
    "Error": ("Cannot find package 'x' imported from handler.mjs", "package.json"),
    "KeyError": ("'x'", "mend the code"),
}


@pytest.mark.parametrize("kind", MISSING)
async def test_what_to_do_about_a_missing_package(kind: str) -> None:
    message, hint = MISSING[kind]
    peer = await connect(ready=False)
    loading = asyncio.ensure_future(peer.guest.load({}, 2000.0))
    await peer.until(2)
    await peer.send(frame(4, 0, json.dumps({"type": kind, "message": message}).encode()))
    with pytest.raises(FunctionLoadFailed) as raised:
        await loading
    assert hint in str(raised.value.hint)
    peer.sock.close()
    await peer.closed.wait()


async def test_load_that_dies_or_takes_too_long() -> None:
    peer = await connect(ready=False)
    with pytest.raises(FunctionTimeout):
        await peer.guest.load({}, 1000.0)
    loading = asyncio.ensure_future(peer.guest.load({}, 2000.0))
    await peer.until(2)
    peer.sock.close()
    with pytest.raises(FunctionCrashed):
        await loading
    await peer.closed.wait()


async def test_an_environment_that_does_not_fit_a_frame() -> None:
    peer = await connect(ready=False)
    with pytest.raises(FunctionLoadFailed, match="too large"):
        await peer.guest.load({"env": {"X": "x" * (1 << 20)}}, 2000.0)
    peer.guest.close()
    await peer.closed.wait()
    peer.sock.close()
