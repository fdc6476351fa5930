"""What a sandbox may look up, and what it was refused; in words for its function's log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network

from hearth.core.addresses import why_refused

DNS = "dns"


@dataclass(frozen=True, slots=True)
class Rights:
    """What a sandbox may look up: `internet` is every name, of which it hears public addresses; `names` are its allowlist's."""

    internet: bool
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that a sandbox was refused.

    Args:
        sandbox: ``sb_…``, or what the resolver knows it by.
        protocol: ``tcp``, ``udp``, ``icmp``, …; ``dns`` for a name that was not looked up, or not answered.
        target: an address; or that name.
        port: 0 where there is none.
        address: of a name: one that it led to and that may not be reached; else empty.
    """

    sandbox: str
    protocol: str
    target: str
    port: int
    address: str = ""


def in_words(refusal: Refusal, internet: bool, private: Iterable[IPv4Network] = ()) -> str:
    """A refusal as one line of a function's log.

    Args:
        internet: the function has ``network: internet``.
        private: what the operator lets functions reach.
    """
    target = refusal.target
    if refusal.protocol == DNS:
        if not refusal.address:
            return f"network: the name {target} was refused: network.allow does not name it"
        why = _why(refusal.address, private) or "network.allow names too many addresses at once"
        return f"network: the name {target} was refused: it leads to {refusal.address}, {why}"
    why = _why(target, private)
    if not why:
        why = (
            "this machine's own address, a protocol that is not passed, or more connections than one may have"
            if internet
            else "network.allow does not name it"
        )
    port = f" port {refusal.port}" if refusal.port else ""
    return f"network: {refusal.protocol} to {target}{port} was refused: {why}"


def _why(address: str, private: Iterable[IPv4Network]) -> str:
    try:
        return why_refused(address, private)
    except ValueError:  # what the resolver says is not believed
        return "no address"
