"""The kernel's notices about what others do to our rules and to the host's addresses."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from hearth.egress.docker_user import CHAIN
from hearth.egress.netlink import NETFILTER, ROUTE, attrs, listener, messages

log = logging.getLogger(__name__)

_GROUP_NFTABLES, _GROUP_IPV4_IFADDR = 7, 5
_NFTABLES = 10
_NEWCHAIN, _DELRULE, _NEWSETELEM, _DELSETELEM = 3, 8, 12, 14
_RECEIVE = 256 * 1024
_WATCHED_SETS = (b"deny4", b"private4")


class Watch:
    """Calls back, on the loop, when something may have changed. The callbacks only take note: they look for themselves.

    Args:
        table: name of our table.
        on_rules: somebody touched the table, or a notice was lost.
        on_addresses: the host has got or lost an address, or a notice was lost.
        on_docker: the chain DOCKER-USER was made or emptied.
    """

    def __init__(
        self,
        table: str,
        on_rules: Callable[[], None],
        on_addresses: Callable[[], None],
        on_docker: Callable[[], None],
    ) -> None:
        self._table = table.encode()
        self._on_rules, self._on_addresses, self._on_docker = on_rules, on_addresses, on_docker
        self._sockets: list[socket.socket] = []

    def start(self) -> None:
        """Begin to listen, on the running loop. Raises OSError."""
        loop = asyncio.get_running_loop()
        rules = listener(NETFILTER, (_GROUP_NFTABLES,))
        self._sockets.append(rules)
        addresses = listener(ROUTE, (_GROUP_IPV4_IFADDR,))
        self._sockets.append(addresses)
        loop.add_reader(rules.fileno(), self._drain, rules, self._rules, self._on_rules)
        loop.add_reader(addresses.fileno(), self._drain, addresses, self._addresses, self._on_addresses)

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()

    def _drain(self, sock: socket.socket, read: Callable[[bytes], None], lost: Callable[[], None]) -> None:
        try:
            read(sock.recv(_RECEIVE))
        except BlockingIOError:
            return
        except OSError:  # ENOBUFS: the kernel had more to say than there was room for
            lost()

    def _addresses(self, _: bytes) -> None:
        self._on_addresses()

    def _rules(self, data: bytes) -> None:
        for kind, _, _, body in messages(data):
            if kind >> 8 != _NFTABLES:
                continue
            verb = kind & 0xFF
            have = attrs(body[4:])
            if have.get(1, b"").rstrip(b"\0") == self._table:
                # Sandboxes come and go in other sets all the time, by our own hand.
                if verb not in (_NEWSETELEM, _DELSETELEM) or have.get(2, b"").rstrip(b"\0") in _WATCHED_SETS:
                    self._on_rules()
            elif verb in (_NEWCHAIN, _DELRULE) and CHAIN.encode() + b"\0" in (have.get(2), have.get(3)):
                self._on_docker()
