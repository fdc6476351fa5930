"""What a sandbox with an allowlist hears of the resolver."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from dnslib import QTYPE, RR, A

from hearth.core.refusals import Refusal
from tests.unit.resolver_kit import Client, FakeJudge, FakeUpstream, a, answers, fake_upstream, resolver, said


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async for made in fake_upstream():
        yield made


@pytest.fixture
async def judge() -> FakeJudge:
    return FakeJudge()


@pytest.fixture
async def listed(upstream: FakeUpstream, judge: FakeJudge) -> AsyncIterator[Client]:
    """A sandbox with an allowlist."""
    judge.internet = False
    async for made in resolver(upstream, judge=judge):
        yield made


REFUSED, NXDOMAIN, SERVFAIL = 5, 3, 2


async def test_an_allowed_name_is_opened_before_it_is_answered(
    upstream: FakeUpstream, judge: FakeJudge, listed: Client
) -> None:
    judge.names["x.test"] = ("93.184.216.34",)
    upstream.reply = answers(a("93.184.216.34"), a("10.0.0.5"))
    record = await listed.ask("X.test")
    assert said(record) == ["93.184.216.34"] and record.header.rcode == 0
    assert judge.learns == [("127.0.0.1", "x.test", ("93.184.216.34", "10.0.0.5"), 60)]
    assert judge.told == [Refusal("127.0.0.1", "dns", "x.test", 0, "10.0.0.5")]


async def test_a_private_address_is_told_where_the_keeper_opened_it(
    upstream: FakeUpstream, judge: FakeJudge, listed: Client
) -> None:
    judge.names["db.test"] = ("10.0.0.5",)
    upstream.reply = answers(a("10.0.0.5", "db.test"))
    assert said(await listed.ask("db.test")) == ["10.0.0.5"]
    judge.internet = True
    assert said(await listed.ask("db.test")) == ["10.0.0.5"]


async def test_another_name_is_not_even_asked_for(
    upstream: FakeUpstream, judge: FakeJudge, listed: Client
) -> None:
    """Questions are a way out: what is asked, somebody's name server hears."""
    judge.names["x.test"] = ("93.184.216.34",)
    for name in ("secret.evil.test", "x.test.evil.test", "sub.x.test", "34.216.184.93.in-addr.arpa"):
        for kind in ("A", "TXT", "AAAA", "HTTPS"):
            assert (await listed.ask(name, kind)).header.rcode == REFUSED, (name, kind)
    assert upstream.heard == [] and judge.learns == []
    assert judge.told[0] == Refusal("127.0.0.1", "dns", "secret.evil.test", 0)
    assert len(judge.told) == 4  # once for each name


async def test_what_leads_nowhere_does_not_exist(
    upstream: FakeUpstream, judge: FakeJudge, listed: Client
) -> None:
    judge.names["x.test"] = ()
    upstream.reply = answers(a("169.254.169.254"))
    assert (await listed.ask("x.test")).header.rcode == NXDOMAIN
    assert judge.told == [Refusal("127.0.0.1", "dns", "x.test", 0, "169.254.169.254")]


async def test_an_answer_about_an_allowed_name_is_not_true_for_longer_than_its_entry(
    upstream: FakeUpstream, judge: FakeJudge, listed: Client
) -> None:
    judge.names["x.test"] = ("93.184.216.34",)
    upstream.reply = answers(RR("x.test", QTYPE.A, rdata=A("93.184.216.34"), ttl=2_000_000))
    assert [have.ttl for have in (await listed.ask("x.test")).rr] == [3600]
    assert judge.learns[0][3] == 3600


async def test_a_closed_sandbox_and_one_without_a_keeper_hear_nothing(
    upstream: FakeUpstream, judge: FakeJudge, listed: Client
) -> None:
    judge.closed = True
    assert (await listed.ask("x.test")).header.rcode == REFUSED
    judge.closed, judge.gone = False, True
    assert (await listed.ask("x.test")).header.rcode == SERVFAIL
    assert upstream.heard == []


async def test_the_keeper_is_not_asked_each_time(judge: FakeJudge, upstream: FakeUpstream) -> None:
    async for client in resolver(upstream, judge=judge):
        for _ in range(20):
            await client.ask("x.test", "MX")
    assert judge.asked == 1


async def test_a_private_name_under_internet_is_told_of(upstream: FakeUpstream, judge: FakeJudge) -> None:
    upstream.reply = answers(a("10.0.0.5"))
    async for client in resolver(upstream, judge=judge):
        assert (await client.ask("x.test")).header.rcode == NXDOMAIN
    assert judge.told == [Refusal("127.0.0.1", "dns", "x.test", 0, "10.0.0.5")]
