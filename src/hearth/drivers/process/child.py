"""One plain child process with its slot directory and guest socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from hearth.core.errors import SandboxFailed
from hearth.core.launch import Exit

_RETRY, _KILL_LIMIT = 0.005, 10.0  # seconds


class Child:
    """Started by its construction, on the event loop's thread.

    Args:
        argv, env, workdir: as the host sees them.
        slot: the slot's directory; also marks the process tree, by HEARTH_SLOT_DIR in its environment.
        guest: listen for its connection.

    Raises OSError when it can't be started.
    """

    def __init__(
        self, argv: list[str], env: dict[str, str], workdir: Path, slot: Path, *, guest: bool
    ) -> None:
        self.slot = slot
        self.attached = False
        self._loop = asyncio.get_running_loop()
        self.exit: asyncio.Future[Exit] = self._loop.create_future()
        self._connected: asyncio.Future[socket.socket] = self._loop.create_future()
        self._listener: socket.socket | None = None
        if guest:
            self._listen()
        try:
            self._start(argv, env, workdir)
        except BaseException:
            self._stop_listening()
            raise

    def _start(self, argv: list[str], env: dict[str, str], workdir: Path) -> None:
        out, out_end = os.pipe2(os.O_CLOEXEC)
        err, err_end = os.pipe2(os.O_CLOEXEC)
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out_end,
                stderr=err_end,
                env=env,
                cwd=workdir if workdir.is_dir() else self.slot,
                start_new_session=True,
            )
        except BaseException:
            os.close(out)
            os.close(err)
            raise
        finally:
            os.close(out_end)
            os.close(err_end)
        os.set_blocking(out, False)
        os.set_blocking(err, False)
        self._output: tuple[int, int] | None = (out, err)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._pidfd, self._ended)

    def _listen(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        folder = os.open(self.slot, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._listener.bind(f"/proc/self/fd/{folder}/guest.sock")  # however long the slot's own path is
        finally:
            os.close(folder)
        self._listener.listen(1)
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it left before it was accepted
            return
        connection.setblocking(False)
        self._stop_listening()
        self._connected.set_result(connection)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
            (self.slot / "guest.sock").unlink(missing_ok=True)

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        code = self._process.wait()
        self._stop_listening()
        if not self._connected.done():
            self._connected.set_exception(SandboxFailed("the program ended before it connected"))
            self._connected.exception()  # seen: nobody may be waiting
        self.exit.set_result(Exit(code) if code >= 0 else Exit(None, -code, reason="ended by a signal"))

    async def connect(self, deadline: float) -> int:
        """See `ports.driver.Driver.connect`."""
        try:
            async with asyncio.timeout_at(deadline):
                connection = await asyncio.shield(self._connected)
        except TimeoutError as error:
            raise SandboxFailed("the program did not connect in time") from error
        fd = connection.detach()
        if fd < 0:
            raise SandboxFailed("the guest's connection was already taken")
        return fd

    def output(self) -> tuple[int, int]:
        """See `ports.driver.Driver.output`."""
        if self._output is None:
            raise SandboxFailed("the sandbox's output was already taken")
        taken, self._output = self._output, None
        return taken

    def signal(self, number: int) -> None:
        """To the program itself; nothing happens when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    async def kill(self) -> None:
        """End its whole tree, as far as it kept its environment, and close everything.

        Raises SandboxFailed when something doesn't end.
        """
        deadline = time.monotonic() + _KILL_LIMIT
        while alive := self._tree():
            for pid in alive:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise SandboxFailed(f"processes of {self.slot.name} don't end, though they were killed")
            await asyncio.sleep(_RETRY)
        self.signal(signal.SIGKILL)
        await asyncio.shield(self.exit)
        os.close(self._pidfd)
        if self._connected.exception() is None:
            self._connected.result().close()
        for fd in self._output or ():
            os.close(fd)
        self._output = None

    def _tree(self) -> list[int]:
        mark = f"HEARTH_SLOT_DIR={self.slot}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environment = (entry / "environ").read_bytes()
                except OSError:
                    continue
                if mark in environment.split(b"\0"):
                    found.append(int(entry.name))
        return found
