"""Whom a sandbox may reach by name: what both kinds of networks share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv4Network

from hearth.core.addresses import is_never, is_public, is_within
from hearth.core.launch import Network
from hearth.core.refusals import Rights
from hearth.egress.learned import TTL_MOST, Place
from hearth.egress.ruleset import names_of


@dataclass(frozen=True, slots=True)
class Allowed:
    """One open sandbox's rights by name.

    Args:
        internet: it reaches public addresses anyway.
        names: name to ports.
    """

    internet: bool = False
    names: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def rights(self) -> Rights:
        """For the resolver."""
        return Rights(self.internet, frozenset(self.names))

    def judge(
        self,
        name: str,
        addresses: Sequence[str],
        private: Iterable[IPv4Network],
        host: Collection[IPv4Address] = (),
    ) -> tuple[tuple[str, ...], list[Place]]:
        """(addresses that the sandbox may be told, what has to be opened for it).

        Args:
            private: ranges that the operator lets functions reach.
            host: this host's own addresses, which nobody may.
        """
        ports = self.names.get(name)
        if ports is None:
            return (), []
        told, opened = [], list[Place]()
        for text in addresses:
            try:
                address = IPv4Address(text)
            except AddressValueError:
                continue
            public = is_public(address)
            if is_never(address) or address in host or not (public or is_within(address, private)):
                continue
            told.append(text)
            if not (public and self.internet):
                opened += [(address, port) for port in ports]
        return tuple(told), opened


def allowed_by(network: Network) -> Allowed:
    """What a network that is being opened allows by name."""
    return Allowed(network.mode == "internet", names_of(network))


def bounded(ttl: float) -> float:
    """Seconds that an answer about an allowed name may be true."""
    return min(max(0.0, ttl), float(TTL_MOST))
