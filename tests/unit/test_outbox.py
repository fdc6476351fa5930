"""When frames for a guest leave: few writes, but none waits for the turn's end when there are enough of them."""

from __future__ import annotations

import asyncio

from hearth.guest.outbox import EARLY, HELD_MAX, Outbox


class Transport(asyncio.Transport):
    """Writes down each write.

    Args:
        takes: writes until it says that it is full.
    """

    def __init__(self, takes: int = 1000) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.takes = takes
        self.outbox: Outbox | None = None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))
        if len(self.writes) == self.takes and self.outbox is not None:
            self.outbox.pause()

    def abort(self) -> None:
        pass


def opened(transport: Transport) -> Outbox:
    outbox = Outbox(asyncio.get_running_loop(), 30.0, lambda: None)
    outbox.open(transport)
    transport.outbox = outbox
    return outbox


async def test_few_frames_leave_together_at_the_end_of_the_turn() -> None:
    transport = Transport()
    outbox = opened(transport)
    for frame in (b"a", b"b", b"c"):
        outbox.push(frame)
    assert not transport.writes
    await asyncio.sleep(0)
    assert transport.writes == [b"abc"]
    outbox.close()


async def test_enough_frames_leave_at_once_and_the_rest_at_the_end_of_the_turn() -> None:
    transport = Transport()
    outbox = opened(transport)
    for number in range(2 * EARLY + 1):
        outbox.push(b"%d," % number)
    assert transport.writes == [b"0,1,2,3,", b"4,5,6,7,"]
    await asyncio.sleep(0)
    assert transport.writes[2:] == [b"8,"]
    outbox.push(b"next turn")
    await asyncio.sleep(0)
    assert transport.writes[3:] == [b"next turn"]
    outbox.close()


async def test_a_full_transport_is_written_to_when_it_has_room_again_and_in_order() -> None:
    transport = Transport(takes=1)
    outbox = opened(transport)
    for number in range(3 * EARLY):
        outbox.push(b"%d," % number)
    await asyncio.sleep(0)
    assert transport.writes == [b"0,1,2,3,"]
    outbox.resume()
    assert b"".join(transport.writes) == b"".join(b"%d," % number for number in range(3 * EARLY))
    outbox.close()


async def test_a_guest_that_leaves_too_much_unread_is_told_of() -> None:
    stuck: list[bool] = []
    outbox = Outbox(asyncio.get_running_loop(), 30.0, lambda: stuck.append(True))
    outbox.open(Transport())
    outbox.pause()
    frame = bytes(1 << 20)
    for _ in range(HELD_MAX >> 20):
        outbox.push(frame)
    assert not stuck
    outbox.push(frame)
    assert stuck
    outbox.close()
