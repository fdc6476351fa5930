"""One process of the platform: started by exec, watched by pidfd, told apart by what it says when it is ready."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any

from hearth.core.errors import StartupFailed, error_from_data

CLOSING = signal.SIGUSR1
"""To a process that drains: the whole platform stops, nobody comes after it. SIGTERM alone means that a successor may be at work."""
HURRY = signal.SIGUSR2
"""To a process that drains: what is not done now is cut."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run.

    Args:
        name: as the log calls it.
        argv: program and arguments, without the configuration's descriptor, which is added last.
        config: JSON object that the child reads from that descriptor; ``fds`` is added to it.
        stage: children of a lower stage are ready before the next is started, and stopped after it.
        fds: name → descriptor of this process, inherited.
        drains: it is told that the platform stops (`CLOSING`) as soon as that is known, whatever its stage.
        overlaps: a successor may start while it still runs, and takes over.
        ready_timeout: seconds. One that ends is noticed at once; this is for one that hangs, and no slow or busy machine may take it for that.
    """

    name: str
    argv: tuple[str, ...]
    config: dict[str, Any]
    stage: int
    fds: dict[str, int] = field(default_factory=dict)
    drains: bool = False
    overlaps: bool = False
    ready_timeout: float = 300.0


class Child:
    """A running (or ended) process.

    Args:
        spec: what it is.
        lifeline: read end of a pipe whose other end only the supervisor has: it closes when the supervisor dies.
    """

    def __init__(self, spec: ChildSpec, lifeline: int) -> None:
        self.spec = spec
        self.started = time.monotonic()
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        config = os.memfd_create(f"hearth-{spec.name}", os.MFD_CLOEXEC)
        fds = {**spec.fds, "lifeline": lifeline, "ready": ready_write}
        os.write(config, json.dumps({**spec.config, "fds": fds, "parent": os.getpid()}).encode())
        os.lseek(config, 0, os.SEEK_SET)
        try:
            # A session of its own: Ctrl-C goes to the whole foreground group and would end sandboxes before the drain.
            self._process = subprocess.Popen(
                [*spec.argv, str(config)],
                pass_fds=[config, *fds.values()],
                stdin=subprocess.DEVNULL,
                cwd="/",
                env={
                    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "LANG": "C.UTF-8",
                },
                start_new_session=True,
            )
        except OSError as error:
            os.close(ready_read)
            raise StartupFailed(f"can't start the {spec.name}: {error}") from error
        finally:
            os.close(config)
            os.close(ready_write)
        self.pid = self._process.pid
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = loop.create_future()
        self.ready: asyncio.Future[dict[str, Any]] = loop.create_future()
        self.ready.add_done_callback(lambda future: future.cancelled() or future.exception())
        self.leaving: asyncio.Future[None] = loop.create_future()  # it says that it drains, or has ended
        self._pidfd = os.pidfd_open(self.pid)
        self._ready_fd: int | None = ready_read
        self._said = b""
        self.owner: str | None = None  # its boot id, which it tells first
        os.set_blocking(ready_read, False)
        loop.add_reader(self._pidfd, self._reap)
        loop.add_reader(ready_read, self._hear)

    def _hear(self) -> None:
        assert self._ready_fd is not None
        try:
            data = os.read(self._ready_fd, 65536)
        except BlockingIOError:
            return
        *lines, self._said = (self._said + data).split(b"\n")
        for line in lines:
            self._take(json.loads(line))
        if not data:
            self._deaf()

    def _take(self, message: dict[str, Any]) -> None:
        if "draining" in message:
            if not self.leaving.done():
                self.leaving.set_result(None)
        elif "owner" in message:
            self.owner = str(message["owner"])
        elif self.ready.done():
            return
        elif "error" in message:
            self.ready.set_exception(error_from_data(message["error"]))
        else:
            self.ready.set_result(message)

    def _deaf(self) -> None:
        assert self._ready_fd is not None
        asyncio.get_running_loop().remove_reader(self._ready_fd)
        os.close(self._ready_fd)
        self._ready_fd = None
        if not self.ready.done():
            self.ready.set_exception(
                StartupFailed(
                    f"the {self.spec.name} ended before it was ready", hint="its last lines are above"
                )
            )

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        if self._ready_fd is not None:
            self._hear()
        if self._ready_fd is not None:
            self._deaf()
        if not self.leaving.done():
            self.leaving.set_result(None)
        self.ended.set_result(self._process.wait())

    def send(self, number: signal.Signals) -> None:
        """Signal it, unless it has ended; by pidfd, so never another process."""
        if self._pidfd >= 0:
            signal.pidfd_send_signal(self._pidfd, number)
