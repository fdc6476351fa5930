"""Watching processes by pidfd on the event loop: no thread, no SIGCHLD handler, no polling."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from hearth.core.errors import SandboxFailed


class Watched:
    """A process, held by a pidfd so that its number can't come to mean another; made on the loop's thread.

    Args:
        pid: a child, or a process whose orphans come to us (see `mounts.become_subreaper`).

    Raises ProcessLookupError when it is gone already.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.fd = os.pidfd_open(pid)
        self._loop = asyncio.get_running_loop()
        self.ended = asyncio.Event()
        self._loop.add_reader(self.fd, self._end)

    def _end(self) -> None:
        self._loop.remove_reader(self.fd)
        self.ended.set()

    def reap(self) -> None:
        """Take it out of the process table if it is our child and dead; a zombie counts in pids.max."""
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self.fd, os.WEXITED | os.WNOHANG)

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.fd, number)

    def close(self) -> None:
        """Idempotent."""
        if self.fd >= 0:
            self._loop.remove_reader(self.fd)
            os.close(self.fd)
            self.fd = -1


async def reap_orphans(uid: int, timeout: float) -> None:
    """Wait until no child of ours has this uid any more, and take each out of the process table as it ends.

    Args:
        uid: of one sandbox, whose processes are all killed already.
        timeout: seconds; then what is left stays.
    """
    deadline = time.monotonic() + timeout
    while (left := [pid for pid in _children() if _has_uid(pid, uid)]) and time.monotonic() < deadline:
        for pid in left:
            _reap(pid)
        await asyncio.sleep(0.002)


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)


def _children() -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it is gone
            if int(stat.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(stat.parent.name))
    return found


def _has_uid(pid: int, uid: int) -> bool:
    try:
        return f"\nUid:\t{uid}\t" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


async def run(command: Sequence[str], timeout: float) -> None:
    """Run a helper program to its end; nothing is inherited but standard error, which is kept for the message.

    Args:
        command: full path first.
        timeout: seconds.

    Raises SandboxFailed when it can't be run, fails or takes too long.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        try:
            process = _popen(command, writer)
        except OSError as error:
            raise SandboxFailed(f"{command[0]} can't be run: {error.strerror}") from error
        finally:
            os.close(writer)
        watched = Watched(process.pid)
        try:
            async with asyncio.timeout(timeout):
                await watched.ended.wait()
        except TimeoutError as error:
            raise SandboxFailed(f"{command[0]} took longer than {timeout:g} s") from error
        finally:
            if not watched.ended.is_set():
                process.kill()
            process.wait()
            watched.close()
        if process.returncode != 0:
            raise SandboxFailed(f"{command[0]} failed: {tail(reader)}")
    finally:
        os.close(reader)


def _popen(command: Sequence[str], stderr: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        cwd="/",
        start_new_session=True,
    )


def tail(fd: int, size: int = 600) -> str:
    """What is in a non-blocking pipe now, its last `size` characters, on one line."""
    data = b""
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(fd, 65536):
            data = (data + chunk)[-4 * size :]
    return " ".join(data.decode("utf-8", "replace").split())[-size:] or "no message"
