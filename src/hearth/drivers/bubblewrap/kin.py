"""The processes of one sandbox where no control group tells who they are: those below one bubblewrap.

The outer bubblewrap has one child, process 1 of the sandbox's process namespace, and the end of that is the end of all inside
(pid_namespaces(7)). Both are held by pidfds. The caller is process 1 of its own namespace or a subreaper: when the outer
one dies first, the child comes to it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path


class Kin:
    """Args:
    outer: a child of this process: bubblewrap, or what becomes bubblewrap.
    """

    def __init__(self, outer: int) -> None:
        self._outer = outer
        self._outer_fd = os.pidfd_open(outer)
        self._child = 0
        self._child_fd = -1

    def pids(self) -> set[int]:
        """Who is alive of it now; empty when all have ended and are out of the process table."""
        found: set[int] = set()
        if not _ended(self._outer_fd):
            self._look()
            found |= {self._outer, *below(self._outer)}
        if self._child_fd >= 0:
            with contextlib.suppress(ChildProcessError):  # not ours while the outer one lives
                os.waitid(os.P_PIDFD, self._child_fd, os.WEXITED | os.WNOHANG)
            if not _ended(self._child_fd):
                found |= {self._child, *below(self._child)}
        return found

    def kill(self) -> None:
        """SIGKILL to the outer one and its child. Stopped first, the outer one makes no child that we have not seen."""
        if not _ended(self._outer_fd):
            _send(self._outer_fd, signal.SIGSTOP)
            self._look()
        if self._child_fd >= 0:
            _send(self._child_fd, signal.SIGKILL)
        _send(self._outer_fd, signal.SIGKILL)

    def close(self) -> None:
        """Idempotent."""
        for fd in (self._outer_fd, self._child_fd):
            if fd >= 0:
                os.close(fd)
        self._outer_fd = self._child_fd = -1

    def _look(self) -> None:
        """Remember the child."""
        if self._child_fd >= 0:
            return
        for pid in children(self._outer):
            with contextlib.suppress(ProcessLookupError):
                self._child, self._child_fd = pid, os.pidfd_open(pid)


def children(pid: int) -> list[int]:
    """Of all its threads (proc(5), /proc/PID/task/TID/children)."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


def below(pid: int) -> set[int]:
    """All descendants that are there now."""
    found: set[int] = set()
    waiting = children(pid)
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += children(one)
    return found


def _ended(fd: int) -> bool:
    """A pidfd is readable once its process has ended (pidfd_open(2))."""
    if fd < 0:
        return True
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _send(fd: int, number: signal.Signals) -> None:
    if fd >= 0:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, number)
