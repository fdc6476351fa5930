"""Tell the service manager that started this platform when it is ready: sd_notify(3)."""

from __future__ import annotations

import contextlib
import socket


def tell_ready(address: str | None) -> None:
    """Say READY=1 on the manager's socket.

    Args:
        address: what NOTIFY_SOCKET says: a path, or an abstract name with ``@`` before it; None where nobody asks.

    A manager that does not listen is no reason to fail.
    """
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)  # it may be busy; the platform is up all the same
        sock.sendto(b"READY=1", "\0" + address[1:] if address.startswith("@") else address)
