"""Starting bubblewrap and hearing from it: the command, its descriptors, its status lines, the check from outside.

Must run on the main thread: --die-with-parent follows the thread that started bubblewrap (prctl(2), PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hearth.core.errors import SandboxFailed
from hearth.drivers.bubblewrap import argv
from hearth.drivers.bubblewrap.status import Status
from hearth.drivers.common import program
from hearth.drivers.common.watch import Watched, tail

_LOOK = 0.001  # seconds between looks at a program that is about to start: no event tells of an exec


def memfd(name: str, content: bytes) -> int:
    """A fresh memory file, rewound: bubblewrap reads each once, and takes a spent one for an empty one."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        os.close(fd)
        raise
    return fd


@dataclass(slots=True)
class Spawned:
    """A bubblewrap that was started; close what is left with `close`."""

    process: subprocess.Popen[bytes]
    outer: Watched
    status: Status
    stdout: int
    stderr: int
    block: int  # a byte lets the program start; -1 when there is none

    def release(self) -> None:
        """Let the program start. Idempotent."""
        if self.block >= 0:
            with contextlib.suppress(BrokenPipeError):  # it has ended
                os.write(self.block, b"\n")
            os.close(self.block)
            self.block = -1


@contextlib.contextmanager
def _as_batch_work() -> Iterator[None]:
    """What this thread starts meanwhile, and all that comes of it, is batch work to the scheduler (sched(7), SCHED_BATCH).

    It gets as much of a processor as ever, but when it wakes up it does not push another process off one. So a gateway
    writes to all its guests before the first of them takes its processor away: seen on two of them, a quarter less
    processor time for a warm call, and fewer switches.
    """
    before = os.sched_getscheduler(0)
    if before != os.SCHED_OTHER:  # whoever started us has chosen
        yield
        return
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, os.sched_param(0))


def spawn(
    layout: argv.Layout,
    *,
    joins: tuple[str, ...],
    open_files: int,
    uid: int | None,
    payload: tuple[str, ...],
    tools: dict[str, str],
    etc: dict[str, str],
    filters: Iterable[bytes],
    held: bool,
) -> Spawned:
    """Start bubblewrap.

    Args:
        uid: whom to become first; None: an ordinary user starts it, and it waits for `Spawned.release` in a user namespace
            around the sandbox before it becomes bubblewrap (see `held_of`).
        held: the program waits for `Spawned.release`. While held its pid 1 has capabilities in its own user
            namespace, so let it be milliseconds.

    Raises OSError when it can't be started; then nothing is left.
    """
    close_after: list[int] = []  # ends that only the child needs
    ours: list[int] = []

    def given(fd: int) -> int:
        close_after.append(fd)
        return fd

    def pipe() -> tuple[int, int]:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        ours.append(reader)
        return reader, given(writer)

    try:
        status, status_end = pipe()
        out, out_end = pipe()
        err, err_end = pipe()
        block = block_end = -1
        if held or uid is None:
            block_end, block = os.pipe2(os.O_CLOEXEC)
            given(block_end)
            ours.append(block)
        fds = argv.Fds(
            status=status_end,
            filters=tuple(given(memfd("filter", program)) for program in filters),
            block=block_end if held and uid is not None else None,
            etc=tuple((path, given(memfd("etc", text.encode()))) for path, text in etc.items()),
        )
        args = given(memfd("args", argv.encode(argv.options(layout, fds))))
        common: dict[str, Any] = {"joins": joins, "open_files": open_files, "args_fd": args}
        common |= {"payload": payload, "tools": tools}
        if uid is None:
            command = argv.own_command(status_fd=status_end, network=not layout.network, **common)
        else:
            command = argv.command(uid=uid, **common)
        stdin = block_end if uid is None else subprocess.DEVNULL
        with _as_batch_work():
            process = subprocess.Popen(
                command,
                pass_fds=[fd for fd in close_after if fd not in (out_end, err_end, stdin)],
                env={"PATH": "/usr/bin:/bin"},  # bubblewrap's pid 1 keeps it: /proc/1/environ shows it inside
                cwd="/",
                stdin=stdin,
                stdout=out_end,
                stderr=err_end,
                start_new_session=True,
            )
        try:
            os.set_blocking(out, False)
            os.set_blocking(err, False)
            return Spawned(process, Watched(process.pid), Status(status), out, err, block)
        except BaseException:
            process.kill()
            process.wait()
            raise
    except BaseException:
        for fd in ours:
            os.close(fd)
        raise
    finally:
        for fd in close_after:
            os.close(fd)


async def held_of(spawned: Spawned) -> None:
    """Wait until an ordinary user's sandbox has the user namespace around it, and in it its network's.

    Raises SandboxFailed when it ended first.
    """
    status = spawned.status
    while not status.held:
        if status.closed:
            raise await _gave_up(spawned)
        status.changed.clear()
        await status.changed.wait()


async def child_of(spawned: Spawned) -> Watched:
    """The sandbox's pid 1, as soon as bubblewrap has told it.

    Raises SandboxFailed when bubblewrap gave up first; the message has what it said.
    """
    status = spawned.status
    while status.child is None:
        if status.closed:
            raise await _gave_up(spawned)
        status.changed.clear()
        await status.changed.wait()
    try:
        return Watched(status.child)
    except ProcessLookupError:
        raise await _gave_up(spawned) from None


async def program_of(spawned: Spawned, child: Watched, uid: int, gid: int) -> Watched | None:
    """Wait until the program itself runs, and look at it from outside: uid, no capabilities, both filters.

    Returns its pidfd, or None when it has ended already. Raises SandboxFailed when it never came to run, or is less
    confined than it should be (that must not happen; the caller kills it).
    """
    while not child.ended.is_set():
        spawned.status.read()
        if spawned.status.code is not None:
            return None
        pid = program.first_child(child.pid)
        if pid is not None and program.has_started(pid, spawned.process.pid):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                watched = Watched(pid)
                try:
                    program.check_confined(pid, uid, gid)
                except BaseException:
                    watched.close()
                    raise
                return watched
        await asyncio.sleep(_LOOK)
    await spawned.outer.ended.wait()
    spawned.status.read()
    if spawned.status.code is None:
        raise await _gave_up(spawned)
    return None


async def _gave_up(spawned: Spawned) -> SandboxFailed:
    await spawned.outer.ended.wait()
    return SandboxFailed(
        f"the sandbox could not be started: {tail(spawned.stderr)}",
        hint="run: hearth doctor",
    )
