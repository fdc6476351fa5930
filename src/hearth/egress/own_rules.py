"""The packet filter inside one sandbox's own network namespace, of an ordinary user: what its program may send and get.

Pure. The table is in the sandbox's namespace, which belongs to a user namespace around the sandbox: its program is in another one below
and can't change it, whatever capabilities it might win. Nothing leaves but through these rules: slirp4netns, which carries
what passes, is an ordinary program of the user and reaches whatever he does.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from hearth.core.addresses import DENY4, excluding, openable
from hearth.egress import ranges
from hearth.egress.ruleset import CONNECTIONS, COPIED, TOLD, Chain, Member

TABLE = "hearth"
TAP = "tap0"
CARRIERS = IPv4Network("192.0.2.0/24")
"""slirp4netns's own: what has an address in it is it, whoever else has one. A range for documentation (RFC 5737), which is on nobody's
network; its default is the one that QEMU and VirtualBox give to their machines, whose package indexes could then not be reached."""
ADDRESS = CARRIERS[100]  # slirp4netns gives it (--configure)
LOG_GROUP = 5
RESOLVER = IPv4Address(
    "127.0.0.53"
)  # on the sandbox's own loopback: the resolver's socket, which the keeper bound there

SETS = (
    ("inet4", "type ipv4_addr;"),
    ("cc4", "type ipv4_addr; size 4096; flags dynamic;"),
    ("allow4", "type ipv4_addr . inet_proto . inet_service;"),
    *ranges.sets(False),
    ("named4", "type ipv4_addr . inet_service; flags timeout;"),
    ("told4", "type ipv4_addr; size 4096; flags dynamic,timeout; timeout 1m;"),
    ("host4", "type ipv4_addr; flags interval; auto-merge;"),
    ("private4", "type ipv4_addr; flags interval; auto-merge;"),
    ("deny4", "type ipv4_addr; flags interval; auto-merge;"),
)
_KNOWN = ("ct state established,related", "accept")
CHAINS = (
    Chain(
        "refuse",
        (),
        (
            (f"{TOLD} log group {LOG_GROUP} snaplen {COPIED}", ""),
            # ICMP errors are rate limited, and a probe would hang; a reset is answered at once.
            ("meta l4proto tcp", "reject with tcp reset"),
            ("", "reject with icmpx admin-prohibited"),
        ),
    ),
    Chain(
        "counted",
        (),
        ((f"add @cc4 {{ ip saddr ct count over {CONNECTIONS} }}", "goto refuse"), ("", "accept")),
    ),
    Chain(
        "named",
        (),
        tuple(
            (match, "goto counted") for match in (*ranges.matches(False), ranges.exact_match("named4", False))
        ),
    ),
    Chain(
        "sent",
        ("filter", "output", 0),
        (
            ('oifname "lo"', "accept"),  # its own loopback, where the resolver answers
            ("ct state invalid", "drop"),
            _KNOWN,
            ("ip daddr . meta l4proto . th dport @allow4", "accept"),
            ("ip daddr @host4", "goto refuse"),
            ("ip daddr @private4", "jump named"),  # what the operator allows, and the function names
            ("ip daddr @deny4", "goto refuse"),
            ("meta l4proto != { tcp, udp, icmp }", "goto refuse"),
            ("ip saddr @inet4", "goto counted"),
            ("", "jump named"),
            ("", "goto refuse"),  # closed sandboxes, all of IPv6
        ),
        policy="drop",
    ),
    Chain(
        "got",
        ("filter", "input", 0),
        (('iifname "lo"', "accept"), _KNOWN, ("", "drop")),
        policy="drop",
    ),
    Chain("passed", ("filter", "forward", 0), (("", "drop"),), policy="drop"),
)


def private_of(private: Iterable[IPv4Network]) -> tuple[IPv4Network, ...]:
    """The ranges that the operator allows, without what is the carrier's own."""
    return excluding(openable(private), [CARRIERS])


def script(host: Iterable[IPv4Address], private: Iterable[IPv4Network] = ()) -> str:
    """Commands that make the table, closed: nobody is in `inet4`, `allow4` and `range4`.

    Args:
        host: this host's own addresses.
        private: see `private_of`.
    """
    content = {
        "deny4": [str(network) for network in DENY4],
        "host4": [str(address) for address in sorted(set(host))],
        "private4": [str(network) for network in private],
    }
    lines = [f"table inet {TABLE} {{"]
    for name, kind in SETS:
        values = ", ".join(content.get(name, []))
        filled = f" elements = {{ {values} }};" if values else ""
        lines.append(f"set {name} {{ {kind}{filled} }}")
    for chain in CHAINS:
        lines.append(f"chain {chain.name} {{")
        if chain.hook:
            kind, hook, priority = chain.hook
            lines.append(f"type {kind} hook {hook} priority {priority}; policy {chain.policy};")
        lines += [f"{match} {verdict}".strip() for match, verdict in chain.rules]
        lines.append("}")
    return "\n".join([*lines, "}", ""])


def opened(member: Member) -> str:
    """Commands that let a sandbox out; all or nothing. Empty when it may reach nothing."""
    lines = []
    if member.internet:
        lines.append(f"add element inet {TABLE} inet4 {{ {ADDRESS} }}")
    if member.allow:
        listed = ", ".join(f"{target} . tcp . {port}" for target, port in member.allow)
        lines.append(f"add element inet {TABLE} allow4 {{ {listed} }}")
    if member.ranges:
        for name, values in ranges.elements(member.ranges).items():
            lines.append(f"add element inet {TABLE} {name} {{ {', '.join(values)} }}")
    return "".join(f"{line}\n" for line in lines)


def hosts(addresses: Iterable[IPv4Address]) -> str:
    """Commands that make `host4` say exactly these addresses."""
    text = f"flush set inet {TABLE} host4\n"
    listed = ", ".join(str(address) for address in sorted(set(addresses)))
    return text + (f"add element inet {TABLE} host4 {{ {listed} }}\n" if listed else "")
