"""The host side against the vectors, on both event loops: the test plays the guest, byte by byte."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from hearth.core.errors import ProtocolViolation
from hearth.guest.factory import StreamGuests
from hearth.guest.outbox import EARLY
from hearth.testing.clock import FakeClock
from tests.integration.guest_peer import Listener, Peer, connect, frame, head
from tests.integration.shim_host import _bytes as told_bytes

VECTORS: dict[str, Any] = json.loads(Path(__file__).with_name("guest_vectors.json").read_text())
SESSIONS = [pytest.param(session, id=session["name"]) for session in VECTORS["host_sessions"]]
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def play(request: pytest.FixtureRequest) -> Callable[[Callable[..., Coroutine[Any, Any, None]]], None]:
    """Runs a scene on a loop, hangs up at its end."""

    def run(scene: Callable[..., Coroutine[Any, Any, None]], **how: Any) -> None:
        async def main() -> None:
            peer = await connect(**how)
            try:
                async with asyncio.timeout(20):
                    await scene(peer)
            finally:
                peer.guest.close()
                await peer.closed.wait()
                peer.sock.close()

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(main())

    return run


@pytest.mark.parametrize("session", SESSIONS)
def test_session(session: dict[str, Any], play: Any) -> None:
    async def scene(peer: Peer) -> None:
        heard, other = Listener(), Listener()
        peer.guest.request(head(session["method"]), b"", True, heard)
        await peer.until(5)
        await peer.send(
            told_bytes(
                [
                    {"repeat": p["repeat"], "times": p["times"]} if isinstance(p, dict) else p
                    for p in session["send"]
                ]
            )
        )
        await heard.over.wait()
        if "failed" in session:
            assert heard.error is not None and heard.error.code == session["failed"]
        else:
            told = session["response"]
            assert (heard.status, heard.body.hex(), heard.error) == (told["status"], told["body"], None)
        assert peer.guest.closed == session["closed"]
        if not session["closed"]:  # the connection still works
            peer.guest.request(head(), b"", True, other)
            await peer.until(5)
            await peer.send(frame(6, 2, b"\0\0\0\x03204", 1))
            await other.over.wait()
            assert other.status == 204

    play(scene)


@pytest.mark.parametrize(
    "hello",
    [
        b'{"version":2}',
        b"{}",
        b"[]",
        b"nonsense",
        b'{"version":1,"window":-1}',
        b'{"version":1,"window":"x"}',
        b'{"version":1,"window":4294967295}',
    ],
)
async def test_a_bad_hello_is_refused(hello: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        await connect(hello)


async def test_a_peer_that_says_nothing_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(ProtocolViolation, match="in time"):
        clock = FakeClock()
        await StreamGuests(clock).open(ours.detach(), clock.monotonic() + 0.01, lambda *_: None, lambda: None)


async def test_a_peer_that_hangs_up_is_refused() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    clock = FakeClock()
    with pytest.raises(ProtocolViolation):
        await StreamGuests(clock).open(ours.detach(), clock.monotonic() + 5, lambda *_: None, lambda: None)


def test_enough_requests_leave_before_the_turn_of_the_loop_ends(play: Any) -> None:
    async def scene(peer: Peer) -> None:
        for _ in range(EARLY):
            peer.guest.request(head(), b"", True, Listener())
        assert peer.sock.recv(1 << 20).count(b"/fn/a/b") == EARLY

    play(scene)
