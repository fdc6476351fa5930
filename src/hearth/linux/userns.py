"""A user namespace for an ordinary user: inside it he may mount, and everything below it dies with one process.

See user_namespaces(7), pid_namespaces(7). One uid is mapped, the user's own, so no setuid helper (newuidmap) is needed.
"""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path
from types import FrameType
from typing import NoReturn

from hearth.linux import mounts
from hearth.linux.libc import CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, PR_SET_PDEATHSIG, prctl, unshare

OWN_NAMESPACES = "--own-namespaces"
"""The argument that tells a program to call `enter` first."""


def enter() -> None:
    """Move this process into namespaces of its own: users (its uid and gid mapped to themselves), mounts, processes.

    Returns in a child that is process 1 of its own process namespace and has all capabilities in the user namespace: when
    it ends, for whatever reason, the kernel kills everything that it started. The caller stays behind as a shell around it
    that passes signals on and ends as it ended. Programs that are started from here have no capabilities:
    exec by a uid other than 0 drops them (capabilities(7)).

    Call it before the first thread. Raises OSError: this machine doesn't let ordinary users do so.
    """
    uid, gid = os.getuid(), os.getgid()  # before: afterwards they read as the overflow ids
    unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid} {uid} 1")
    _write("/proc/self/gid_map", f"{gid} {gid} 1")
    mounts.mount("none", Path("/"), None, mounts.MS_REC | mounts.MS_SLAVE)
    alive, end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid:
        os.close(alive)
        _stay_behind(pid, keep=end)
    os.close(end)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if select.select([alive], [], [], 0)[0]:  # the shell around us has gone before the line above
        os._exit(1)
    os.close(alive)
    flags = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
    mounts.mount("proc", Path("/proc"), "proc", flags)  # the other one shows numbers that mean nobody here


def _stay_behind(pid: int, keep: int) -> NoReturn:
    """Wait for the child; pass signals on to it, and end as it ends."""

    def pass_on(number: int, _: FrameType | None) -> None:
        os.kill(pid, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, pass_on)
    os.closerange(3, keep)  # pipes that tell of the child's end must have no other holder
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 1)


def _write(path: str, text: str) -> None:
    """In one write(2), as these files demand."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
