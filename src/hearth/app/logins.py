"""Where log-ins come from, and how failed ones are counted: by account and by address, so that neither many passwords nor many accounts come cheap."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from hearth.core.errors import RateLimited


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a log-in comes from.

    Args:
        address: the caller's, for the slow-down and the record.
        agent: the program, as it names itself.
    """

    address: str
    agent: str = ""

    @property
    def label(self) -> str:
        """Both in at most 64 printable characters, for `sessions list`."""
        agent = "".join(char for char in self.agent.split(" ")[0] if char.isprintable())
        return f"{agent[:24]} from {self.address}"[:64] if agent else f"from {self.address}"[:64]


def account_subject(email: str) -> str:
    return f"account:{email}"


def address_subject(address: str) -> str:
    """What is counted as one address: of IPv6 the /64, since who has one address there has all of them (RFC 6177)."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # control's own socket, a name in a test
        return f"address:{address}"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return f"address:{parsed.ipv4_mapped}"
        return f"address:{ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64))}"
    return f"address:{parsed}"


def slow_down(wait: float) -> RateLimited:
    return RateLimited(
        "too many failed attempts", hint=f"wait {int(wait) + 1} s and try again", retry_after=wait
    )
