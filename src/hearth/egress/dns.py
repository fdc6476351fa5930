"""What the resolver reads, asks and answers, as plain functions on bytes.

What a sandbox sends is hostile: only its header and its one question are read, by hand, and never passed on as they came.
What an upstream sends is read by dnslib, and only its records of known kinds are written again.

Sources: RFC 1035 section 4, RFC 6891 (EDNS), RFC 9460 (SVCB and HTTPS), RFC 6303 (private reverse zones).
"""

# dnslib has no types of its own.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from dnslib import EDNS0, QTYPE, RD, RR, A, DNSHeader, DNSQuestion, DNSRecord
from dnslib.dns import HTTPS
from dnslib.label import DNSBuffer, DNSLabel

from hearth.core.addresses import is_public

UDP_MOST = 1232
"""Bytes of an answer by UDP at most: what passes everywhere without fragments (DNS flag day 2020)."""

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
A_KIND = 1
"""The kind of question whose answers are IPv4 addresses."""
_IN, _A, _CNAME, _SOA, _AAAA, _OPT, _SVCB, _HTTPS, _DNAME = 1, 1, 5, 6, 28, 41, 64, 65, 39
_FORWARDED = frozenset(
    getattr(QTYPE, name)
    for name in (
        *("A", "AAAA", "CNAME", "NS", "SOA", "PTR", "MX", "TXT", "SRV", "NAPTR", "CAA", "HTTPS", "SVCB"),
        *("DS", "DNSKEY", "TLSA", "SSHFP", "URI", "LOC"),
    )
)
_PASSED = _FORWARDED | {_DNAME}
_HEADER = struct.Struct("!HHHHHH")
_OPT_RECORD = struct.Struct("!BHH")
_HINTS = (4, 6)  # ipv4hint, ipv6hint
_MANDATORY = 0


@dataclass(frozen=True, slots=True)
class Query:
    """One question of a sandbox.

    Args:
        id: to be given back.
        labels: the name, as it was written.
        kind: QTYPE.
        recurse: the RD flag, given back.
        room: bytes that its asker takes by UDP.
        edns: whether it spoke EDNS.
        refused: the answer's code when it is not to be looked up at all, else None.
    """

    id: int
    labels: tuple[bytes, ...]
    kind: int
    recurse: bool
    room: int = 512
    edns: bool = False
    refused: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered: a code, the records, and the SOA that says how long "no" is true."""

    code: int
    records: tuple[RR, ...] = ()
    authority: tuple[RR, ...] = ()


def read_query(packet: bytes) -> Query | None:
    """Read a sandbox's packet; None when it is malformed or no question, and gets no answer."""
    if len(packet) < 17 or len(packet) > 512:
        return None
    ident, flags, questions, answers, authorities, additional = _HEADER.unpack_from(packet)
    if flags & 0x8000 or questions != 1 or answers or authorities or additional > 1:
        return None
    labels, at = [], 12
    while True:
        size = packet[at] if at < len(packet) else 64
        if size == 0:
            break
        if size > 63 or at + 1 + size >= len(packet) or at + size > 12 + 253:  # a question needs no pointers
            return None
        labels.append(packet[at + 1 : at + 1 + size])
        at += 1 + size
    if at + 5 > len(packet):
        return None
    kind, family = struct.unpack_from("!HH", packet, at + 1)
    room, edns = 512, False
    if additional:
        if at + 10 > len(packet):
            return None
        root, record, size = _OPT_RECORD.unpack_from(packet, at + 5)
        if root == 0 and record == _OPT:
            room, edns = max(512, min(size, UDP_MOST)), True
    refused = NOTIMP if flags & 0x7800 else REFUSED if family != _IN else None
    if refused is None and kind not in _FORWARDED:
        refused = NOTIMP
    return Query(ident, tuple(labels), kind, bool(flags & 0x0100), room, edns, refused)


def local_answer(query: Query, ipv6: bool) -> Answer | None:
    """The answer that needs no look-up, or None.

    Args:
        query: what is asked.
        ipv6: whether sandboxes have IPv6; without it, no name has an IPv6 address.
    """
    if query.refused is not None:
        return Answer(query.refused)
    if query.kind == _AAAA and not ipv6:
        return Answer(NOERROR)
    if _is_private_reverse(query.labels):
        return Answer(NXDOMAIN)  # names of the operator's own machines are nobody's business
    return None


def _is_private_reverse(labels: tuple[bytes, ...]) -> bool:
    lower = [label.lower() for label in labels]
    if lower[-2:] == [b"in-addr", b"arpa"]:
        octets = lower[-3::-1][:4]
        if not octets or not all(part.isdigit() and int(part) < 256 for part in octets):
            return False
        return not is_public(IPv4Address(bytes([*map(int, octets), *[0] * (4 - len(octets))])))
    if lower[-2:] == [b"ip6", b"arpa"]:
        nibbles = b"".join(lower[-3::-1]).ljust(32, b"0")
        try:
            return not is_public(IPv6Address(bytes.fromhex(nibbles.decode())))
        except ValueError:
            return False
    return False


def ask(query: Query, ident: int) -> bytes:
    """The question to an upstream, under an id of ours."""
    record = DNSRecord(DNSHeader(id=ident, qr=0, rd=1), q=_question(query))
    record.add_ar(EDNS0(udp_len=UDP_MOST))
    return bytes(record.pack())


def read_answer(packet: bytes, ident: int, query: Query) -> DNSRecord | None:
    """An upstream's answer to exactly this question; None for anything else."""
    if len(packet) < 12 or packet[:2] != struct.pack("!H", ident):
        return None
    try:
        record = DNSRecord.parse(packet)
    except (
        Exception
    ):  # dnslib meets hostile bytes with many kinds, RecursionError and UnicodeError among them
        return None
    if record.header.qr != 1 or record.header.opcode != 0 or len(record.questions) != 1:
        return None
    asked = record.questions[0]
    same = [part.lower() for part in asked.qname.label] == [part.lower() for part in query.labels]
    return record if same and (asked.qtype, asked.qclass) == (query.kind, _IN) else None


def name_of(query: Query) -> str:
    """The name that is asked for, in lower case; bytes that no name of a host has become what no allowlist names."""
    return b".".join(query.labels).decode("ascii", "replace").lower()


def addresses_of(record: DNSRecord) -> tuple[list[str], int]:
    """(IPv4 addresses of an answer, seconds for which it is true)."""
    found = [have for have in record.rr if have.rtype == _A and have.rclass == _IN]
    return [str(_address(have.rdata)) for have in found], min((int(have.ttl) for have in found), default=0)


def judge(
    record: DNSRecord, ipv6: bool, told: Collection[str] | None = None, ttl: int | None = None
) -> Answer:
    """What of an upstream's answer a sandbox may hear.

    Addresses that `internet` can't reach are left out. Where nothing but such addresses was found, the name does not
    exist. The packet filter judges every connect again: this is for clear errors, and against names that are made to
    point at private machines.

    Args:
        record: the answer.
        ipv6: whether sandboxes have IPv6.
        told: of a name that an allowlist has: the addresses that were opened, which are what may be heard; None: the public
            ones.
        ttl: the most seconds for which it may be true; None: as it says.
    """
    code = record.header.rcode
    if code not in (NOERROR, NXDOMAIN):
        return Answer(SERVFAIL)
    kept, hidden, addresses = [], 0, 0
    for have in record.rr:
        if have.rclass != _IN or have.rtype not in _PASSED:
            continue
        if have.rtype in (_A, _AAAA):
            address = _address(have.rdata)
            heard = is_public(address) if told is None else str(address) in told
            if (have.rtype == _AAAA and not ipv6) or not heard:
                hidden += 1
                continue
            addresses += 1
        if ttl is not None:
            have.ttl = min(int(have.ttl), ttl)
        kept.append(_without_hints(have) if have.rtype in (_HTTPS, _SVCB) else have)
    if hidden and not addresses:
        return Answer(NXDOMAIN)
    authority = [have for have in record.auth if have.rtype == _SOA and have.rclass == _IN]
    return Answer(code, tuple(kept), tuple(authority[:1]))


def _address(data: RD) -> IPv4Address | IPv6Address:
    packed = bytes(data.data)
    return IPv4Address(packed) if isinstance(data, A) else IPv6Address(packed)


def _without_hints(have: RR) -> RR:
    """An HTTPS or SVCB record without the addresses that it hints at: nobody judged them."""
    data = have.rdata
    if not isinstance(data, HTTPS):  # dnslib keeps SVCB as bytes; the form is the same (RFC 9460 section 9)
        data = HTTPS.parse(DNSBuffer(data.data), len(data.data))
    params = []
    for key, value in data.params:
        if key in _HINTS:
            continue
        if key == _MANDATORY:
            keys = [number for (number,) in struct.iter_unpack("!H", bytes(value)) if number not in _HINTS]
            if not keys:
                continue
            value = bytearray(b"".join(struct.pack("!H", number) for number in keys))
        params.append((key, value))
    return RR(have.rname, have.rtype, have.rclass, have.ttl, HTTPS(data.priority, data.target, params))


def write_answer(query: Query, answer: Answer, room: int) -> bytes:
    """The packet for the sandbox; where it is larger than `room` bytes, the one that says "ask by TCP"."""
    packet = _write(query, answer.code, answer.records, answer.authority, False)
    return packet if len(packet) <= room else _write(query, answer.code, (), (), True)


def _write(query: Query, code: int, records: Iterable[RR], authority: Iterable[RR], cut: bool) -> bytes:
    header = DNSHeader(id=query.id, qr=1, rd=int(query.recurse), ra=1, tc=int(cut), rcode=code)
    reply = DNSRecord(header, q=_question(query), rr=list(records), auth=list(authority))
    if query.edns:
        reply.add_ar(EDNS0(udp_len=UDP_MOST))
    return bytes(reply.pack())


def _question(query: Query) -> DNSQuestion:
    return DNSQuestion(DNSLabel(list(query.labels)), query.kind, _IN)
