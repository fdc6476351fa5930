"""Ids: prefixed, opaque, and later ones sort later."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearth.core.ids import PREFIXES, is_id, new_id

MS = st.integers(min_value=0, max_value=(1 << 48) - 1)
ENTROPY = st.binary(min_size=10, max_size=10)


@given(st.sampled_from(sorted(PREFIXES)), MS, ENTROPY)
def test_an_id_is_one_of_its_kind_alone(kind: str, now: int, entropy: bytes) -> None:
    made = new_id(kind, now, entropy)
    assert is_id(kind, made) and made.startswith(PREFIXES[kind]) and len(made) == len(PREFIXES[kind]) + 26
    assert [other for other in PREFIXES if is_id(other, made)] == [kind]


@given(MS, MS, ENTROPY, ENTROPY)
def test_later_sorts_later(first: int, second: int, one: bytes, two: bytes) -> None:
    if first != second:
        assert (new_id("user", first, one) < new_id("user", second, two)) == (first < second)


@given(MS, ENTROPY, ENTROPY)
def test_entropy_tells_apart(now: int, one: bytes, two: bytes) -> None:
    """74 of the 80 bits count; the others are UUIDv7's version and variant."""
    value = [int.from_bytes(e, "big") for e in (one, two)]
    kept = [(v >> 64) & 0xFFF | (v & ((1 << 62) - 1)) << 12 for v in value]
    assert (new_id("user", now, one) == new_id("user", now, two)) == (kept[0] == kept[1])


@pytest.mark.parametrize(
    "text", ["", "usr_", "usr_0", "usr_" + "8" * 26, "usr_" + "0" * 25 + "i", "usr_" + "0" * 27]
)
def test_what_is_no_id(text: str) -> None:
    assert not is_id("user", text)


def test_prefixes_are_different() -> None:
    assert len(set(PREFIXES.values())) == len(PREFIXES)


def test_too_little_entropy_is_a_fault() -> None:
    with pytest.raises(ValueError, match="10 bytes"):
        new_id("user", 0, b"")
