"""The resolver against an upstream on loopback that answers what a test told it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from ipaddress import IPv4Network

import pytest
from dnslib import AAAA, CNAME, MX, QTYPE, RD, RR, TXT, DNSHeader, DNSRecord
from dnslib.dns import HTTPS
from hypothesis import given
from hypothesis import strategies as st

from hearth.egress import forward
from hearth.egress.dns import UDP_MOST, read_answer, read_query
from hearth.egress.resolver import RATE, Buckets
from tests.unit.resolver_kit import Client, FakeUpstream, a, answers, fake_upstream, resolver, said


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async for made in fake_upstream():
        yield made


@pytest.fixture
async def client(upstream: FakeUpstream) -> AsyncIterator[Client]:
    async for made in resolver(upstream):
        yield made


async def test_a_public_name_is_answered(upstream: FakeUpstream, client: Client) -> None:
    upstream.reply = answers(RR("x.test", QTYPE.CNAME, rdata=CNAME("y.test")), a("93.184.216.34", "y.test"))
    record = await client.ask("x.test")
    assert said(record) == ["y.test.", "93.184.216.34"]
    assert (record.header.rcode, record.header.ra, record.header.aa) == (0, 1, 0)
    assert said(await client.ask_by_tcp("x.test")) == ["y.test.", "93.184.216.34"]


@pytest.mark.parametrize(
    "address",
    ["10.0.0.5", "0.0.0.0", "127.0.0.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255"],
)
async def test_a_name_with_private_addresses_only_does_not_exist(
    upstream: FakeUpstream, client: Client, address: str
) -> None:
    upstream.reply = answers(RR("x.test", QTYPE.CNAME, rdata=CNAME("db.internal")), a(address, "db.internal"))
    record = await client.ask("x.test")
    assert (record.header.rcode, record.rr) == (3, [])


async def test_of_mixed_addresses_the_public_ones_are_told(upstream: FakeUpstream, client: Client) -> None:
    upstream.reply = answers(a("10.0.0.5"), a("93.184.216.34"), a("192.168.1.1"))
    record = await client.ask("x.test")
    assert (record.header.rcode, said(record)) == (0, ["93.184.216.34"])


async def test_a_name_that_flips_to_private_is_judged_again(upstream: FakeUpstream, client: Client) -> None:
    upstream.reply = answers(a("93.184.216.34"))
    assert said(await client.ask("x.test")) == ["93.184.216.34"]
    upstream.reply = answers(a("10.0.0.5"))
    assert (await client.ask("x.test")).header.rcode == 3


async def test_without_ipv6_no_name_has_such_an_address(upstream: FakeUpstream, client: Client) -> None:
    upstream.reply = answers(RR("x.test", QTYPE.AAAA, rdata=AAAA("2606:4700::1111")))
    record = await client.ask("x.test", "AAAA")
    assert (record.header.rcode, record.rr, upstream.heard) == (0, [], [])


async def test_with_ipv6_addresses_are_judged_alike(upstream: FakeUpstream) -> None:
    async for client in resolver(upstream, ipv6=True):
        upstream.reply = answers(
            *(
                RR("x.test", QTYPE.AAAA, rdata=AAAA(text))
                for text in ("fd00::1", "::ffff:a00:5", "2606:4700::1111")
            )
        )
        assert said(await client.ask("x.test", "AAAA")) == ["2606:4700::1111"]


@pytest.mark.parametrize("kind", ["HTTPS", "SVCB"])
async def test_hints_at_addresses_are_left_out(upstream: FakeUpstream, client: Client, kind: str) -> None:
    params = [(0, b"\0\1\0\4"), (1, b"\2h2"), (4, b"\x0a\0\0\5"), (6, bytes(16))]
    data = HTTPS(1, [bytearray(b"svc")], [(key, bytearray(value)) for key, value in params])
    if kind == "SVCB":
        packed = b"\0\1\3svc\0" + b"".join(
            struct.pack("!HH", key, len(value)) + value for key, value in params
        )
        data = RD(packed)
    upstream.reply = answers(RR("x.test", getattr(QTYPE, kind), rdata=data))
    (have,) = (await client.ask("x.test", kind)).rr
    again = have.rdata if kind == "HTTPS" else None
    raw = b"\0\1\3svc\0" + b"\0\0\0\2\0\1" + b"\0\1\0\3\2h2"
    assert again is None or [(key, bytes(value)) for key, value in again.params] == [
        (0, b"\0\1"),
        (1, b"\2h2"),
    ]
    assert again is not None or have.rdata.data == raw


async def test_other_kinds_are_passed_on_without_their_additional_addresses(
    upstream: FakeUpstream, client: Client
) -> None:
    def reply(asked: DNSRecord, by_tcp: bool) -> list[bytes]:
        record = DNSRecord(
            DNSHeader(id=asked.header.id, qr=1), q=asked.q, rr=[RR("x.test", 15, rdata=MX("mail.x.test"))]
        )
        record.add_ar(a("10.0.0.5", "mail.x.test"))
        return [bytes(record.pack())]

    upstream.reply = reply
    record = await client.ask("x.test", "MX")
    assert said(record) == ["10 mail.x.test."] and record.ar == []


@pytest.mark.parametrize(("kind", "code"), [("ANY", 4), ("AXFR", 4), ("NULL", 4)])
async def test_kinds_that_nobody_needs_are_refused(
    upstream: FakeUpstream, client: Client, kind: str, code: int
) -> None:
    assert (await client.ask("x.test", kind)).header.rcode == code
    assert upstream.heard == []


async def test_names_of_private_machines_are_not_told(upstream: FakeUpstream, client: Client) -> None:
    for name in ("5.0.0.10.in-addr.arpa", "168.192.in-addr.arpa", f"{'0.' * 30}d.f.ip6.arpa"):
        assert (await client.ask(name, "PTR")).header.rcode == 3
    assert upstream.heard == []
    await client.ask("34.216.184.93.in-addr.arpa", "PTR")
    assert len(upstream.heard) == 1


async def test_long_answers_are_asked_for_again_by_tcp(upstream: FakeUpstream, client: Client) -> None:
    long = [RR("x.test", QTYPE.TXT, rdata=TXT(b"%03d" % number * 60)) for number in range(20)]

    def reply(asked: DNSRecord, by_tcp: bool) -> list[bytes]:
        if by_tcp:
            return answers(*long)(asked, by_tcp)
        return [bytes(DNSRecord(DNSHeader(id=asked.header.id, qr=1, tc=1), q=asked.q).pack())]

    upstream.reply = reply
    cut = await client.ask("x.test", "TXT", room=4096)
    assert (cut.header.tc, cut.rr) == (1, [])
    whole = await client.ask_by_tcp("x.test", "TXT")
    assert (whole.header.tc, len(whole.rr)) == (0, 20)


async def test_answers_by_udp_keep_within_what_the_asker_takes(
    upstream: FakeUpstream, client: Client
) -> None:
    upstream.reply = answers(*(a(f"93.184.216.{number}") for number in range(40)))
    assert (await client.ask("x.test")).header.tc == 1  # 512 bytes without EDNS
    assert len((await client.ask("x.test", room=4096)).rr) == 40
    upstream.reply = answers(*(a(f"93.184.216.{number}") for number in range(90)))
    assert (await client.ask("x.test", room=4096)).header.tc == 1  # never more than UDP_MOST
    assert UDP_MOST == 1232


async def test_ids_and_ports_towards_upstreams_are_not_to_be_guessed(
    upstream: FakeUpstream, client: Client
) -> None:
    upstream.reply = answers(a("93.184.216.34"))
    for _ in range(12):
        await client.ask("x.test")
    assert len({asked.header.id for asked, _ in upstream.heard}) > 8
    assert len({port for _, port in upstream.heard}) > 8


async def test_answers_to_another_question_are_not_heard(upstream: FakeUpstream, client: Client) -> None:
    def reply(asked: DNSRecord, by_tcp: bool) -> list[bytes]:
        def forged(ident: int, name: str, kind: int = 1) -> bytes:
            other = DNSRecord.question(name)
            other.q.qtype = kind
            return bytes(
                DNSRecord(DNSHeader(id=ident, qr=1), q=other.q, rr=[a("93.184.216.66", name)]).pack()
            )

        ident = asked.header.id
        return [
            forged(ident ^ 1, "x.test"),
            forged(ident, "y.test"),
            forged(ident, "x.test", 16),
            b"\0" * 5,
            struct.pack("!H", ident) + b"\xff" * 40,
            asked.pack(),
            *answers(a("93.184.216.34"))(asked, by_tcp),
        ]

    upstream.reply = reply
    assert said(await client.ask("x.test")) == ["93.184.216.34"]


async def test_upstreams_that_fail_give_servfail(
    upstream: FakeUpstream, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "TRY_TIMEOUT", 0.05)
    upstream.reply = lambda *_: []
    assert (await client.ask("x.test")).header.rcode == 2
    upstream.reply = answers(code=5)
    assert (await client.ask("x.test")).header.rcode == 2
    upstream.reply = answers(code=3)
    assert (await client.ask("x.test")).header.rcode == 3


async def test_strangers_and_nonsense_get_no_answer(upstream: FakeUpstream, client: Client) -> None:
    good = bytes(DNSRecord.question("x.test").pack())
    for data in (
        b"",
        b"x",
        good[:-1],
        good[:2] + b"\x80" + good[3:],
        good + b"\0" * 600,
        good[:12] + b"\xc0\x0c\0\1\0\1",
    ):
        assert await client.packet(data, 0.05) is None
    async for other in resolver(upstream, block=IPv4Network("10.200.0.0/20")):
        assert await other.packet(good, 0.05) is None
        reader, writer = await asyncio.open_connection(*other.address)
        with pytest.raises((EOFError, ConnectionError)):
            await reader.readexactly(1)
        writer.close()
    assert upstream.heard == []


async def test_one_source_has_its_rate(upstream: FakeUpstream, client: Client) -> None:
    upstream.reply = answers(a("93.184.216.34"))
    query = bytes(DNSRecord.question("x.test").pack())
    given = await asyncio.gather(*(client.packet(query, 0.5) for _ in range(int(RATE) * 3)))
    answered = sum(data is not None for data in given)
    assert RATE <= answered < RATE * 2


def test_buckets_fill_and_are_forgotten() -> None:
    buckets = Buckets(rate=2.0)
    assert [buckets.take("a", 0.0) for _ in range(3)] == [True, True, False]
    assert buckets.take("b", 0.0)
    assert buckets.take("a", 0.5) and not buckets.take("a", 0.5)
    buckets.forget_full(1.0)
    assert len(buckets) == 1
    buckets.forget_full(10.0)
    assert len(buckets) == 0


@given(st.binary(max_size=600))
def test_whatever_a_sandbox_sends_is_read_without_harm(data: bytes) -> None:
    read_query(data)


@given(st.binary(max_size=400))
def test_whatever_an_upstream_sends_is_read_without_harm(tail: bytes) -> None:
    query = read_query(bytes(DNSRecord.question("x.test").pack()))
    assert query is not None
    assert read_answer(b"\0\7" + tail, 7, query) is None or tail[0] & 0x80


def test_a_loop_of_compressed_names_ends() -> None:
    """Two pointers that lead to each other past a label: dnslib follows them until the stack ends."""
    query = read_query(bytes(DNSRecord.question("x.test").pack()))
    assert query is not None
    head = struct.pack("!HHHHHH", 7, 0x8000, 1, 1, 0, 0)
    loop = head + b"\x04" + b"abcd" + b"\xc0\x0c" + b"\0" * 20
    assert read_answer(loop, 7, query) is None
