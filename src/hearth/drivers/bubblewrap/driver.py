"""The driver: a table of sandboxes behind `ports.driver.Driver` and `CanAttach`. Runs in the keeper, as root, on its main thread."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Mapping
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from hearth.core.errors import InvalidInput, NoCapacity, SandboxFailed
from hearth.core.launch import Attachment, Exit, Handle, Probe, SandboxSpec, Usage
from hearth.drivers.bubblewrap.machine import Machine, open_machine
from hearth.drivers.bubblewrap.probe import found_before, probe
from hearth.drivers.bubblewrap.sandbox import Sandbox
from hearth.drivers.common.sources import check_spec
from hearth.ports.egress import Networks

_T = TypeVar("_T")
_HANDLE = "bubblewrap/1:"
_INSTANCE = re.compile(r"[a-z0-9][a-z0-9-]{0,31}\Z")


class BubblewrapDriver:
    """Args:
    instance: id of the data directory; names of what lies outside it (control groups) carry it.
    run: the keeper's run directory, in its own mount namespace; its parents must be passable for all (0711).
    data: the data directory; disks are kept below it.
    folders: kind of `core.launch.Mount` to the host folder in which its names are; ``artifact`` serves `attach` too.
    prefixes: host paths of private interpreters that may be mounted.
    networks: None: only ``network: none``.
    max_sandboxes: at once.
    known: what an earlier keeper of this run found this machine to hold; it is not tried again where nothing differs.

    Call `open` before anything else and `close` at the end.
    """

    def __init__(
        self,
        *,
        instance: str,
        run: Path,
        data: Path,
        folders: Mapping[str, Path],
        prefixes: tuple[str, ...] = (),
        networks: Networks | None = None,
        max_sandboxes: int = 200,
        known: Probe | None = None,
    ) -> None:
        if _INSTANCE.match(instance) is None:
            raise InvalidInput(f"{instance[:40]!r} is not an instance id")
        self.name = "bubblewrap"
        self._instance = instance
        self._run = run
        self._data = data
        self._folders = dict(folders)
        self._prefixes = prefixes
        self._networks = networks
        self._max = max_sandboxes
        self._names = count(1)
        self._sandboxes: dict[str, Sandbox] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._stopping: dict[str, asyncio.Task[Exit]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._machine: Machine | None = None
        self._known = known
        self._probed: Probe | None = None
        self._probing = asyncio.Lock()

    async def open(self) -> None:
        """Remove what an earlier keeper of this instance left, then take uids, groups and the slots' tmpfs.

        Raises StartupFailed when this machine can't do it.
        """
        self._machine = await open_machine(
            self._instance, self._run, self._data, self._folders, self._prefixes, self._networks
        )
        if self._known is not None:
            self._probed = found_before(self._known, self._machine)

    async def close(self) -> None:
        """Stop every sandbox and give everything back. Idempotent."""
        if self._machine is None:
            return
        handles = [_handle(name) for name in self._sandboxes]
        await asyncio.gather(*(self.stop(handle, 0) for handle in handles), return_exceptions=True)
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._machine.undo.close()
        self._machine = None

    def _ready(self) -> Machine:
        if self._machine is None:
            raise SandboxFailed("the driver is not open")
        return self._machine

    async def probe(self) -> Probe:
        """See the port. The result is kept."""
        async with self._probing:
            if self._probed is None:
                self._probed = await probe(self, self._ready())
            return self._probed

    async def prepare(self, artifact: str) -> None:
        """Nothing to do: an artifact is attached as it lies on disk."""

    async def start(self, spec: SandboxSpec, deadline: float) -> Handle:
        """See the port."""
        shared = self._ready()
        check_spec(spec)
        if spec.id in self._sandboxes:
            raise SandboxFailed(f"{spec.id} exists already")
        if len(self._sandboxes) >= self._max:
            raise NoCapacity(f"{self._max} sandboxes exist on this node already", retry_after=1)
        sandbox = Sandbox(shared, spec, f"{next(self._names):x}")
        self._sandboxes[spec.id] = sandbox
        starting = self._starting[spec.id] = self._own(sandbox.start())
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.shield(starting)
        except asyncio.CancelledError:
            cancelled_by_caller = not starting.cancelled()
            cleaning = self._own(self._discard(sandbox, starting))
            if cancelled_by_caller:
                raise
            await asyncio.shield(cleaning)
            raise SandboxFailed(f"{spec.id} was stopped while it started") from None
        except BaseException as error:
            await asyncio.shield(self._own(self._discard(sandbox, starting)))
            if isinstance(error, TimeoutError):
                raise SandboxFailed("the sandbox could not be started in time") from error
            raise
        finally:
            self._starting.pop(spec.id, None)
        return _handle(spec.id)

    async def _discard(self, sandbox: Sandbox, starting: asyncio.Task[None]) -> None:
        """Undo a start, wherever it has got to."""
        starting.cancel()
        await asyncio.wait((starting,))
        if not starting.cancelled():
            starting.exception()  # seen: the caller of `start` has it
        await sandbox.remove()
        self._sandboxes.pop(sandbox.spec.id, None)

    def _own(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """A task that outlives its caller."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _find(self, handle: Handle) -> Sandbox:
        sandbox = self._sandboxes.get(handle.removeprefix(_HANDLE))
        if sandbox is None or not handle.startswith(_HANDLE):
            raise SandboxFailed("there is no such sandbox (any more)")
        return sandbox

    async def attach(self, handle: Handle, attachment: Attachment) -> None:
        """See the port."""
        await self._find(handle).attach(attachment)

    async def connect(self, handle: Handle, deadline: float) -> int:
        """See the port."""
        return await self._find(handle).connect(deadline)

    def output(self, handle: Handle) -> tuple[int, int]:
        """See the port."""
        return self._find(handle).output()

    async def wait(self, handle: Handle) -> Exit:
        """See the port."""
        return await asyncio.shield(self._find(handle).exit)

    async def usage(self, handle: Handle) -> Usage:
        """See the port."""
        return self._find(handle).usage()

    async def list_owned(self, owner: str | None) -> list[Handle]:
        """See the port."""
        return [
            _handle(name)
            for name, sandbox in self._sandboxes.items()
            if owner is None or sandbox.spec.owner == owner
        ]

    async def stop(self, handle: Handle, grace: float) -> Exit:
        """See the port. What it does goes on when its caller is cancelled."""
        try:
            sandbox = self._find(handle)
        except SandboxFailed:
            return Exit(None, reason="gone")
        name = sandbox.spec.id
        if name in self._stopping:
            sandbox.hurry(grace)
        else:
            self._stopping[name] = self._own(self._stop(sandbox, grace))
        return await asyncio.shield(self._stopping[name])

    async def _stop(self, sandbox: Sandbox, grace: float) -> Exit:
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


def _handle(sandbox: str) -> Handle:
    return Handle(_HANDLE + sandbox)
