"""Which addresses are public: the lists that the packet filter and the resolver both judge by.

Source: the IANA special-purpose address registries (RFC 6890 and its successors), read as "not globally
reachable", with multicast and reserved space added. Prefixes that carry an IPv4 address inside an IPv6 one
(mapped, NAT64, 6to4) are denied whole, because they lead to the addresses of the first list.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

DENY4: tuple[IPv4Network, ...] = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
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
