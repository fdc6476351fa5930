"""A driver without isolation, processes or time: it does what a test's script says, and fails on demand."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from hearth.core.errors import HearthError, NotFound
from hearth.core.launch import Attachment, Exit, Handle, Probe, SandboxSpec, Usage

_FIRST = 1_000_000  # what stands for a descriptor, less the number of its sandbox


@dataclass(slots=True)
class FakeSandbox:
    """What a ScriptedDriver knows of one sandbox."""

    spec: SandboxSpec
    ended: asyncio.Future[Exit]
    attachment: Attachment | None = None
    stopped: bool = False


@dataclass(slots=True)
class Script:
    """What happens next. Each list is used up from its front; an empty one means success.

    Args:
        start: errors (or None: succeed) of the next starts.
        connect: the same for connects.
        attach: the same for attaches.
        stop: the same for stops.
        reply_lost: starts that succeed though their caller is told `start`'s error.
    """

    start: deque[HearthError | None] = field(default_factory=deque)
    connect: deque[HearthError | None] = field(default_factory=deque)
    attach: deque[HearthError | None] = field(default_factory=deque)
    stop: deque[HearthError | None] = field(default_factory=deque)
    reply_lost: bool = False


class ScriptedDriver:
    """`ports.driver.Driver` and `CanAttach`. Descriptors it gives are the write-less ends of pipes.

    Args:
        artifacts: digests that this node has; None: all.
    """

    def __init__(self, artifacts: set[str] | None = None) -> None:
        self.name = "scripted"
        self.script = Script()
        self.sandboxes: dict[Handle, FakeSandbox] = {}
        self.gate: asyncio.Event | None = None  # when a test sets one, starts wait for it
        self._artifacts = artifacts
        self._count = 0

    async def probe(self) -> Probe:
        return Probe("scripted", True, frozenset({"memory", "cpu", "pids", "tmp", "network"}))

    async def prepare(self, artifact: str) -> None:
        self._check(artifact)

    async def start(self, spec: SandboxSpec, deadline: float) -> Handle:
        if self.gate is not None:
            await self.gate.wait()
        error = _next(self.script.start)
        if error is not None and not self.script.reply_lost:
            raise error
        self._count += 1
        handle = Handle(f"scripted-{self._count}")
        self.sandboxes[handle] = FakeSandbox(spec, asyncio.get_running_loop().create_future())
        if error is not None:
            raise error
        return handle

    async def connect(self, handle: Handle, deadline: float) -> int:
        error = _next(self.script.connect)
        if error is not None:
            raise error
        return _FIRST + int(handle.rpartition("-")[2])  # FakeGuests only notes it

    def output(self, handle: Handle) -> tuple[int, int]:
        ends = []
        for _ in range(2):
            reader, writer = os.pipe()
            os.close(writer)
            os.set_blocking(reader, False)
            ends.append(reader)
        return ends[0], ends[1]

    async def wait(self, handle: Handle) -> Exit:
        sandbox = self.sandboxes.get(handle)
        return Exit(None, reason="gone") if sandbox is None else await asyncio.shield(sandbox.ended)

    async def stop(self, handle: Handle, grace: float) -> Exit:
        error = _next(self.script.stop)
        if error is not None:
            raise error
        sandbox = self.sandboxes.get(handle)
        if sandbox is None or sandbox.stopped:
            return Exit(None, reason="gone")
        sandbox.stopped = True
        self.end(handle, Exit(None, signal=9 if not grace else 15))
        return sandbox.ended.result()

    async def list_owned(self, owner: str | None) -> list[Handle]:
        return [
            handle
            for handle, sandbox in self.sandboxes.items()
            if not sandbox.stopped and owner in (None, sandbox.spec.owner)
        ]

    async def usage(self, handle: Handle) -> Usage:
        return Usage(0, 0, 0.0, 0)

    async def attach(self, handle: Handle, attachment: Attachment) -> None:
        error = _next(self.script.attach)
        if error is not None:
            raise error
        self._check(attachment.artifact)
        self.sandboxes[handle].attachment = attachment

    # The test's side.

    def end(self, handle: Handle, end: Exit) -> None:
        """The sandbox ends now."""
        with contextlib.suppress(asyncio.InvalidStateError):
            self.sandboxes[handle].ended.set_result(end)

    def hung_up(self, fd: int) -> None:
        """Its program ends now: what `connect` gave is closed."""
        self.end(Handle(f"scripted-{fd - _FIRST}"), Exit(0))

    @property
    def running(self) -> list[Handle]:
        return [handle for handle, sandbox in self.sandboxes.items() if not sandbox.stopped]

    def _check(self, artifact: str) -> None:
        if self._artifacts is not None and artifact not in self._artifacts:
            raise NotFound("there is no such artifact on this node")


class NoOutput:
    """`ports.output.OutputReader` that reads nothing and closes at once."""

    def watch(
        self,
        stdout: int,
        stderr: int,
        on_line: Callable[[str, str], None],
        on_dropped: Callable[[str, int], None],
    ) -> Callable[[], None]:
        os.close(stdout)
        os.close(stderr)
        return lambda: None


def _next(errors: deque[HearthError | None]) -> HearthError | None:
    return errors.popleft() if errors else None
