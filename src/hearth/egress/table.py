"""The packet filter's table in force: loaded, read back, changed and checked. Used by one thread only."""

from __future__ import annotations

import time
from collections.abc import Iterable
from ipaddress import IPv4Address

from hearth.egress.learned import Learned, Place, lasts
from hearth.egress.nft import Nft, NftError
from hearth.egress.readback import faults, fingerprint
from hearth.egress.ruleset import Member, Names, change, drop, forget, hosts, renew, script


class Table:
    """One platform's table. What is in its sets is remembered here, because a reload begins with nothing.

    Args:
        names: whose table it is.
        nft: who speaks to nftables.

    Raises:
        NftError: everywhere, when nftables refuses or what is read back is not what was written.
    """

    def __init__(self, names: Names, nft: Nft) -> None:
        self.names = names
        self._nft = nft
        self._members: dict[str, Member] = {}
        self._learned: dict[str, Learned] = {}
        self._host: frozenset[IPv4Address] = frozenset()
        self._loaded = ""

    @property
    def members(self) -> tuple[Member, ...]:
        """Who is in the sets."""
        return tuple(self._members.values())

    def load(self) -> None:
        """Make the table new, with all that belongs into its sets, and read it back."""
        self._nft.run(script(self.names, self._members.values(), self._host, self._named()))
        shown = self._nft.show(f"table inet {self.names.table}")
        wrong = faults(self.names, shown)
        if wrong:
            raise NftError("; ".join(wrong))
        self._loaded = fingerprint(shown)

    def check(self) -> list[str]:
        """What is wrong with the table now; empty when it stands as it was loaded."""
        try:
            shown = self._nft.show(f"table inet {self.names.table}")
        except NftError as error:
            return [f"it can't be read: {error}"]
        wrong = faults(self.names, shown)
        if not wrong and fingerprint(shown) != self._loaded:
            wrong = ["somebody has edited a rule"]
        return wrong

    def admit(self, member: Member) -> None:
        """Put a sandbox into its sets. After an error it is in none."""
        self._nft.run(change(self.names, "add", member))
        self._members[member.link] = member

    def expel(self, link: str) -> None:
        """Take a sandbox out of every set; from here all that it sends is dropped."""
        member, learned = self._members.pop(link, None), self._learned.pop(link, None)
        if member is not None:
            keys = [] if learned is None else _keys(member, learned.left(time.monotonic()))
            self._nft.run(change(self.names, "delete", member) + forget(self.names.table, keys))

    def learn(self, link: str, places: Iterable[Place], ttl: float) -> bool:
        """Let a sandbox reach these, as names that it may reach led there; nothing for one that is in no set.

        Args:
            ttl: seconds for which the answer is true.

        Returns whether they stand; False when it has all that one may have.
        """
        member, now = self._members.get(link), time.monotonic()
        if member is None:
            return False
        learned = self._learned.setdefault(link, Learned())
        due = learned.due(places, ttl, now)
        if not due:
            return True
        if not learned.has_room(due, now):
            return False
        self._nft.run(renew(self.names.table, _keys(member, due), lasts(ttl)))
        learned.write(due, ttl, now)
        return True

    def _named(self) -> list[tuple[str, int]]:
        now, found = time.monotonic(), list[tuple[str, int]]()
        for link, learned in self._learned.items():
            for place, seconds in learned.left(now).items():
                found += [(key, seconds) for key in _keys(self._members[link], [place])]
        return found

    def follow(self, addresses: Iterable[IPv4Address]) -> None:
        """Make the table know the host's own addresses."""
        now = frozenset(addresses)
        if now != self._host:
            self._nft.run(hosts(self.names, now))
            self._host = now

    def expect(self, addresses: Iterable[IPv4Address]) -> None:
        """The host's addresses that the next load writes."""
        self._host = frozenset(addresses)

    def drop(self) -> None:
        """Remove the table, also when it isn't there."""
        self._members.clear()
        self._learned.clear()
        self._nft.run(drop(self.names))


def _keys(member: Member, places: Iterable[Place]) -> list[str]:
    return [f"{member.address} . {address} . {port}" for address, port in places]
