"""Work in another network namespace, by a thread of its own, which enters it and never comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hearth.linux.libc import CLONE_NEWNET, setns

BACKLOG = 128
T = TypeVar("T")


async def alone(work: Callable[[], T]) -> T:
    """Run `work` in a thread that ends with it: what it changed of itself (its namespace) is nobody's trouble."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def body() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:  # handed over whole to who waits
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=body, name="netns", daemon=True).start()
    return await done


def namespace_of(pid: int) -> int:
    """A descriptor of a process's network namespace, the caller's.

    Raises:
        OSError: as the kernel said it; the process has gone.
        ValueError: `pid` is in this very namespace.
    """
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if os.path.samestat(os.fstat(namespace), Path("/proc/thread-self/ns/net").stat()):
        os.close(namespace)
        raise ValueError("the sandbox has no network namespace of its own")
    return namespace


def listener(pid: int, port: int) -> socket.socket:
    """A TCP socket that listens on 127.0.0.1 in the network namespace of `pid`; who accepts on it may be anywhere.

    Leaves the calling thread in that namespace: see `alone`.

    Raises:
        OSError: as the kernel said it; the process has gone, or the port is taken.
        ValueError: `pid` is in this very namespace.
    """
    namespace = namespace_of(pid)
    try:
        setns(namespace, CLONE_NEWNET)
    finally:
        os.close(namespace)
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.bind(("127.0.0.1", port))
        made.listen(BACKLOG)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made
