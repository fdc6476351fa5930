"""What is done inside an ordinary user's sandbox's network namespace. Blocking; each in a thread of its own (`netns.alone`),
which enters the namespace and never comes back."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from hearth.egress import links, nflog
from hearth.egress.inside import NO_IPV6
from hearth.egress.netlink import ROUTE, Netlink
from hearth.egress.nft import Library, NftError
from hearth.egress.own_rules import CHAINS, LOG_GROUP, RESOLVER, SETS, TABLE, script
from hearth.egress.readback import differences
from hearth.linux.libc import CLONE_NEWNET, setns
from hearth.linux.netns import namespace_of

log = logging.getLogger(__name__)

_LOOPBACK = 1


def furnish(
    pid: int, host: Iterable[IPv4Address], private: tuple[IPv4Network, ...] = ()
) -> tuple[int, tuple[socket.socket, ...]]:
    """Make a namespace closed, and give it its loopback and its resolver's sockets.

    Args:
        pid: a process that is alone in its network namespace, where there is nothing yet.
        host: this host's own addresses.
        private: ranges that the operator lets functions reach (see `own_rules.private_of`).

    Returns (the namespace's descriptor, (UDP socket, TCP listener, where the kernel tells of refused packets if it can)), the
    caller's from now on.

    Raises:
        NftError: the rules are not in force.
        OSError: as the kernel said it.
        ValueError: `pid` is in this very namespace.
    """
    namespace = namespace_of(pid)
    try:
        setns(namespace, CLONE_NEWNET)
        for knob in NO_IPV6:
            with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                knob.write_text("1")
        with contextlib.closing(Library()) as nft:
            nft.run(script(host, private))
            wrong = differences(CHAINS, SETS, nft.show(f"table inet {TABLE}"), private)
            if wrong:
                raise NftError("; ".join(wrong))
        with Netlink(ROUTE) as netlink:
            links.set_up(netlink, _LOOPBACK)
        return namespace, (*_bind(), *_refusals())
    except BaseException:
        os.close(namespace)
        raise


def _refusals() -> tuple[socket.socket, ...]:
    """Refusing comes first; a kernel that can't tell of it goes without."""
    try:
        return (nflog.listen(LOG_GROUP),)
    except OSError as error:
        log.warning("what a sandbox is refused can't be told in its function's log: %s", error)
        return ()


def change(namespace: int, commands: str) -> None:
    """Run nftables commands in a namespace: all or none. Raises NftError, OSError."""
    setns(namespace, CLONE_NEWNET)
    with contextlib.closing(Library()) as nft:
        nft.run(commands)


def _bind() -> tuple[socket.socket, socket.socket]:
    """A socket stays in the namespace in which it was made, whoever uses it. The port is one that a program can't take."""
    made: list[socket.socket] = []
    try:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            sock = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            made.append(sock)
            sock.bind((str(RESOLVER), 53))
        made[1].listen(16)
    except OSError:
        for sock in made:
            sock.close()
        raise
    return made[0], made[1]
