"""Heads of requests and answers in the guest protocol: how they are written and what counts as well-formed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from hearth.core import limits

# A status, then ``name:value`` lines: lower-case tokens (RFC 9110, section 5.6.2), values without CR, LF, NUL.
# Possessive quantifiers: a hostile head must not make the matcher backtrack.
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9a-z]++"
_FIELDS = re.compile(rb"(?:\n" + _TOKEN + rb":[^\r\n\0]*+)*+")
_CONTENT_LENGTH = re.compile(rb"\ncontent-length:[ \t]*+([^\n]*+)")
_CONNECTION = re.compile(rb"\nconnection:([^\n]*+)")
_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade")
)
_MAY_HOP = re.compile(rb"\n(?:connection|keep-alive|proxy-connection|te|transfer-encoding|upgrade):")


class ResponseHead(NamedTuple):
    """A checked response head: `fields` are ``name:value`` lines without hop-by-hop ones, `length` the
    announced content-length or -1."""

    status: int
    fields: bytes
    length: int


def request_head(
    invocation: str,
    deadline_ms: int,
    method: str,
    target: str,
    prefix: str,
    caller: str,
    client: str,
    scheme: str,
    headers: Iterable[tuple[bytes, bytes]],
) -> bytes:
    """A request head; who calls it vouches for the parts (no line breaks, names in lower case)."""
    first = f"{invocation}\n{deadline_ms}\n{method}\n{target}\n{prefix}\n{caller}\n{client}\n{scheme}"
    return b"\n".join((first.encode("latin-1"), *(name + b":" + value for name, value in headers)))


def parse_response_head(head: bytes) -> ResponseHead | str:
    """Check a response head; a text says what is wrong with it."""
    if len(head) > limits.HEADER_BYTES_MAX:
        return f"its headers are above {limits.HEADER_BYTES_MAX} bytes"
    if head.count(b"\n") > limits.HEADER_FIELDS_MAX:
        return f"it has more than {limits.HEADER_FIELDS_MAX} headers"
    status = head[:3]
    if len(status) != 3 or not status.isdigit() or not 200 <= int(status) <= 599:
        return "its status is not a number from 200 to 599"
    fields = head[3:]
    if _FIELDS.fullmatch(fields) is None:
        return "a header is malformed: names are lower-case tokens, values have no line breaks or NUL"
    lengths = _CONTENT_LENGTH.findall(fields)
    length = -1
    if lengths:
        value = lengths[0].rstrip(b" \t")
        if len(lengths) > 1 or not value.isdigit() or len(value) > 15:
            return "its content-length is not one number"
        length = int(value)
    if _MAY_HOP.search(fields) is not None:
        fields = _without_hop_by_hop(fields)
    return ResponseHead(int(status), fields[1:], length)


def trailers_well_formed(lines: bytes) -> bool:
    """Whether a trailers payload is ``name:value`` lines within the limits for headers."""
    if not lines:
        return True
    if len(lines) > limits.HEADER_BYTES_MAX or lines.count(b"\n") >= limits.HEADER_FIELDS_MAX:
        return False
    return _FIELDS.fullmatch(b"\n" + lines) is not None


def _without_hop_by_hop(fields: bytes) -> bytes:
    """Drop what concerns one connection only, and what `connection` names (RFC 9110, section 7.6.1)."""
    named = b",".join(_CONNECTION.findall(fields)).split(b",")
    drop = _HOP_BY_HOP | {name.strip(b" \t").lower() for name in named}
    drop -= {b"content-length", b"content-type"}  # what a body means is never one hop's own affair
    kept = [line for line in fields[1:].split(b"\n") if line.partition(b":")[0] not in drop]
    return b"\n" + b"\n".join(kept) if kept else b""
