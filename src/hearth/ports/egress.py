"""The network port: how a sandbox's network namespace is joined to the world, closed first and opened later.

A driver makes the namespace; what implements this port (root only) puts a link into it and decides whom it
may reach. A driver that was given no `Networks` starts sandboxes with `network: none` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hearth.core.finding import Finding
from hearth.core.launch import Network


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


@dataclass(frozen=True, slots=True)
class LookUp:
    """News of one sandbox's look-ups, for the resolver.

    Args:
        sandbox: ``sb_…``; what its questions are counted under.
        sockets: descriptors of a UDP socket and a TCP listener on which it asks, the receiver's own; None: it is gone.
    """

    sandbox: str
    sockets: tuple[int, int] | None


class LookUps(Protocol):
    """Where look-ups of sandboxes arrive that each have a loopback of their own: first all that there are, then each change."""

    async def next(self) -> LookUp:
        """Wait for the next one."""
        ...

    def close(self) -> None:
        """Nobody will ask any more. Idempotent."""
        ...
