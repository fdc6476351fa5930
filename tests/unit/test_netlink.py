"""Lists of the kernel that others change while they are read."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from hearth.egress import netlink
from hearth.egress.netlink import ROUTE, Message, Netlink

KIND, DONE, INTERRUPTED = 20, 3, 0x10


class Kernel:
    """Answers dumps, the first ones interrupted.

    Args:
        interrupted: how many.
    """

    def __init__(self, interrupted: int) -> None:
        self.interrupted = interrupted
        self.asked = 0
        self._sequence = 0

    def send(self, data: bytes) -> None:
        self.asked += 1
        self._sequence = struct.unpack_from("=IHHII", data)[3]

    def recv(self, size: int) -> bytes:
        flags = INTERRUPTED if self.asked <= self.interrupted else 0
        parts = [(KIND, b"%04d" % self.asked), (DONE, struct.pack("=i", 0))]
        return b"".join(
            struct.pack("=IHHII", 16 + len(body), kind, flags, self._sequence, 0) + body
            for kind, body in parts
        )

    def close(self) -> None:
        pass


def speaking_to(kernel: Any) -> Netlink:
    made = Netlink(ROUTE)
    made._socket.close()
    made._socket = kernel
    return made


def test_a_list_that_changed_while_it_was_read_is_read_again() -> None:
    kernel = Kernel(interrupted=2)
    assert speaking_to(kernel).dump(KIND, b"") == [Message(KIND, b"0003")]


def test_one_that_always_changes_is_given_up() -> None:
    kernel = Kernel(interrupted=1000)
    with pytest.raises(InterruptedError):
        speaking_to(kernel).dump(KIND, b"")
    assert kernel.asked == netlink._DUMPS
