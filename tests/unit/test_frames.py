"""The codec on whatever bytes and however they are split."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearth.core import limits
from hearth.protocol import frames
from hearth.protocol.frames import Decoder, Frame
from hearth.protocol.heads import ResponseHead, parse_response_head, request_head, trailers_well_formed

FRAMES = st.lists(
    st.tuples(
        st.integers(1, frames.LOG_WINDOW_UPDATE),
        st.integers(0, 255),
        st.integers(0, 2**32 - 1),
        st.binary(max_size=200),
    ),
    max_size=20,
)


def written(some: list[Frame]) -> bytes:
    return b"".join(frames.frame(kind, stream, payload, flags) for kind, flags, stream, payload in some)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(FRAMES, st.lists(st.integers(0), max_size=30))
def test_frames_come_out_as_they_went_in(some: list[Frame], cuts: list[int]) -> None:
    decoder = Decoder()
    found = [got for part in split(written(some), cuts) for got in decoder.feed(part)]
    assert found == some and decoder.violation is None and decoder.buffered == 0


@given(st.binary(max_size=400), st.lists(st.integers(0), max_size=10))
def test_splitting_never_changes_the_result(data: bytes, cuts: list[int]) -> None:
    whole, parts = Decoder(), Decoder()
    expected = whole.feed(data)
    assert [got for part in split(data, cuts) for got in parts.feed(part)] == expected
    assert (parts.violation, parts.buffered) == (whole.violation, whole.buffered)


@given(FRAMES, st.integers(frames.MAX_PAYLOAD + 1, 2**32 - 1), st.binary(max_size=50))
def test_what_follows_a_violation_is_not_read(some: list[Frame], length: int, rest: bytes) -> None:
    decoder = Decoder()
    bad = length.to_bytes(4, "big") + bytes(6)
    assert decoder.feed(written(some) + bad + rest) == some
    assert decoder.violation is not None and decoder.feed(written(some)) == [] and decoder.buffered == 0


def test_a_large_frame_in_small_reads_is_kept_once() -> None:
    data = frames.frame(frames.BODY, 1, b"x" * frames.MAX_PAYLOAD)
    decoder = Decoder()
    found = []
    for at in range(0, len(data), 1000):
        found += decoder.feed(data[at : at + 1000])
        assert decoder.buffered <= len(data)
    assert found == [(frames.BODY, 0, 1, b"x" * frames.MAX_PAYLOAD)]


def test_frames_too_large_are_not_written() -> None:
    with pytest.raises(ValueError, match="at most"):
        frames.frame(frames.BODY, 1, bytes(frames.MAX_PAYLOAD + 1))
    with pytest.raises(ValueError, match="at most"):
        frames.head_frame(frames.REQUEST, 1, b"x", bytes(frames.MAX_PAYLOAD - 4), 0)


@given(st.binary(max_size=100), st.binary(max_size=100), st.integers(1, 2**32 - 1))
def test_heads_are_split_as_joined(head: bytes, body: bytes, stream: int) -> None:
    ((kind, flags, number, payload),) = Decoder().feed(
        frames.head_frame(frames.REQUEST, stream, head, body, frames.END)
    )
    assert (kind, flags, number) == (frames.REQUEST, frames.END, stream)
    assert frames.split_head(payload) == (head, body)


@given(st.integers(1, frames.MAX_WINDOW))
def test_windows(credit: int) -> None:
    ((kind, _, stream, payload),) = Decoder().feed(frames.window_frame(7, credit))
    assert (kind, stream, frames.read_u32(payload)) == (frames.WINDOW_UPDATE, 7, credit)
    ((kind, _, stream, payload),) = Decoder().feed(frames.log_window_frame(credit))
    assert (kind, stream, frames.read_u32(payload)) == (frames.LOG_WINDOW_UPDATE, 0, credit)
    assert frames.read_u32(b"123") is None


@given(st.binary(max_size=300))
def test_a_head_that_passes_is_safe_to_send_on(head: bytes) -> None:
    parsed = parse_response_head(head)
    if isinstance(parsed, ResponseHead):
        assert 200 <= parsed.status <= 599
        assert b"\r" not in parsed.fields and b"\0" not in parsed.fields
        for line in parsed.fields.split(b"\n") if parsed.fields else ():
            name, colon, _ = line.partition(b":")
            assert colon and name and name == name.lower() and not set(name) & set(b' \t"(),/;<=>?@[\\]{}')


TOKEN = st.text("abcxyz0189-_!~.", min_size=1, max_size=10).map(str.encode)
VALUE = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0")).map(
    lambda t: t.encode("latin-1")
)


@given(st.integers(200, 599), st.lists(st.tuples(TOKEN, VALUE), max_size=20))
def test_good_heads_pass(status: int, fields: list[tuple[bytes, bytes]]) -> None:
    lines = [name + b":" + value for name, value in fields]
    parsed = parse_response_head(b"\n".join([str(status).encode(), *lines]))
    assert isinstance(parsed, ResponseHead)
    kept = [line for line in lines if line.partition(b":")[0] != b"te"]
    assert (parsed.status, parsed.fields) == (status, b"\n".join(kept))


def test_limits_of_heads() -> None:
    many = b"200" + b"\na:b" * limits.HEADER_FIELDS_MAX
    assert isinstance(parse_response_head(many), ResponseHead)
    assert isinstance(parse_response_head(many + b"\na:b"), str)
    large = b"200\na:" + b"x" * (limits.HEADER_BYTES_MAX - 6)
    assert isinstance(parse_response_head(large), ResponseHead)
    assert isinstance(parse_response_head(large + b"x"), str)
    assert isinstance(parse_response_head(b"200\ncontent-length:" + b"9" * 16), str)
    assert parse_response_head(b"200\ncontent-length: 5 ") == ResponseHead(200, b"content-length: 5 ", 5)


def test_what_connection_names_never_drops_what_the_body_means() -> None:
    parsed = parse_response_head(b"200\ncontent-length:1\nconnection:Content-Length, X-A\nx-a:1")
    assert parsed == ResponseHead(200, b"content-length:1", 1)


def test_request_heads() -> None:
    assert request_head("i", 5, "GET", "/", "", "", "::1", "http", []) == b"i\n5\nGET\n/\n\n\n::1\nhttp"


@pytest.mark.parametrize(
    ("lines", "good"),
    [(b"", True), (b"x-sum:1", True), (b"a:\nb:2", True), (b"A:1", False), (b"a", False), (b"a:1\n", False), (b"a:\r", False)],
)  # fmt: skip
def test_trailers(lines: bytes, good: bool) -> None:
    assert trailers_well_formed(lines) is good
