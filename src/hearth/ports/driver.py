"""The isolation port. A driver never sees a function, the store or HTTP."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from hearth.core.launch import Attachment, Exit, Handle, Probe, SandboxSpec, Usage


class Driver(Protocol):
    """Makes, watches and removes sandboxes.

    Deadlines are absolute, on the monotonic clock, in seconds. Every method raises SandboxFailed for a
    failure of this machine and, in the remote driver, KeeperUnavailable when the keeper is gone.
    """

    name: str

    async def probe(self) -> Probe:
        """What can be enforced on this machine. Makes and removes real sandboxes; cached."""
        ...

    async def prepare(self, artifact: str) -> None:
        """Make an artifact (digest) ready for quick attaches; a no-op for most."""
        ...

    async def start(self, spec: SandboxSpec, deadline: float) -> Handle:
        """Start a sandbox; returns once its program runs, isolated and limited.

        After an error nothing is left behind. If the reply is lost, `list_owned` still shows it.

        Raises:
            LimitUnenforceable: a limit of the spec can't be held here.
            NoCapacity: no uid, memory or other room is left on this node.
        """
        ...

    async def connect(self, handle: Handle, deadline: float) -> int:
        """The guest's connected stream socket, once it has dialled; the caller owns the descriptor. Once per sandbox.

        Raises SandboxFailed when the sandbox ended first or the deadline passed.
        """
        ...

    def output(self, handle: Handle) -> tuple[int, int]:
        """The read ends of stdout and stderr (non-blocking); the caller owns them. Once per sandbox."""
        ...

    async def wait(self, handle: Handle) -> Exit:
        """How it ended. Any number of waiters; also after it has ended, until `stop` has returned."""
        ...

    async def stop(self, handle: Handle, grace: float) -> Exit:
        """SIGTERM, `grace` seconds, SIGKILL; returns only when no process of it is left and all is removed.

        Idempotent: an unknown or already removed handle gives ``Exit(None, reason="gone")``.
        """
        ...

    async def list_owned(self, owner: str | None) -> list[Handle]:
        """Sandboxes of an owner that exist now (None: of anybody)."""
        ...

    async def usage(self, handle: Handle) -> Usage:
        """What it uses now, as far as the driver can tell (zeros where it can't)."""
        ...


@runtime_checkable
class CanListen(Protocol):
    """A driver that reaches into the networks of its sandboxes."""

    async def listen(self, handle: Handle) -> int | None:
        """A TCP socket (non-blocking, the caller's) that listens on the sandbox's own 127.0.0.1, where only the sandbox can dial it.

        At `CALLS_PORT` where the sandbox has a network of its own, else at any free one. Before code is attached, which might
        take the port first; once per sandbox. None where its network can't be entered (gVisor's).
        """
        ...


@runtime_checkable
class CanAttach(Protocol):
    """A driver whose waiting sandboxes can be given code, limits and a network in well under a millisecond."""

    async def attach(self, handle: Handle, attachment: Attachment) -> None:
        """Give a waiting slot its version. At most once per sandbox; after an error the slot must be stopped.

        The code appears at /hearth/code, read-only; /tmp gets its size; limits hold from here.

        Raises:
            LimitUnenforceable: a limit can't be held here.
            NotFound: no such artifact on this node.
        """
        ...
