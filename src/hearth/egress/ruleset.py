"""The packet filter's one table, as data: written out for nftables, so that what is read back can be compared (`readback`).

Pure: text and plain data in and out. docs/explanation/networks.md walks through the chains.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from hearth.core.errors import SandboxFailed
from hearth.core.launch import Network
from hearth.egress.policy import DENY4

CONNECTIONS = 256
"""Tracked connections that one sandbox may have at once."""

Rule = tuple[str, str]  # (what it matches, verdict)


@dataclass(frozen=True, slots=True)
class Names:
    """What belongs to one platform: its table, the prefix of its links, its gateway, its range."""

    table: str
    prefix: str
    gateway: IPv4Address
    block: IPv4Network


@dataclass(frozen=True, slots=True)
class Member:
    """One open sandbox: its link and address, whether it may reach the internet, and named targets over TCP."""

    link: str
    address: IPv4Address
    internet: bool
    allow: tuple[tuple[IPv4Address, int], ...] = ()


def member_for(link: str, address: IPv4Address, network: Network) -> Member:
    """What a network means for the sandbox at this address.

    Raises:
        SandboxFailed: an address that is to be allowed is not IPv4, which is all that sandboxes speak.
    """
    allow = []
    for text, port in network.allow:
        try:
            allow.append((IPv4Address(text), port))
        except ValueError as error:
            raise SandboxFailed(
                f"{text} can't be opened to a sandbox: its network is IPv4 only",
                hint="name the package index by a host that has an IPv4 address",
            ) from error
    return Member(link, address, network.mode == "internet", tuple(allow))


@dataclass(frozen=True, slots=True)
class Chain:
    """One chain; `hook` is empty for one that is only jumped to, else (type, hook, priority)."""

    name: str
    hook: tuple[str, str, int] | tuple[()]
    rules: tuple[Rule, ...]
    policy: str = "accept"


SETS = (
    ("owner4", "type ifname . ipv4_addr;"),
    ("inet4", "type ipv4_addr;"),
    ("cc4", "type ipv4_addr; size 4096; flags dynamic;"),
    ("allow4", "type ipv4_addr . ipv4_addr . inet_proto . inet_service; flags timeout;"),
    ("host4", "type ipv4_addr; flags interval; auto-merge;"),
    ("deny4", "type ipv4_addr; flags interval; auto-merge;"),
)
_ALLOWED = ("ip saddr . ip daddr . meta l4proto . th dport @allow4", "accept")
_KNOWN = ("ct state established,related", "accept")


def chains(names: Names) -> tuple[Chain, ...]:
    """Every chain with its rules, in an order in which each is known before it is named.

    The verdict is written apart from the match so that `faults` can compare both ways of writing a rule.
    """
    ours, gateway = f'"{names.prefix}*"', names.gateway
    return (
        Chain(
            "refuse",
            (),
            (
                # Who wants to see refusals listens to group 5 (tcpdump -i nflog:5).
                ("limit rate 20/second log group 5", ""),
                # ICMP errors are rate limited per destination, and a probe would hang; a reset is answered at once.
                ("meta l4proto tcp", "reject with tcp reset"),
                ("", "reject with icmpx admin-prohibited"),
            ),
        ),
        Chain(
            "counted",
            (),
            (
                (f"add @cc4 {{ ip saddr ct count over {CONNECTIONS} }}", "goto refuse"),
                ("", "accept"),
            ),
        ),
        Chain("to_sb", (), (_KNOWN, ("", "drop"))),
        Chain(
            "from_sb",
            (),
            (
                ("ct state invalid", "drop"),
                _KNOWN,
                (f"oifname {ours}", "goto refuse"),
                _ALLOWED,
                ("ip daddr @deny4", "goto refuse"),
                ("ip daddr @host4", "goto refuse"),
                ("meta l4proto != { tcp, udp, icmp }", "goto refuse"),
                ("ip saddr @inet4", "goto counted"),
                ("", "goto refuse"),
            ),
        ),
        Chain(
            "spoof",
            ("filter", "prerouting", -310),  # before conntrack: a forgery costs no entry
            (
                (f"iifname != {ours}", "return"),
                ("iifname . ip saddr @owner4", "return"),
                ("", "drop"),  # forged sources, closed sandboxes, all of IPv6
            ),
        ),
        Chain(
            "input",
            ("filter", "input", -10),  # whatever the host itself has: every address, every port
            (
                (f"iifname != {ours}", "return"),
                (f"ip daddr {gateway} udp dport 53", "accept"),
                (f"ip daddr {gateway} tcp dport 53", "accept"),
                _KNOWN,
                _ALLOWED,
                ("", "goto refuse"),
            ),
        ),
        Chain(
            "forward",
            ("filter", "forward", -10),
            ((f"iifname {ours}", "jump from_sb"), (f"oifname {ours}", "jump to_sb")),
        ),
        Chain(
            "post",
            ("nat", "postrouting", 100),
            ((f"ip saddr {names.block} oifname != {ours}", "masquerade"),),
        ),
    )


def elements(member: Member) -> dict[str, list[str]]:
    """What stands in which set for one open sandbox."""
    found = {"owner4": [f'"{member.link}" . {member.address}']}
    if member.internet:
        found["inet4"] = [str(member.address)]
    if member.allow:
        found["allow4"] = [f"{member.address} . {target} . tcp . {port}" for target, port in member.allow]
    return found


def change(names: Names, verb: str, member: Member) -> str:
    """Commands that put a sandbox into its sets (`verb` is ``add``) or out of them (``delete``): one transaction."""
    return "".join(
        f"{verb} element inet {names.table} {name} {{ {', '.join(values)} }}\n"
        for name, values in elements(member).items()
    )


def hosts(names: Names, addresses: Iterable[IPv4Address]) -> str:
    """Commands that make `host4` say exactly these addresses."""
    text = f"flush set inet {names.table} host4\n"
    listed = ", ".join(str(address) for address in sorted(set(addresses)))
    return text + (f"add element inet {names.table} host4 {{ {listed} }}\n" if listed else "")


def script(names: Names, members: Iterable[Member], host: Iterable[IPv4Address]) -> str:
    """Commands that make the whole table new, whatever was there, in one transaction.

    Deleting a table empties its sets, so all that is in them is written again here.
    """
    content: dict[str, list[str]] = {name: [] for name, _ in SETS}
    content["deny4"] = [str(network) for network in DENY4]
    content["host4"] = [str(address) for address in sorted(set(host))]
    for member in members:
        for name, values in elements(member).items():
            content[name] += values
    lines = [f"table inet {names.table}", f"delete table inet {names.table}", f"table inet {names.table} {{"]
    for name, kind in SETS:
        filled = f" elements = {{ {', '.join(content[name])} }};" if content[name] else ""
        lines.append(f"set {name} {{ {kind}{filled} }}")
    for chain in chains(names):
        lines.append(f"chain {chain.name} {{")
        if chain.hook:
            kind, hook, priority = chain.hook
            lines.append(f"type {kind} hook {hook} priority {priority}; policy accept;")
        lines += [f"{match} {verdict}".strip() for match, verdict in _counted(chain)]
        lines.append("}")
    return "\n".join([*lines, "}", ""])


def drop(names: Names) -> str:
    """Commands that remove the table, also when it isn't there."""
    return f"table inet {names.table}\ndelete table inet {names.table}\n"


def _counted(chain: Chain) -> Iterable[Rule]:
    """The silent drop of `spoof` counts, so that an operator can see it work."""
    for match, verdict in chain.rules:
        yield match, f"counter {verdict}" if (chain.name, verdict) == ("spoof", "drop") else verdict
