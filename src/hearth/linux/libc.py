"""libc with errno, loaded once per caller. See mount(2), prctl(2), unshare(2)."""

from __future__ import annotations

import ctypes
import os
from functools import cache

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000


@cache
def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    """Return a call's result; raise OSError, naming `what`, when it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def prctl(option: int, value: int) -> None:
    """prctl(2) with one argument. Raises OSError."""
    check(libc().prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def unshare(flags: int) -> None:
    """unshare(2). Raises OSError."""
    check(libc().unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """setns(2): move this thread into the namespace that a descriptor stands for. Raises OSError."""
    check(libc().setns(fd, kind), "setns")
