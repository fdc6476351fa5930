"""The packet filter's one table, as data: written out for nftables, so that what is read back can be compared (`readback`).

Pure: text and plain data in and out. docs/explanation/networks.md walks through the chains.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from hearth.core.addresses import DENY4
from hearth.core.errors import SandboxFailed
from hearth.core.launch import Network
from hearth.core.targets import Target, parse_targets
from hearth.egress import ranges

CONNECTIONS = 256
"""Tracked connections that one sandbox may have at once."""

Rule = tuple[str, str]  # (what it matches, verdict)


@dataclass(frozen=True, slots=True)
class Names:
    """What belongs to one platform: its table, the prefix of its links, its gateway, its range, the group of its log.

    `private` are the ranges that its operator lets functions reach where they name them.
    """

    table: str
    prefix: str
    gateway: IPv4Address
    block: IPv4Network
    group: int = 5
    private: tuple[IPv4Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Member:
    """One open sandbox: its link and address, whether it may reach the internet, a build's named targets over TCP, and the
    ranges of a function's allowlist."""

    link: str
    address: IPv4Address
    internet: bool
    allow: tuple[tuple[IPv4Address, int], ...] = ()
    ranges: tuple[tuple[IPv4Network, int], ...] = ()


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
    return Member(link, address, network.mode == "internet", tuple(allow), ranges_of(network))


def ranges_of(network: Network) -> tuple[tuple[IPv4Network, int], ...]:
    """The ranges that it names, none within another with the same port."""
    by_port: dict[int, list[IPv4Network]] = {}
    for target in targets_of(network):
        if target.range is not None:
            by_port.setdefault(target.port, []).append(target.range)
    return tuple((one, port) for port, named in by_port.items() for one in collapse_addresses(named))


def names_of(network: Network) -> dict[str, tuple[int, ...]]:
    """The names that it names, with their ports."""
    found: dict[str, tuple[int, ...]] = {}
    for target in targets_of(network):
        if target.name:
            found[target.name] = (*found.get(target.name, ()), target.port)
    return found


def targets_of(network: Network) -> tuple[Target, ...]:
    """Its allowlist, read."""
    return parse_targets(f"{host}:{port}" for host, port in network.targets)


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
    *ranges.sets(True),
    ("named4", "type ipv4_addr . ipv4_addr . inet_service; flags timeout;"),
    ("told4", "type ipv4_addr; size 4096; flags dynamic,timeout; timeout 1m;"),
    ("host4", "type ipv4_addr; flags interval; auto-merge;"),
    ("private4", "type ipv4_addr; flags interval; auto-merge;"),
    ("deny4", "type ipv4_addr; flags interval; auto-merge;"),
)
_ALLOWED = ("ip saddr . ip daddr . meta l4proto . th dport @allow4", "accept")
TOLD = "add @told4 { ip saddr limit rate 5/second burst 30 packets }"
"""Refusals of one sandbox that are told of; each has its own allowance, so that none can hide another's."""
COPIED = 64
"""Bytes of a refused packet that are: its head, and its ports."""
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
                (f"{TOLD} log group {names.group} snaplen {COPIED}", ""),
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
        Chain(
            "named",
            (),
            tuple(
                (match, "goto counted")
                for match in (*ranges.matches(True), ranges.exact_match("named4", True))
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
                ("ip daddr @host4", "goto refuse"),
                ("ip daddr @private4", "jump named"),  # what the operator allows, and the function names
                ("ip daddr @deny4", "goto refuse"),
                ("meta l4proto != { tcp, udp, icmp }", "goto refuse"),
                ("ip saddr @inet4", "goto counted"),
                ("", "jump named"),
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
    if member.ranges:
        found |= ranges.elements(member.ranges, str(member.address))
    return found


def change(names: Names, verb: str, member: Member) -> str:
    """Commands that put a sandbox into its sets (`verb` is ``add``) or out of them (``delete``): one transaction."""
    return "".join(
        f"{verb} element inet {names.table} {name} {{ {', '.join(values)} }}\n"
        for name, values in elements(member).items()
    )


def renew(table: str, keys: Iterable[str], seconds: int) -> str:
    """Commands that put elements into `named4` for so long from now, whether or not they stand there: one transaction."""
    return "".join(
        f"{forget(table, [key])}add element inet {table} named4 {{ {key} timeout {seconds}s }}\n"
        for key in keys
    )


def forget(table: str, keys: Iterable[str]) -> str:
    """Commands that take elements out of `named4`, also when they have ended by themselves."""
    return "".join(
        f"{verb} element inet {table} named4 {{ {key} }}\n" for key in keys for verb in ("add", "delete")
    )


def hosts(names: Names, addresses: Iterable[IPv4Address]) -> str:
    """Commands that make `host4` say exactly these addresses."""
    text = f"flush set inet {names.table} host4\n"
    listed = ", ".join(str(address) for address in sorted(set(addresses)))
    return text + (f"add element inet {names.table} host4 {{ {listed} }}\n" if listed else "")


def script(
    names: Names,
    members: Iterable[Member],
    host: Iterable[IPv4Address],
    named: Iterable[tuple[str, int]] = (),
) -> str:
    """Commands that make the whole table new, whatever was there, in one transaction.

    Deleting a table empties its sets, so all that is in them is written again here.

    Args:
        named: what stands in `named4`, with the seconds that it has left.
    """
    content: dict[str, list[str]] = {name: [] for name, _ in SETS}
    content["deny4"] = [str(network) for network in DENY4]
    content["private4"] = [str(network) for network in names.private]
    content["named4"] = [f"{key} timeout {seconds}s" for key, seconds in named]
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
