"""The sandboxes of one driver, from the order to start to the end of stopping, whoever is cancelled meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, Protocol, TypeVar

from hearth.core.errors import NoCapacity, SandboxFailed
from hearth.core.launch import Exit, Handle, SandboxSpec

_T = TypeVar("_T")


class Sandbox(Protocol):
    """What a driver's sandbox must be able to do."""

    spec: SandboxSpec

    async def start(self) -> None:
        """Bring it up. After any error `remove` is called."""
        ...

    async def stop(self, grace: float) -> Exit:
        """SIGTERM, at most `grace` seconds, then the end."""
        ...

    def hurry(self, grace: float) -> None:
        """Another caller of `stop` allows it less time."""
        ...

    async def remove(self) -> None:
        """Kill what is left and remove everything; at any point of a start, and again after an error."""
        ...


_S = TypeVar("_S", bound=Sandbox)


class Table(Generic[_S]):
    """Args:
    prefix: of handles; says which driver's they are and in which version.
    most: sandboxes at once.
    """

    def __init__(self, prefix: str, most: int) -> None:
        self._prefix = prefix
        self._most = most
        self._sandboxes: dict[str, _S] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._stopping: dict[str, asyncio.Task[Exit]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def check_room(self, spec: SandboxSpec) -> None:
        """Raises SandboxFailed: the id is taken; NoCapacity."""
        if spec.id in self._sandboxes:
            raise SandboxFailed(f"{spec.id} exists already")
        if len(self._sandboxes) >= self._most:
            raise NoCapacity(f"{self._most} sandboxes exist on this node already", retry_after=1)

    async def start(self, sandbox: _S, deadline: float) -> Handle:
        """Start it; after an error nothing of it is left. Call `check_room` before, without an await between."""
        spec = sandbox.spec
        self._sandboxes[spec.id] = sandbox
        starting = self._starting[spec.id] = self.own(sandbox.start())
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.shield(starting)
        except asyncio.CancelledError:
            cancelled_by_caller = not starting.cancelled()
            cleaning = self.own(self._discard(sandbox, starting))
            if cancelled_by_caller:
                raise
            await asyncio.shield(cleaning)
            raise SandboxFailed(f"{spec.id} was stopped while it started") from None
        except BaseException as error:
            await asyncio.shield(self.own(self._discard(sandbox, starting)))
            if isinstance(error, TimeoutError):
                raise SandboxFailed("the sandbox could not be started in time") from error
            raise
        finally:
            self._starting.pop(spec.id, None)
        return self.handle(spec.id)

    async def _discard(self, sandbox: _S, starting: asyncio.Task[None]) -> None:
        """Undo a start, wherever it has got to."""
        starting.cancel()
        await asyncio.wait((starting,))
        if not starting.cancelled():
            starting.exception()  # seen: the caller of `start` has it
        await sandbox.remove()
        self._sandboxes.pop(sandbox.spec.id, None)

    def own(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """A task that outlives its caller."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def find(self, handle: Handle) -> _S:
        """Raises SandboxFailed."""
        sandbox = self._sandboxes.get(handle.removeprefix(self._prefix))
        if sandbox is None or not handle.startswith(self._prefix):
            raise SandboxFailed("there is no such sandbox (any more)")
        return sandbox

    def get(self, name: str) -> _S | None:
        """By the sandbox's id."""
        return self._sandboxes.get(name)

    def all(self) -> list[_S]:
        """Also those that are just starting or stopping."""
        return list(self._sandboxes.values())

    def owned(self, owner: str | None) -> list[Handle]:
        """See `ports.driver.Driver.list_owned`."""
        return [
            self.handle(name)
            for name, sandbox in self._sandboxes.items()
            if owner is None or sandbox.spec.owner == owner
        ]

    async def stop(self, handle: Handle, grace: float) -> Exit:
        """See `ports.driver.Driver.stop`. What it does goes on when its caller is cancelled."""
        try:
            sandbox = self.find(handle)
        except SandboxFailed:
            return Exit(None, reason="gone")
        name = sandbox.spec.id
        if name in self._stopping:
            sandbox.hurry(grace)
        else:
            self._stopping[name] = self.own(self._stop(sandbox, grace))
        return await asyncio.shield(self._stopping[name])

    async def _stop(self, sandbox: _S, grace: float) -> Exit:
        name = sandbox.spec.id
        try:
            starting = self._starting.get(name)
            if starting is not None:
                starting.cancel()
                await asyncio.wait((starting,))
                grace = 0.0
            ended = await sandbox.stop(grace)
            self._sandboxes.pop(name, None)
            return ended
        finally:
            self._stopping.pop(name, None)

    async def close(self) -> None:
        """Stop every sandbox; returns when nothing is in work any more."""
        handles = [self.handle(name) for name in self._sandboxes]
        await asyncio.gather(*(self.stop(handle, 0) for handle in handles), return_exceptions=True)
        if self._tasks:
            await asyncio.wait(self._tasks)

    def handle(self, sandbox: str) -> Handle:
        return Handle(self._prefix + sandbox)
