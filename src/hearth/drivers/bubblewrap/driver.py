"""The driver: a table of sandboxes behind `ports.driver.Driver` and `CanAttach`. Runs in the keeper, as root, on its main thread."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from hearth.core.errors import InvalidInput, SandboxFailed
from hearth.core.launch import Attachment, Exit, Handle, Probe, SandboxSpec, Usage
from hearth.drivers.bubblewrap.machine import Machine, open_machine
from hearth.drivers.bubblewrap.probe import found_before, probe
from hearth.drivers.bubblewrap.sandbox import Sandbox
from hearth.drivers.common.sources import check_spec
from hearth.drivers.common.table import Table
from hearth.ports.egress import Networks

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
        self._names = count(1)
        self._table: Table[Sandbox] = Table("bubblewrap/1:", max_sandboxes)
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
        await self._table.close()
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
        self._table.check_room(spec)
        return await self._table.start(Sandbox(shared, spec, f"{next(self._names):x}"), deadline)

    async def attach(self, handle: Handle, attachment: Attachment) -> None:
        """See the port."""
        await self._table.find(handle).attach(attachment)

    async def connect(self, handle: Handle, deadline: float) -> int:
        """See the port."""
        return await self._table.find(handle).connect(deadline)

    async def listen(self, handle: Handle) -> int:
        """See the port."""
        return await self._table.find(handle).listen()

    def output(self, handle: Handle) -> tuple[int, int]:
        """See the port."""
        return self._table.find(handle).output()

    async def wait(self, handle: Handle) -> Exit:
        """See the port."""
        return await asyncio.shield(self._table.find(handle).exit)

    async def usage(self, handle: Handle) -> Usage:
        """See the port."""
        return self._table.find(handle).usage()

    async def list_owned(self, owner: str | None) -> list[Handle]:
        """See the port."""
        return self._table.owned(owner)

    async def stop(self, handle: Handle, grace: float) -> Exit:
        """See the port. What it does goes on when its caller is cancelled."""
        return await self._table.stop(handle, grace)
