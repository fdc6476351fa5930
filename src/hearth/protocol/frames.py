"""Frames of the guest protocol (docs/reference/guest-protocol.md): the codec, without any I/O.

A frame is a plain tuple ``(type, flags, stream, payload)``: this is the data path, and a tuple is the
cheapest thing that Python can make.
"""

from __future__ import annotations

import json
from struct import Struct
from typing import Any, Final

Frame = tuple[int, int, int, bytes]

VERSION: Final = 1
MAX_PAYLOAD: Final = 1 << 20  # bytes in one frame
WINDOW: Final = 256 << 10  # bytes of credit that a new stream's body has
LOG_WINDOW: Final = 1 << 20  # bytes of credit for log payloads
MAX_PING: Final = 64
HEADER_SIZE: Final = 10
MAX_WINDOW: Final = (1 << 31) - 1  # a window frame's largest number, and a stream's largest credit

END: Final = 1  # flag: the sender sends no more of this stream's body

HELLO: Final = 1
LOAD: Final = 2
READY: Final = 3
INIT_ERROR: Final = 4
REQUEST: Final = 5
RESPONSE: Final = 6
BODY: Final = 7
TRAILERS: Final = 8
ERROR: Final = 9
CANCEL: Final = 10
WINDOW_UPDATE: Final = 11
UPGRADE: Final = 12
DRAIN: Final = 13
PING: Final = 14
PONG: Final = 15
LOG: Final = 16
LOG_WINDOW_UPDATE: Final = 17

_HEADER = Struct(">IBBI")
_HEADER_AND_HEAD = Struct(">IBBII")  # a frame's header and the length of the head that follows
_HEADER_AND_U32 = Struct(">IBBII")
_U32 = Struct(">I")

_pack_header = _HEADER.pack
_pack_with_head = _HEADER_AND_HEAD.pack
unpack_with_head = _HEADER_AND_HEAD.unpack_from
"""(length of the payload, type, flags, stream, length of the head) of a frame that begins with a head."""


def frame(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """One frame as bytes. Raises ValueError for a payload above MAX_PAYLOAD."""
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a frame carries at most {MAX_PAYLOAD} bytes")
    return _pack_header(len(payload), kind, flags, stream) + payload


def json_frame(kind: int, stream: int, value: Any) -> bytes:
    """A frame whose payload is a JSON value."""
    return frame(kind, stream, json.dumps(value, separators=(",", ":")).encode())


def head_frame(kind: int, stream: int, head: bytes, body: bytes, flags: int) -> bytes:
    """A ``request``, ``response`` or ``upgrade`` frame; `head` and `body` together at most MAX_PAYLOAD - 4 bytes."""
    size = len(head)
    length = 4 + size + len(body)
    if length > MAX_PAYLOAD:
        raise ValueError(f"a frame carries at most {MAX_PAYLOAD} bytes")
    return _pack_with_head(length, kind, flags, stream, size) + head + body


def whole_request(stream: int, head: bytes) -> bytes:
    """A ``request`` frame without a body, the most frequent one; `head` is of a size that a gateway lets through."""
    size = len(head)
    return _pack_with_head(4 + size, REQUEST, END, stream, size) + head


def window_frame(stream: int, credit: int) -> bytes:
    """That many (1 to MAX_WINDOW) more body bytes may be sent on `stream`."""
    return _HEADER_AND_U32.pack(4, WINDOW_UPDATE, 0, stream, credit)


def log_window_frame(credit: int) -> bytes:
    """That many more bytes of log payloads may be sent."""
    return _HEADER_AND_U32.pack(4, LOG_WINDOW_UPDATE, 0, 0, credit)


def split_head(payload: bytes) -> tuple[bytes, bytes] | None:
    """A request's or response's payload as (head, first bytes of the body); None when it is malformed."""
    if len(payload) < 4:
        return None
    (size,) = _U32.unpack_from(payload)
    if size > len(payload) - 4:
        return None
    return payload[4 : 4 + size], payload[4 + size :]


def read_u32(payload: bytes) -> int | None:
    """The number in a window frame's payload; None when it is malformed."""
    return int.from_bytes(payload, "big") if len(payload) == 4 else None


class Decoder:
    """Cuts a stream of bytes into frames, however the reads were split.

    Frames of unknown types are skipped. After a violation nothing more is decoded: `violation` says what
    it was, and the frames before it have been given out.
    """

    __slots__ = ("_buffer", "_need", "violation")

    def __init__(self) -> None:
        self._buffer = bytearray()  # begins at a frame's first byte
        self._need = HEADER_SIZE  # bytes that the buffer must have before it is worth a look
        self.violation: str | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """Take what was read; returns the frames that are now whole."""
        if self.violation is not None:
            return []
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < self._need:
                return []
            data = bytes(buffer)
            buffer.clear()
        frames: list[Frame] = []
        unpack = _HEADER.unpack_from
        at, size = 0, len(data)
        need = HEADER_SIZE
        while size - at >= HEADER_SIZE:
            length, kind, flags, stream = unpack(data, at)
            if length > MAX_PAYLOAD:
                self.violation = f"a frame of {length} bytes, at most {MAX_PAYLOAD} are allowed"
                return frames
            body = at + HEADER_SIZE
            end = body + length
            if end > size:
                need = HEADER_SIZE + length
                break
            if 1 <= kind <= LOG_WINDOW_UPDATE:
                frames.append((kind, flags, stream, data[body:end]))
            at = end
        if at < size:
            buffer += data[at:] if at else data
            self._need = need
        return frames

    @property
    def buffered(self) -> int:
        """Bytes of an unfinished frame that are held."""
        return len(self._buffer)
