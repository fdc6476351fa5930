"""Ranges of an allowlist as the packet filter keeps them: one plain set for each of a few prefix lengths.

Pure. nftables has sets of ranges joined with ports (concatenations with intervals), but taking one element out of those costs the
kernel 9 ms when there are 2,000 (seen on 6.18), and everybody's opening waits meanwhile; a plain set costs a microsecond
whatever is in it. So an address is looked up once for each length, cut to that length, for new connections only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network

LENGTHS = (8, 12, 16, 20, 24, 28, 32)
"""A range of another length becomes up to eight of the next; there is none shorter than /5 that is all public or all private."""

_TYPES = {True: "type ipv4_addr . ipv4_addr . inet_service;", False: "type ipv4_addr . inet_service;"}


def name(length: int) -> str:
    """The set of this prefix length."""
    return f"range{length}"


def sets(sourced: bool) -> tuple[tuple[str, str], ...]:
    """(name, declaration) of each set.

    Args:
        sourced: the sandbox's address is part of an element: one table is for all.
    """
    return tuple((name(length), _TYPES[sourced]) for length in LENGTHS)


def matches(sourced: bool) -> tuple[str, ...]:
    """What matches a packet to each set."""
    return tuple(_match(name(length), length, sourced) for length in LENGTHS)


def exact_match(set_name: str, sourced: bool) -> str:
    """What matches a packet to a set of whole addresses."""
    return _match(set_name, 32, sourced)


def elements(ranges: Iterable[tuple[IPv4Network, int]], source: str = "") -> dict[str, list[str]]:
    """What stands in which set.

    Args:
        ranges: (range, port).
        source: the sandbox's address, where it is part of an element.
    """
    found: dict[str, list[str]] = {}
    before = f"{source} . " if source else ""
    for network, port in ranges:
        for part in _parts(network):
            found.setdefault(name(part.prefixlen), []).append(f"{before}{part.network_address} . {port}")
    return found


def _parts(network: IPv4Network) -> Iterator[IPv4Network]:
    return network.subnets(new_prefix=min(length for length in LENGTHS if length >= network.prefixlen))


def _match(set_name: str, length: int, sourced: bool) -> str:
    mask = "" if length == 32 else f" & {IPv4Network((0, length)).netmask}"
    source = "ip saddr . " if sourced else ""
    return f"meta l4proto {{ tcp, udp }} {source}ip daddr{mask} . th dport @{set_name}"
