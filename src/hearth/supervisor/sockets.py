"""The public port: one listening socket per shard, kept open by the supervisor."""

from __future__ import annotations

import errno
import socket
from typing import Any

from hearth.core.finding import Finding, refused
from hearth.linux.commands import by_root

BACKLOG = 4096
NAME = "port"


def bind_public(host: str, port: int, count: int) -> list[socket.socket]:
    """Bind `count` listening sockets on one address (SO_REUSEPORT).

    The first is bound without that option, so that a port which somebody else uses is noticed even
    when he allowed sharing it.

    Raises:
        StartupFailed: the port is in use, or the address is not this machine's.
    """
    try:
        family, address = try_address(host, port)
        sockets = []
        for _ in range(count):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
            sock.setblocking(False)
            sockets.append(sock)
        return sockets
    except OSError as error:
        raise unbindable(host, port, error).error(hint="or choose others with --host and --port") from error


def try_address(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Bind an address for a moment, without listening; returns its family and what `bind` takes, with the port that was got.

    Raises OSError.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        return family, (address[0], probe.getsockname()[1], *address[2:])


def unbindable(host: str, port: int, error: OSError, by: str = "") -> Finding:
    """Why nobody can listen there.

    Args:
        error: what `try_address` raised.
        by: who uses it, where that is known: `` by nginx (process 12)``.
    """
    if isinstance(error, socket.gaierror):
        return refused(NAME, f"{host!r} is not an address: {error.strerror}", "hearth up --host 127.0.0.1")
    if error.errno == errno.EADDRINUSE:
        return refused(NAME, f"port {port} on {host} is in use{by}", "hearth up --port 0")
    says = f"can't listen on {host} port {port}: {error.strerror}"
    if error.errno == errno.EACCES:
        return refused(NAME, says, by_root(f"sysctl -w net.ipv4.ip_unprivileged_port_start={port}"))
    if error.errno == errno.EADDRNOTAVAIL:
        return refused(NAME, says, "hearth up --host 127.0.0.1")
    return refused(NAME, says)
