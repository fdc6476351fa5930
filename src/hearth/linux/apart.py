"""A piece of work done by a child that has lost its privileges and sees one folder: for root, on what others have written."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

_MOST = 4096  # bytes of an answer


def answer_of(work: Callable[[Path], str], folder: Path, owner: tuple[int, int], timeout: float) -> str:
    """What `work` returns, done in a forked child; call it before the first thread.

    Args:
        work: is given the path of the folder as it is there. It must have all modules imported that it needs.
        folder: the root of the child's file system, where this is root; else the child is as it is.
        owner: uid and gid that it becomes, where this is root.
        timeout: seconds; then it is killed.

    Raises OSError: it could not be done, or gave no answer.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if not pid:
        _child(work, folder, owner, writer)
    os.close(writer)
    try:
        text = b""
        while select.select([reader], [], [], timeout)[0]:
            part = os.read(reader, _MOST)
            text += part
            if not part or len(text) > _MOST:
                break
        os.kill(pid, signal.SIGKILL)
    finally:
        os.close(reader)
        _, status = os.waitpid(pid, 0)
    if not text.endswith(b"\n") or len(text) > _MOST:
        raise OSError(f"no answer came (status {status})")
    return text[:-1].decode("utf-8", "replace")


def _child(work: Callable[[Path], str], folder: Path, owner: tuple[int, int], writer: int) -> NoReturn:
    try:
        if os.geteuid() == 0:
            os.chroot(folder)
            os.chdir("/")
            os.setgroups([])
            os.setgid(owner[1])
            os.setuid(owner[0])
            folder = Path("/")
        os.write(writer, f"{work(folder)}\n".encode())
    finally:
        os._exit(0)
