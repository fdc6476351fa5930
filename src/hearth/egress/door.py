"""Opening, shutting and guarding: what is done to the table and the links together. Used by one thread only."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from hearth.core.errors import SandboxFailed
from hearth.egress import conntrack, docker_user, links
from hearth.egress.learned import Place
from hearth.egress.leftovers import explain
from hearth.egress.machine import Ground, own_addresses
from hearth.egress.netlink import NETFILTER, ROUTE, Netlink
from hearth.egress.nft import NftError
from hearth.egress.ruleset import Member

log = logging.getLogger(__name__)

_CARRIER = 5.0  # seconds for the sandbox's end to notice that it is up; it takes 0.1 ms
_CARRIER_STEP = 0.0002


@dataclass(frozen=True, slots=True)
class _Opened:
    index: int
    address: IPv4Address


class Door:
    """The one who opens and shuts. When the rules are found broken they are made new at once; while that fails, every
    link is down.

    Why in this order: loading all rules anew takes 3 ms, taking 200 links down takes longer, and would cut those who did
    nothing wrong. What was established in the gap is cut afterwards, and judged again by its next packet.

    Args:
        ground: from `machine.prepare_ground`.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._open: dict[str, _Opened] = {}
        self._dark = False

    def open(self, index: int, member: Member) -> None:
        """Bring a link up and put it into its sets; returns once the sandbox can send.

        After an error the link is down and in no set.

        Raises:
            SandboxFailed: the rules are not in force, or the kernel refused.
        """
        if self._dark:
            raise SandboxFailed("the packet filter's rules are not in force", hint="run: hearth doctor")
        try:
            with Netlink(ROUTE) as netlink:
                try:
                    self._light(netlink, _Opened(index, member.address))
                    self._ground.table.admit(member)
                    _await_carrier(netlink, index)
                except (OSError, NftError):
                    with contextlib.suppress(OSError, NftError):  # the first error is the one to tell
                        self._ground.table.expel(member.link)
                    with contextlib.suppress(OSError):  # it is gone: the sandbox died meanwhile
                        links.set_up(netlink, index, False)
                    raise
        except (OSError, NftError) as error:
            raise explain(error) from error
        self._open[member.link] = _Opened(index, member.address)

    def learn(self, link: str, places: Iterable[Place], ttl: float) -> bool:
        """See `Table.learn`. Raises SandboxFailed when the kernel refuses."""
        try:
            return self._ground.table.learn(link, places, ttl)
        except NftError as error:
            raise explain(error) from error

    def shut(self, link: str, address: IPv4Address) -> None:
        """Take a sandbox out of every set and cut its flows. From here nothing that it sends gets through.

        Raises:
            OSError: its flows could not be cut; the address must not be given to another.
        """
        self._open.pop(link, None)
        try:
            self._ground.table.expel(link)
        except NftError as error:  # the table is gone: `inspect` mends it, and the link goes next
            log.warning("%s was not in its sets: %s", link, error)
        with Netlink(NETFILTER) as netlink:
            conntrack.cut(netlink, address)

    def inspect(self, docker: bool) -> SandboxFailed | None:
        """Look whether all stands as it should, and mend what doesn't; returns what can't be mended.

        Args:
            docker: also look at the chain DOCKER-USER.
        """
        try:
            with Netlink(ROUTE) as netlink:
                self._follow(netlink)
                wrong = self._ground.table.check()
                if wrong or self._dark:
                    self._mend(netlink, wrong)
            if docker:
                docker_user.admit(self._ground.names.prefix)
        except (OSError, NftError, SandboxFailed) as error:
            return explain(error)
        return None

    def _follow(self, netlink: Netlink) -> None:
        addresses = own_addresses(netlink)
        try:
            self._ground.table.follow(addresses)
        except NftError:  # no table: what comes next finds that out, and writes them
            self._ground.table.expect(addresses)

    def _mend(self, netlink: Netlink, wrong: list[str]) -> None:
        try:
            self._ground.table.load()
        except NftError:
            for opened in self._open.values():
                with contextlib.suppress(OSError):  # gone with its sandbox
                    links.set_up(netlink, opened.index, False)
            if not self._dark:
                log.error("the packet filter's rules are gone and can't be loaded: all networks are down")
            self._dark = True
            raise
        with Netlink(NETFILTER) as filter_socket:
            cut = conntrack.cut(filter_socket, self._ground.names.block)
        if self._dark:
            for opened in self._open.values():
                with contextlib.suppress(OSError):  # gone with its sandbox
                    self._light(netlink, opened)
            self._dark = False
        log.warning("the packet filter's rules were loaded again (%s); %d flows cut", "; ".join(wrong), cut)

    def _light(self, netlink: Netlink, opened: _Opened) -> None:
        """Up, then the route, which a link loses when it goes down."""
        links.set_up(netlink, opened.index)
        links.replace_route(netlink, IPv4Network(opened.address), opened.index)


def _await_carrier(netlink: Netlink, index: int) -> None:
    """Wait until what the sandbox sends is not dropped any more."""
    namespace, peer = links.far_end(netlink, index)
    deadline = time.monotonic() + _CARRIER
    while not links.is_running(netlink, namespace, peer):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the sandbox's link did not come up within {_CARRIER:.0f} s")
        time.sleep(_CARRIER_STEP)
