"""The network port: how a sandbox's network namespace is joined to the world, closed first and opened later.

A driver makes the namespace; what implements this port (root only) puts a link into it and decides whom it
may reach. A driver that was given no `Networks` starts sandboxes with `network: none` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hearth.core.finding import Finding
from hearth.core.launch import Network
from hearth.core.refusals import Refusal, Rights


@dataclass(frozen=True, slots=True)
class NetHandle:
    """One sandbox's place in the network.

    Args:
        sandbox: ``sb_…``.
        link: name of the host's end of its link.
        address: its own address, by which the resolver and the rules know it.
    """

    sandbox: str
    link: str
    address: str


class Networks(Protocol):
    """Gives sandboxes their networks. Called on the event loop's thread; nothing here may block it for long."""

    @property
    def resolver(self) -> str:
        """The address that stands as nameserver in a networked sandbox's /etc/resolv.conf."""
        ...

    def missing(self) -> tuple[Finding, ...]:
        """What can't be held now, as in `Probe.missing`: one named ``network``.

        Empty while the rules are in force. While it isn't, `prepare` and `open` raise, and a driver gives `none`.
        """
        ...

    async def prepare(self, sandbox: str, pid: int) -> NetHandle:
        """Make the closed network: link, addresses and routes exist, the link is down and in no set.

        Args:
            sandbox: ``sb_…``; a second call for one id is an error.
            pid: a process, as the host numbers it, that is alone in its own, empty network namespace. The caller
                holds it still until this returns (its program has not started), so the number can't be another's.

        After an error nothing is left behind.

        Raises:
            SandboxFailed: the link could not be made.
            NoCapacity: no address is left.
        """
        ...

    async def open(self, handle: NetHandle, network: Network) -> None:
        """Bring the link up, able to reach exactly what `network` says. At most once per handle.

        After an error the network is closed (never half open), and the sandbox must be stopped.

        Raises:
            SandboxFailed: the rules are not in force, or the link could not be brought up.
        """
        ...

    async def close(self, handle: NetHandle) -> None:
        """Cut established flows, take it out of every set, remove the link and free its address.

        Idempotent; called whether or not it was opened, and also when the namespace is already gone.

        Raises:
            SandboxFailed: something could not be removed; what is left is closed.
        """
        ...

    def rights(self, source: str) -> Rights | None:
        """What a sandbox that asks the resolver may look up; None for one that is not open.

        Args:
            source: as the resolver knows it: its address, or its id where it has sockets of its own.
        """
        ...

    async def learned(self, source: str, name: str, addresses: Sequence[str], ttl: float) -> tuple[str, ...]:
        """A name that a sandbox may reach was looked up: judge what it led to, and open what may be reached.

        Args:
            source: as for `rights`.
            name: lower case, without a dot at its end.
            addresses: IPv4.
            ttl: seconds for which the answer is true.

        Returns those that the sandbox may be told; empty when it may not look up that name.

        Raises:
            SandboxFailed: the kernel refused.
        """
        ...

    def sandbox_of(self, source: str) -> str | None:
        """The id of the open sandbox that the resolver knows as `source`."""
        ...


@dataclass(frozen=True, slots=True)
class LookUp:
    """News of one sandbox's look-ups, for the resolver.

    Args:
        sandbox: ``sb_…``; what its questions are counted under.
        sockets: descriptors of a UDP socket and a TCP listener on which it asks, and where the kernel tells of its refused
            packets (missing where it can't); the receiver's own. None: it is gone.
    """

    sandbox: str
    sockets: tuple[int, ...] | None


class LookUps(Protocol):
    """Where look-ups of sandboxes arrive that each have a loopback of their own: first all that there are, then each change."""

    async def next(self) -> LookUp:
        """Wait for the next one."""
        ...

    def close(self) -> None:
        """Nobody will ask any more. Idempotent."""
        ...


class Judge(Protocol):
    """Whom the resolver asks: the keeper, who judges each answer again."""

    async def rights(self, source: str) -> Rights | None:
        """See `Networks.rights`."""
        ...

    async def learned(self, source: str, name: str, addresses: Sequence[str], ttl: float) -> tuple[str, ...]:
        """See `Networks.learned`."""
        ...

    async def refused(self, refusal: Refusal) -> None:
        """Tell of a refusal; its `sandbox` is who asks, as in `Networks.rights`."""
        ...


class TellsRefusals(Protocol):
    """Where a process hears what its sandboxes were refused."""

    async def refusal(self) -> Refusal:
        """Wait for the next one.

        Raises:
            KeeperUnavailable: the keeper has gone; call again.
        """
        ...
