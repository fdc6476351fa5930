"""Opaque, sortable, prefixed identifiers: ``fn_`` + 26 characters.

The body is a UUIDv7 (RFC 9562, section 5.7: 48 bits of milliseconds, then random bits) in lower-case
Crockford base32, so that ids made later sort later, as text too.
"""

from __future__ import annotations

import re

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = tuple(a + b for a in _ALPHABET for b in _ALPHABET)  # ten bits at a time
_BODY = re.compile(r"[0-7][0-9a-hjkmnp-tv-z]{25}\Z")

PREFIXES = {
    "user": "usr_",
    "session": "ses_",
    "key": "key_",
    "password": "pw_",
    "namespace": "ns_",
    "function": "fn_",
    "version": "ver_",
    "alias": "al_",
    "sandbox": "sb_",
    "owner": "own_",
    "event": "ev_",
    "secret": "sec_",
    "invocation": "inv_",
}


def new_id(kind: str, now_ms: int, entropy: bytes) -> str:
    """Make an id of a kind.

    Args:
        kind: a key of `PREFIXES`.
        now_ms: wall clock, milliseconds since the epoch.
        entropy: 10 random bytes.
    """
    prefix = PREFIXES[kind]
    if len(entropy) != 10:
        raise ValueError("10 bytes of entropy are needed")
    rand = int.from_bytes(entropy, "big")
    rand_a, rand_b = (rand >> 64) & 0xFFF, rand & ((1 << 62) - 1)
    value = ((now_ms & ((1 << 48) - 1)) << 80) | (0x7 << 76) | (rand_a << 64) | (0b10 << 62) | rand_b
    return prefix + "".join([_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)])


def is_id(kind: str, text: str) -> bool:
    """Whether `text` has the form of an id of this kind."""
    prefix = PREFIXES[kind]
    return text.startswith(prefix) and _BODY.match(text[len(prefix) :]) is not None
