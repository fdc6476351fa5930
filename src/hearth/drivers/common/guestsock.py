"""The one listener in a slot: takes one connection, of the right uid, and is then gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from pathlib import Path

from hearth.core.errors import SandboxFailed

_SO_PASSRIGHTS = 83  # Linux 6.16, include/uapi/asm-generic/socket.h; Python has no name for it
_PATH_MAX = 107  # bytes of a Unix socket's path (unix(7))


class GuestSocket:
    """Listens at a path from its construction on; must be made on the event loop's thread.

    Args:
        path: where; below the slot's directory.
        uid, gid: who may connect.
        instead: (uid, gid) of whom the kernel shows in its place, where something else dials for it.
    """

    def __init__(self, path: Path, uid: int, gid: int, instead: tuple[int, int] | None = None) -> None:
        self._path = path
        self._peer = instead or (uid, gid)
        self._loop = asyncio.get_running_loop()
        self._connected: asyncio.Future[socket.socket] = self._loop.create_future()
        self._listener: socket.socket | None = _listen(path, uid, gid)
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            connection, _ = self._listener.accept()
        except OSError:  # the peer left before it was accepted
            return
        _, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if (uid, gid) != self._peer:
            connection.close()
            return
        connection.setblocking(False)
        self._stop_listening()
        if self._connected.done():
            connection.close()
        else:
            self._connected.set_result(connection)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    def ended(self) -> None:
        """The sandbox has ended: nobody will connect any more."""
        self._stop_listening()
        if not self._connected.done():
            self._connected.set_exception(
                SandboxFailed("the sandbox ended before its program connected", hint="see its output")
            )
            self._connected.exception()  # seen: nobody may be waiting

    async def take(self, deadline: float) -> int:
        """The connection's descriptor (non-blocking, close-on-exec), which is the caller's from now on.

        Raises SandboxFailed when the sandbox ended first or `deadline` (monotonic seconds) passed.
        """
        try:
            async with asyncio.timeout_at(deadline):
                connection = await asyncio.shield(self._connected)
        except TimeoutError as error:
            raise SandboxFailed("the program in the sandbox did not connect in time") from error
        fd = connection.detach()
        if fd < 0:
            raise SandboxFailed("the guest's connection was already taken")
        return fd

    def close(self) -> None:
        """Close what nobody took. Idempotent."""
        self.ended()
        if self._connected.done() and self._connected.exception() is None:
            self._connected.result().close()


def _listen(path: Path, uid: int, gid: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(OSError):
            # The guest can't send descriptors then: closing foreign ones can take seconds of our time.
            listener.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
        _bind(listener, path)
        path.chmod(0o600)
        os.chown(path, uid, gid)
        listener.listen(1)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _bind(listener: socket.socket, path: Path) -> None:
    if len(os.fsencode(path)) <= _PATH_MAX:
        listener.bind(str(path))
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
