"""The packet filter's table as data, names and ranges, and what counts as public."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, collapse_addresses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearth.core.addresses import DENY4, is_public
from hearth.core.launch import Network
from hearth.egress import claim, ranges
from hearth.egress.netlink import attr, attrs, messages, text, u32
from hearth.egress.readback import faults, fingerprint
from hearth.egress.ruleset import (
    SETS,
    Member,
    Names,
    chains,
    change,
    forget,
    hosts,
    member_for,
    names_of,
    renew,
    script,
)
from hearth.egress.upstreams import Followed, Upstream, upstreams_from

NAMES = Names(
    "hearth_x",
    "hbabcd",
    IPv4Address("10.200.0.1"),
    IPv4Network("10.200.0.0/20"),
    7,
    (IPv4Network("10.0.0.0/24"),),
)
MEMBER = Member(
    "hbabcd1",
    IPv4Address("10.200.0.2"),
    True,
    ((IPv4Address("10.0.0.5"), 443),),
    ((IPv4Network("10.0.0.0/30"), 5432),),
)
_WORDS = {
    "accept": {"accept": None},
    "drop": {"drop": None},
    "return": {"return": None},
    "masquerade": {"masquerade": None},
    "reject with tcp reset": {"reject": {"type": "tcp reset"}},
    "reject with icmpx admin-prohibited": {"reject": {"type": "icmpx", "expr": "admin-prohibited"}},
}


def shown() -> list[dict[str, Any]]:
    """The table as nftables would show it."""
    found: list[dict[str, Any]] = [{"metainfo": {}}]
    found += [{"set": {"name": name}} for name, _ in SETS if name not in ("deny4", "private4")]
    denied = [{"prefix": {"addr": str(n.network_address), "len": n.prefixlen}} for n in DENY4[:-2]]
    found.append({"set": {"name": "deny4", "elem": [*denied, {"range": ["224.0.0.0", "255.255.255.255"]}]}})
    opened = [{"prefix": {"addr": str(n.network_address), "len": n.prefixlen}} for n in NAMES.private]
    found.append({"set": {"name": "private4", "elem": opened}})
    for chain in chains(NAMES):
        value: dict[str, Any] = {"name": chain.name, "handle": 1}
        if chain.hook:
            kind, hook, priority = chain.hook
            value |= {"type": kind, "hook": hook, "prio": priority, "policy": "accept"}
        found.append({"chain": value})
        for number, (match, verdict) in enumerate(chain.rules):
            expr: list[dict[str, Any]] = [{"match": {"text": match}}] if match else []
            word, _, target = verdict.partition(" ")
            if word in ("goto", "jump"):
                expr.append({word: {"target": target}})
            elif verdict:
                expr.append(_WORDS[verdict])
            found.append({"rule": {"chain": chain.name, "handle": number, "expr": expr}})
    return found


def test_the_table_as_written_has_no_faults() -> None:
    assert faults(NAMES, shown()) == []


@pytest.mark.parametrize("number", range(1, len(shown())))
def test_whatever_is_missing_is_a_fault(number: int) -> None:
    have = shown()
    del have[number]
    assert faults(NAMES, have)


@pytest.mark.parametrize(
    "damage",
    [
        lambda have: have.append({"chain": {"name": "more"}}),
        lambda have: have.append({"rule": {"chain": "from_sb", "expr": [{"accept": None}]}}),
        lambda have: _first(have, "rule", "chain", "to_sb", 1)["expr"].__setitem__(0, {"accept": None}),
        lambda have: _first(have, "rule", "chain", "to_sb", 0)["expr"].pop(0),
        lambda have: _first(have, "set", "name", "deny4")["elem"].pop(3),
        lambda have: _first(have, "set", "name", "private4")["elem"].append("10.0.1.1"),
    ],
)
def test_damage_is_a_fault(damage: Any) -> None:
    have = shown()
    damage(have)
    assert faults(NAMES, have)


def _first(have: list[dict[str, Any]], kind: str, key: str, value: str, skip: int = 0) -> dict[str, Any]:
    return [item[kind] for item in have if kind in item and item[kind][key] == value][skip]


@pytest.mark.parametrize(
    ("key", "value"), [("prio", -9), ("policy", "drop"), ("hook", "output"), ("type", "nat")]
)
def test_a_chain_that_hangs_elsewhere_is_a_fault(key: str, value: object) -> None:
    have = shown()
    _first(have, "chain", "name", "input")[key] = value
    assert faults(NAMES, have) == ["chain input hangs elsewhere"]


def test_the_fingerprint_sees_matches_and_no_handles_or_counters() -> None:
    have = shown()
    first = fingerprint(have)
    rule = _first(have, "rule", "chain", "spoof", 2)
    rule["handle"] = 99
    rule["expr"].insert(0, {"counter": {"packets": 7, "bytes": 700}})
    assert fingerprint(have) == first
    _first(have, "rule", "chain", "from_sb", 4)["expr"][0]["match"]["text"] = "ip daddr 10.0.0.1"
    assert fingerprint(have) != first


def test_one_transaction_opens_and_one_closes() -> None:
    assert change(NAMES, "add", MEMBER).splitlines() == [
        'add element inet hearth_x owner4 { "hbabcd1" . 10.200.0.2 }',
        "add element inet hearth_x inet4 { 10.200.0.2 }",
        "add element inet hearth_x allow4 { 10.200.0.2 . 10.0.0.5 . tcp . 443 }",
        "add element inet hearth_x range32 { "
        + ", ".join(f"10.200.0.2 . 10.0.0.{last} . 5432" for last in range(4))
        + " }",
    ]
    closed = Member("hbabcd1", MEMBER.address, False)
    assert "inet4" not in change(NAMES, "delete", closed)


def test_a_reload_writes_the_members_again_and_is_one_transaction() -> None:
    text_ = script(NAMES, [MEMBER], [IPv4Address("192.0.2.7")], [("10.200.0.2 . 1.1.1.1 . 443", 9)])
    assert "elements = { 10.200.0.2 . 1.1.1.1 . 443 timeout 9s };" in text_
    assert "set private4 { type ipv4_addr; flags interval; auto-merge; elements = { 10.0.0.0/24 }; }" in text_
    assert text_.startswith("table inet hearth_x\ndelete table inet hearth_x\ntable inet hearth_x {")
    assert "set inet4 { type ipv4_addr; elements = { 10.200.0.2 }; }" in text_
    assert "elements = { 192.0.2.7 }" in text_
    assert hosts(NAMES, []) == "flush set inet hearth_x host4\n"


def test_spoofs_are_dropped_before_conntrack_and_private_targets_after_named_ones() -> None:
    by_name = {chain.name: chain for chain in chains(NAMES)}
    assert by_name["spoof"].hook == ("filter", "prerouting", -310)
    order = [match for match, _ in by_name["from_sb"].rules]
    allowed = next(number for number, match in enumerate(order) if "@allow4" in match)
    assert (
        order.index('oifname "hbabcd*"')
        < allowed
        < order.index(
            "ip daddr @host4"
        )  # this host's own addresses are nobody's, whatever the operator allows
        < order.index("ip daddr @private4")
        < order.index("ip daddr @deny4")
        < order.index("ip saddr @inet4")
    )
    jumps = [
        number for number, (_, verdict) in enumerate(by_name["from_sb"].rules) if verdict == "jump named"
    ]
    assert jumps == [order.index("ip daddr @private4"), len(order) - 2]
    assert by_name["from_sb"].rules[-1] == ("", "goto refuse")


def test_a_functions_ranges_are_put_together() -> None:
    """None within another."""
    targets = (
        ("10.1.0.0/16", 443),
        ("10.1.0.5/32", 443),
        ("10.1.0.5/32", 80),
        ("a.example", 80),
        ("a.example", 443),
    )
    network = Network("none", targets=targets)
    member = member_for("hbabcd1", MEMBER.address, network)
    assert member.ranges == ((IPv4Network("10.1.0.0/16"), 443), (IPv4Network("10.1.0.5/32"), 80))
    assert not member.internet and not member.allow
    assert names_of(network) == {"a.example": (80, 443)}


def test_names_open_for_a_time_and_are_taken_out_whatever_became_of_them() -> None:
    assert renew("t", ["1.1.1.1 . 443"], 90).splitlines() == [
        "add element inet t named4 { 1.1.1.1 . 443 }",
        "delete element inet t named4 { 1.1.1.1 . 443 }",
        "add element inet t named4 { 1.1.1.1 . 443 timeout 90s }",
    ]
    assert forget("t", []) == ""


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("1.1.1.1", True),
        ("9.255.255.255", True),
        ("10.0.0.0", False),
        ("100.63.255.255", True),
        ("100.127.255.255", False),
        ("169.254.169.254", False),
        ("172.15.255.255", True),
        ("172.31.255.255", False),
        ("192.168.0.1", False),
        ("223.255.255.255", True),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("0.0.0.0", False),
        ("2606:4700::1111", True),
        ("::ffff:93.184.216.34", False),
        ("64:ff9b::a00:5", False),
        ("2002:a00:5::", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::1", False),
    ],
)
def test_what_is_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_nothing_that_python_calls_private_is_public(address: IPv4Address | IPv6Address) -> None:
    if is_public(address):
        assert address.is_global and not address.is_multicast


def test_names_fit_a_link_and_differ() -> None:
    one, two = claim.prefix("018f3c"), claim.prefix("018f3d")
    assert one != two and len(one) == 6 and one.startswith("hb")
    assert claim.group("018f3c") > 0
    with pytest.raises(ValueError, match="instance id"):
        claim.prefix("a; flush ruleset")


def test_a_range_is_the_instances_own_and_free() -> None:
    free = next(claim.candidates("a", []))
    assert free == next(claim.candidates("a", [IPv4Network("0.0.0.0/0")]))  # the default route takes nothing
    taken = next(claim.candidates("a", [IPv4Network(free[7])]))
    assert not taken.overlaps(free) and taken.subnet_of(IPv4Network("10.128.0.0/9"))
    assert list(claim.candidates("a", [IPv4Network("10.0.0.0/8")])) == []


def test_upstreams_are_read_as_everybody_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    assert upstreams_from(path) == (Upstream("127.0.0.1"),)
    path.write_text(
        "# nameserver 1.1.1.1\nsearch x\nnameserver 9.9.9.9 \nnameserver\nnameserver nix\nnameserver ::1\n"
    )
    follow = Followed(path)
    assert follow() == (Upstream("9.9.9.9"), Upstream("::1"))
    path.write_text("nameserver 8.8.8.8\n" * 5)
    assert follow() == (Upstream("8.8.8.8"),) * 3
    path.unlink()
    assert follow() == (Upstream("127.0.0.1"),)


@given(st.binary(max_size=200))
def test_netlink_messages_cut_off_anywhere_are_read_without_harm(data: bytes) -> None:
    list(messages(data))
    attrs(data)


def test_attributes_are_padded_and_read_back() -> None:
    data = text(3, "hb1") + attr(1, b"\x02\x00\x00") + u32(27, 7)
    assert len(data) % 4 == 0
    assert attrs(data) == {3: b"hb1\0", 1: b"\x02\x00\x00", 27: b"\x07\x00\x00\x00"}


@given(st.integers(0, 2**32 - 1), st.integers(5, 32))
def test_a_range_is_cut_into_a_few_of_the_lengths_that_are_looked_up(number: int, length: int) -> None:
    network = IPv4Network((number, length), strict=False)
    ((name, values),) = ranges.elements([(network, 443)], "10.200.0.2").items()
    parts = [IPv4Network((value.split(" . ")[1], int(name.removeprefix("range")))) for value in values]
    assert list(collapse_addresses(parts)) == [network] and len(parts) <= 8
    assert name in dict(ranges.sets(True))


def test_an_address_is_cut_to_the_length_of_each_set() -> None:
    assert len(ranges.matches(True)) == len(ranges.LENGTHS)
    assert ranges.matches(True)[4] == (
        "meta l4proto { tcp, udp } ip saddr . ip daddr & 255.255.255.0 . th dport @range24"
    )
    assert ranges.matches(False)[-1] == "meta l4proto { tcp, udp } ip daddr . th dport @range32"
