"""Allowlists of functions: what may be written, what an operator may open, what a deploy checks, and what is judged later."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearth.app.deploy import check_limits
from hearth.app.launcher import network_of
from hearth.app.reach import check_targets
from hearth.cli.commands.functions import _network
from hearth.config import server_settings, settings_from_json, settings_to_json
from hearth.core.addresses import NEVER4, openable, why_refused
from hearth.core.errors import InvalidInput, InvalidManifest, LimitUnenforceable
from hearth.core.function import FunctionConfig, config_from_json, config_to_json
from hearth.core.launch import Attachment, Limits, Network, Probe
from hearth.core.refusals import Refusal, in_words
from hearth.core.targets import PRIVATE4, is_private, parse_target
from hearth.drivers.common.sources import check_network
from hearth.egress import nflog
from hearth.egress.allowed import allowed_by
from hearth.egress.learned import LEAST, ROOM, SLACK, Learned, lasts
from hearth.egress.own_rules import CARRIERS, private_of
from hearth.manifest.function import read
from hearth.protocol.keeper import attachment_from_data, attachment_to_data

BASE = "name: a\nruntime: python\n"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("api.stripe.com:443", "api.stripe.com:443"),
        ("API.Stripe.com.:443", "api.stripe.com:443"),
        ("db:5432", "db:5432"),
        ("_sip._udp.example.com:5060", "_sip._udp.example.com:5060"),
        ("10.0.0.5:5432", "10.0.0.5/32:5432"),
        ("10.0.0.0/24:5432", "10.0.0.0/24:5432"),
        ("93.184.216.34:80", "93.184.216.34/32:80"),
        ("8.0.0.0/9:53", "8.0.0.0/9:53"),
        ("100.64.0.0/10:443", "100.64.0.0/10:443"),
        ("168.63.0.0/16:443", "168.63.0.0/16:443"),
    ],
)
def test_what_may_be_written(text: str, written: str) -> None:
    assert str(parse_target(text)) == written
    assert str(parse_target(written)) == written


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("api.stripe.com", "no port"),
        ("api.stripe.com:0", "no port"),
        ("api.stripe.com:65536", "no port"),
        ("api.stripe.com:https", "no port"),
        (":443", "no name"),
        ("", "no port"),
        ("*.stripe.com:443", "several"),
        ("https://api.stripe.com:443", "no name"),
        ("-a.example:443", "no name"),
        ("a..example:443", "no name"),
        ("a" * 64 + ".example:443", "no name"),
        ("a.123:443", "no name"),
        ("localhost:80", "own"),
        ("a.localhost:80", "own"),
        ("[2606:4700::1111]:443", "IPv6"),
        ("fd00::1:443", "IPv6"),
        ("10.0.0.5/24:1", "host bits"),
        ("10.0.0.256:1", "no range"),
        ("1.2.3:1", "no range"),
        ("169.254.169.254:80", "never"),
        ("169.254.0.0/16:80", "never"),
        ("127.0.0.1:8080", "never"),
        ("0.0.0.0:80", "never"),
        ("224.0.0.1:1", "never"),
        ("100.100.100.200:80", "never"),
        ("168.63.129.16:80", "never"),
        ("192.0.0.192:80", "never"),
        ("0.0.0.0/0:443", "public and private"),
        ("8.0.0.0/5:443", "public and private"),
        ("172.0.0.0/8:443", "public and private"),
    ],
)
def test_what_may_not(text: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        parse_target(text)
    assert caught.value.hint


@given(st.ip_addresses(v=4))
def test_no_address_that_is_nobodys_can_be_written(address: IPv4Address) -> None:
    if any(address in network for network in NEVER4):
        with pytest.raises(InvalidInput):
            parse_target(f"{address}:80")
    else:
        assert is_private(parse_target(f"{address}:80")) == (why_refused(str(address)) != "")


@pytest.mark.parametrize(
    ("line", "network", "allow"),
    [
        (
            "network: {internet: false, allow: [b.example:443, 10.0.0.5:1]}",
            "none",
            ("10.0.0.5/32:1", "b.example:443"),
        ),
        ("network: {allow: [b.example:443, B.example:443]}", "none", ("b.example:443",)),
        ("network: {internet: true, allow: [10.0.0.5:1]}", "internet", ("10.0.0.5/32:1",)),
        ("network: {internet: false}", "none", ()),
        ("network: {internet: true}", "internet", ()),
        ("network: {allow: []}", "none", ()),
    ],
)
def test_the_manifest_reads_an_allowlist(line: str, network: str, allow: tuple[str, ...]) -> None:
    config = read(BASE + line + "\n")
    assert (config.network, config.allow, config.written) == (network, allow, ("network",))
    assert config.networked == (network == "internet" or bool(allow))
    assert config_from_json(config_to_json(config)) == config


@pytest.mark.parametrize(
    "line",
    [
        "network: {}",
        "network: {internet: 1}",
        "network: {internet: 'false', allow: [a.example:1]}",
        "network: {internet: false, alow: []}",
        "network: {allow: a.example:443}",
        "network: {allow: [[a]]}",
        "network: {allow: [a.example]}",
        "network: {allow: [169.254.169.254:80]}",
        "network: {allow: [" + ", ".join(f"a{n}.example:1" for n in range(65)) + "]}",
        "network: [a.example:443]",
    ],
)
def test_the_manifest_refuses_with_the_line(line: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        read(BASE + line + "\n")
    assert caught.value.details["line"] == 3


def test_versions_from_before_have_none() -> None:
    data = config_to_json(FunctionConfig("a", "python"))
    del data["allow"]
    assert config_from_json(data).allow == ()


@pytest.mark.parametrize(
    "text", ["10.0.0.0/8", "10.0.0.0/24, 192.168.1.0/24", "100.64.0.0/10", "172.16.0.0/12", "10.0.0.5"]
)
def test_what_an_operator_may_open(text: str) -> None:
    settings = server_settings({"private_networks": text}, {"HOME": "/root"})
    assert settings.private_networks == tuple(part.strip() for part in text.split(","))
    assert settings_from_json(settings_to_json(settings)) == settings


@pytest.mark.parametrize(
    "text",
    [
        "169.254.0.0/16",
        "169.254.169.254/32",
        "127.0.0.0/8",
        "0.0.0.0/0",
        "10.0.0.0/7",
        "8.8.8.0/24",
        "224.0.0.0/4",
        "fd00::/8",
        "10.0.0.5/24",
        "db",
    ],
)
def test_what_he_may_not(text: str) -> None:
    with pytest.raises(InvalidInput, match="--private-networks"):
        server_settings({"private_networks": text}, {"HOME": "/root"})


def test_of_what_he_opens_the_forbidden_ones_stay_closed() -> None:
    opened = openable(PRIVATE4)
    assert not any(one.overlaps(other) for one in opened for other in NEVER4)
    assert any(IPv4Address("100.100.100.201") in network for network in opened)
    assert openable([IPv4Network("10.0.0.0/24"), IPv4Network("10.0.1.0/24")]) == (IPv4Network("10.0.0.0/23"),)
    assert openable([IPv4Network("169.254.0.0/17")]) == ()


def config(*allow: str, network: Any = "none", **more: Any) -> FunctionConfig:
    return FunctionConfig("a", "python", network=network, allow=allow, **more)


def test_a_deploy_is_held_against_what_the_operator_allows() -> None:
    check_targets(config("10.0.0.5/32:5432", "a.example:443", "8.8.8.8/32:53"), ("10.0.0.0/24",))
    with pytest.raises(InvalidManifest, match=r"10\.0\.1\.5/32:5432") as caught:
        check_targets(config("10.0.1.5/32:5432"), ("10.0.0.0/24",))
    assert "--private-networks 10.0.0.0/24,10.0.1.5/32" in str(caught.value.hint)
    with pytest.raises(InvalidManifest):
        check_targets(config("10.0.0.0/23:5432"), ("10.0.0.0/24",))  # half of it


def test_an_allowlist_that_can_not_be_held_is_refused() -> None:
    closed = Probe("bubblewrap", True, frozenset({"memory", "cpu", "tmp"}))
    wanted = config("a.example:443", written=("network",))
    with pytest.raises(LimitUnenforceable, match="network"):
        check_limits(wanted, closed, frozenset())
    assert "gets no network" in check_limits(wanted, closed, frozenset({"network"}))[0]
    # Where nothing is isolated, "no network" would be a lie.
    process = replace(closed, driver="process")
    assert "is not held" in check_limits(wanted, process, frozenset({"network"}))[0]
    assert check_limits(config(written=("network",)), closed, frozenset()) == ()


def test_an_allowlist_reaches_the_keeper_whole() -> None:
    network = network_of(config("10.0.0.0/24:5432", "a.example:443"))
    assert network == Network("none", targets=(("10.0.0.0/24", 5432), ("a.example", 443)))
    assert network.opens and not Network().opens
    sent = Attachment("x", Limits(), network)
    assert attachment_from_data(attachment_to_data(sent)) == sent


@pytest.mark.parametrize(
    "target",
    [
        ("169.254.169.254/32", 80),
        ("10.0.0.5", 80),
        ("A.example", 80),
        ("a.example", 0),
        ("a b", 1),
        ("0.0.0.0/0", 1),
    ],
)
def test_the_keeper_takes_no_target_that_was_not_checked(target: tuple[str, int]) -> None:
    with pytest.raises(InvalidInput):
        check_network(Network("none", targets=(target,)))


def test_describe_says_it_in_words() -> None:
    assert _network({"network": "internet"}) == "internet"
    assert _network({"network": "none", "allow": []}) == "none"
    assert (
        _network({"network": "none", "allow": ["a.example:443", "b.example:1"]})
        == "only a.example:443, b.example:1"
    )
    assert _network({"network": "internet", "allow": ["10.0.0.5/32:1"]}) == "internet and 10.0.0.5/32:1"


PRIVATE = (IPv4Network("10.0.0.0/24"),)


def test_what_a_name_led_to_is_judged() -> None:
    allowed = allowed_by(Network("none", targets=(("a.example", 443), ("a.example", 80), ("10.0.0.5/32", 1))))
    led = (
        "93.184.216.34",
        "10.0.0.5",
        "10.0.1.5",
        "169.254.169.254",
        "127.0.0.1",
        "93.184.216.99",
        "nonsense",
    )
    host = {IPv4Address("93.184.216.99")}
    told, opened = allowed.judge("a.example", led, PRIVATE, host)
    assert told == ("93.184.216.34", "10.0.0.5")
    assert {(str(address), port) for address, port in opened} == {
        (address, port) for address in told for port in (443, 80)
    }
    assert allowed.judge("b.example", led, PRIVATE) == ((), [])
    assert allowed.judge("a.example", ("169.254.169.254",), (IPv4Network("0.0.0.0/0"),)) == ((), [])


def test_under_internet_only_private_addresses_need_an_entry() -> None:
    allowed = allowed_by(Network("internet", targets=(("a.example", 443),)))
    told, opened = allowed.judge("a.example", ("93.184.216.34", "10.0.0.5"), PRIVATE)
    assert told == ("93.184.216.34", "10.0.0.5") and opened == [(IPv4Address("10.0.0.5"), 443)]


def test_entries_outlive_answers_and_are_renewed_seldom() -> None:
    learned, place = Learned(), (IPv4Address("1.1.1.1"), 443)
    assert learned.due([place, place], 300, 1000.0) == [place]
    learned.write([place], 300, 1000.0)
    assert lasts(300) == 300 + SLACK and lasts(0) == LEAST + SLACK
    assert learned.due([place], 300, 1000.0 + SLACK / 2) == []
    assert learned.due([place], 300, 1001.0 + SLACK / 2) == [place]
    assert learned.left(1000.0 + 299.0) == {place: 61}
    assert learned.left(1000.0 + 362.0) == {}


def test_entries_of_one_sandbox_are_bounded_and_make_room_when_they_end() -> None:
    learned = Learned()
    many = [(IPv4Address(number), 443) for number in range(ROOM)]
    assert learned.has_room(many, 0.0)
    learned.write(many, 0, 0.0)
    more = [(IPv4Address("9.9.9.9"), 443)]
    assert not learned.has_room(more, 1.0) and learned.has_room(many[:1], 1.0)
    assert learned.has_room(more, lasts(0) + 1.0)


def test_the_carriers_own_range_is_never_open() -> None:
    found = private_of([IPv4Network("192.0.0.0/16"), IPv4Network("192.168.0.0/16")])
    assert not any(network.overlaps(CARRIERS) for network in found)
    assert any(IPv4Address("192.0.3.1") in network for network in found)
    assert found[-1] == IPv4Network("192.168.0.0/16")
    assert private_of([CARRIERS]) == private_of([IPv4Network("192.0.2.100/32")]) == ()


def ipv4(protocol: int, ports: bytes = b"\x30\x39\x15\x38", words: int = 5) -> bytes:
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x40 | words, 0, 40, 1, 0, 64, protocol, 0, b"\x0a\x01\x00\x02", b"\x0a\x00\x00\x05"
    )
    return head + bytes((words - 5) * 4) + ports


def test_heads_of_packets_are_read() -> None:
    assert nflog.head_of(ipv4(6)) == nflog.Refused("10.1.0.2", "tcp", "10.0.0.5", 5432)
    assert nflog.head_of(ipv4(17, words=7)) == nflog.Refused("10.1.0.2", "udp", "10.0.0.5", 5432)
    assert nflog.head_of(ipv4(1)) == nflog.Refused("10.1.0.2", "icmp", "10.0.0.5", 0)
    assert nflog.head_of(ipv4(47)) == nflog.Refused("10.1.0.2", "protocol 47", "10.0.0.5", 0)
    assert nflog.head_of(ipv4(6, b"\x30")) == nflog.Refused("10.1.0.2", "tcp", "10.0.0.5", 0)
    six = bytes([0x60, 0, 0, 0, 0, 4, 6, 64]) + bytes(16) + bytes(15) + b"\x01" + b"\x00\x01\x00\x50"
    assert nflog.head_of(six) == nflog.Refused("::", "tcp", "::1", 80)


@given(st.binary(max_size=80))
def test_nonsense_for_a_head_does_no_harm(data: bytes) -> None:
    nflog.head_of(data)
    nflog.head_of(b"\x4f" + data)


@pytest.mark.parametrize(
    ("refusal", "internet", "says"),
    [
        (
            Refusal("s", "tcp", "169.254.169.254", 80),
            True,
            "tcp to 169.254.169.254 port 80 was refused: a link-local",
        ),
        (Refusal("s", "tcp", "10.0.0.5", 443), True, "private address that network.allow does not name"),
        (Refusal("s", "tcp", "10.0.1.5", 443), True, "functions reach those of --private-networks"),
        (Refusal("s", "udp", "8.8.8.8", 53), False, "network.allow does not name it"),
        (Refusal("s", "udp", "8.8.8.8", 53), True, "more connections than one may have"),
        (
            Refusal("s", "icmp", "127.0.0.1", 0),
            True,
            "icmp to 127.0.0.1 was refused: an address that no function",
        ),
        (
            Refusal("s", "dns", "evil.example", 0),
            False,
            "the name evil.example was refused: network.allow does not",
        ),
        (Refusal("s", "dns", "a.example", 0, "10.0.1.5"), False, "leads to 10.0.1.5, a private address"),
        (Refusal("s", "dns", "a.example", 0, "8.8.8.8"), False, "too many addresses"),
        (Refusal("s", "tcp", "nonsense", 1), False, "no address"),
    ],
)
def test_refusals_in_words(refusal: Refusal, internet: bool, says: str) -> None:
    assert says in in_words(refusal, internet, PRIVATE)
