"""Targets of an allowlist: ``api.stripe.com:443`` or ``10.0.0.5/32:5432``, as ``network.allow`` of a function.yaml names them.

Two kinds. A *name* is opened as it is looked up, to whatever public address it then has (or private one that the
operator allows). A *range* is opened as it stands. Both mean TCP and UDP at that port.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError

from hearth.core.addresses import DENY4, NEVER4, is_within
from hearth.core.errors import InvalidInput

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_PORT = re.compile(r"[0-9]{1,5}")
_NUMBERS = re.compile(r"[0-9./]+")
NAME_MAX = 253
_EXAMPLE = "write a name or an IPv4 range with a port: api.example.com:443 or 10.0.0.5/32:5432"
PRIVATE4 = tuple(network for network in DENY4 if network not in NEVER4)
"""What an operator may let functions reach."""


@dataclass(frozen=True, slots=True)
class Target:
    """One entry. Exactly one of `name` (lower case, without a dot at its end) and `range` says whom it means."""

    name: str
    range: IPv4Network | None
    port: int

    @property
    def host(self) -> str:
        """The name, or the range with its length."""
        return self.name if self.range is None else str(self.range)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_target(text: str) -> Target:
    """Read one entry of an allowlist.

    Raises:
        InvalidInput: it is none, names loopback, metadata or other addresses that nobody may reach, or mixes public and
            private ones.
    """
    host, colon, port = text.strip().rpartition(":")
    if not colon or _PORT.fullmatch(port) is None or not 0 < int(port) < 65536:
        raise InvalidInput(f"{text[:80]!r} has no port from 1 to 65535 at its end", hint=_EXAMPLE)
    if host.startswith("[") or host.count(":") > 1:
        raise InvalidInput(f"{text[:80]!r} is IPv6, and sandboxes have IPv4 only", hint=_EXAMPLE)
    if _NUMBERS.fullmatch(host):
        return Target("", _range(host, text), int(port))
    return Target(_name(host, text), None, int(port))


def parse_targets(texts: Iterable[str]) -> tuple[Target, ...]:
    """Read entries that were checked before. Raises what `parse_target` does."""
    return tuple(parse_target(text) for text in texts)


def is_private(target: Target) -> bool:
    """Whether it names private addresses, which are the operator's to allow."""
    return target.range is not None and is_within(target.range, PRIVATE4)


def _range(host: str, text: str) -> IPv4Network:
    try:
        network = IPv4Network(host)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise InvalidInput(f"{text[:80]!r} has no range of IPv4 addresses: {error}", hint=_EXAMPLE) from None
    if is_within(network, NEVER4):
        raise InvalidInput(
            f"{network} can't be allowed: loopback, link-local, multicast and reserved addresses, and metadata services, "
            "are never reached",
            hint="take it out",
        )
    mixed = any(network.overlaps(one) for one in DENY4 if one.prefixlen < 32)  # the rules refuse single ones
    if is_within(network, PRIVATE4) or not mixed:
        return network
    raise InvalidInput(
        f"{network} has public and private addresses in it",
        hint="name them apart; network: internet opens all public addresses",
    )


def _name(host: str, text: str) -> str:
    name = host.lower().removesuffix(".")
    if "*" in name:
        raise InvalidInput(f"{text[:80]!r}: a name can't stand for several", hint="write each name out")
    labels = name.split(".")
    if len(name) > NAME_MAX or not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        raise InvalidInput(f"{text[:80]!r} has no name of a host", hint=_EXAMPLE)
    if labels[-1] == "localhost":
        raise InvalidInput(f"{text[:80]!r}: a sandbox's loopback is its own", hint="take it out")
    return name
