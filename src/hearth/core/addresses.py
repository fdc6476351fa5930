"""Which addresses are public, private, or nobody's to reach: the lists that deploys, the packet filter and the resolver judge by.

Source: the IANA special-purpose address registries (RFC 6890 and its successors), read as "not globally
reachable", with multicast and reserved space added. Prefixes that carry an IPv4 address inside an IPv6 one
(mapped, NAT64, 6to4) are denied whole, because they lead to the addresses of the first list. One address is denied that is
public by its number: 168.63.129.16, at which Azure tells each of its machines about itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address

DENY4: tuple[IPv4Network, ...] = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)

_METADATA = IPv4Network("169.254.0.0/16")
NEVER4: tuple[IPv4Network, ...] = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "100.100.100.200/32",  # metadata of Alibaba Cloud
        "168.63.129.16/32",  # of Azure
        "192.0.0.192/32",  # of Oracle Cloud
    )
)
"""Of `DENY4`, what no operator can open: this network, loopback, link-local (metadata services of clouds), multicast, reserved,
and metadata services that have addresses elsewhere."""

DENY6: tuple[IPv6Network, ...] = tuple(
    IPv6Network(text)
    for text in (
        "::/96",
        "::ffff:0:0/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
)


def is_public(address: str | IPv4Address | IPv6Address) -> bool:
    """Whether `internet` may reach this address.

    Args:
        address: an address, or its text; ValueError when the text is none.
    """
    parsed = ip_address(address) if isinstance(address, str) else address
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in DENY4)
    return not any(parsed in network for network in DENY6)


def is_never(address: IPv4Address) -> bool:
    """Whether no function may reach this address, whatever anybody allows."""
    return any(address in network for network in NEVER4)


def excluding(networks: Iterable[IPv4Network], taken: Iterable[IPv4Network]) -> tuple[IPv4Network, ...]:
    """What is left of ranges without others."""
    found = list(collapse_addresses(networks))
    for cut in taken:
        left: list[IPv4Network] = []
        for network in found:
            if network.subnet_of(cut):
                continue
            left += network.address_exclude(cut) if cut.subnet_of(network) else [network]
        found = left
    return tuple(collapse_addresses(found))


def openable(networks: Iterable[IPv4Network]) -> tuple[IPv4Network, ...]:
    """What of an operator's ranges functions may reach if they name it."""
    return excluding(networks, NEVER4)


def is_within(address: IPv4Address | IPv4Network, networks: Iterable[IPv4Network]) -> bool:
    """Whether an address, or all of a range, lies in one of these ranges."""
    wanted = IPv4Network(address)
    return any(wanted.subnet_of(network) for network in networks)


def why_refused(address: str, private: Iterable[IPv4Network] = ()) -> str:
    """What is wrong with an address that a sandbox was refused, in words; empty for a public one.

    Args:
        address: its text; ValueError when it is none.
        private: what the operator lets functions reach.
    """
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address):
        return "sandboxes have IPv4 only"
    if parsed in _METADATA:
        return "a link-local address, as metadata services have"
    if is_never(parsed):
        return "an address that no function may reach"
    if is_public(parsed):
        return ""
    if is_within(parsed, private):
        return "a private address that network.allow does not name with this port"
    return "a private address: functions reach those of --private-networks, and never this machine's own"
