"""The public port: one listening socket per shard, kept open by the supervisor."""

from __future__ import annotations

import errno
import socket

from hearth.core.errors import StartupFailed

BACKLOG = 4096


def bind_public(host: str, port: int, count: int) -> list[socket.socket]:
    """Bind `count` listening sockets on one address (SO_REUSEPORT).

    The first is bound without that option, so that a port which somebody else uses is noticed even
    when he allowed sharing it.

    Raises:
        StartupFailed: the port is in use, or the address is not this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise StartupFailed(
            f"{host!r} is not an address: {error.strerror}", hint="use --host 127.0.0.1"
        ) from error
    family, _, _, _, address = found[0]
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            address = (address[0], probe.getsockname()[1], *address[2:])
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
        if error.errno == errno.EADDRINUSE:
            raise StartupFailed(
                f"port {port} on {host} is in use", hint="stop what uses it, or choose another with --port"
            ) from error
        raise StartupFailed(
            f"can't listen on {host} port {port}: {error.strerror}",
            hint="choose others with --host and --port",
        ) from error
