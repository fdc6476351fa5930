"""The driver: a table of containers behind `ports.driver.Driver` and `CanAttach`, kept in step with what the daemon has.

Runs in the keeper. The daemon's events say what ends; since they may be lost with the daemon, everything is looked at again when it is back,
and now and then. Containers without this instance's label are nobody's business here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from hearth.core.errors import HearthError, InvalidInput, SandboxFailed
from hearth.core.launch import Attachment, Exit, Handle, Probe, SandboxSpec, Usage
from hearth.core.names import ISOLATION_RUNTIME
from hearth.drivers.common.sources import check_spec
from hearth.drivers.common.table import Table
from hearth.drivers.docker.engine import EngineRefused
from hearth.drivers.docker.images import IMAGES
from hearth.drivers.docker.machine import Machine, open_machine
from hearth.drivers.docker.probe import probe
from hearth.drivers.docker.sandbox import Sandbox
from hearth.drivers.docker.spec import INSTANCE, SANDBOX
from hearth.ports.egress import Networks

log = logging.getLogger(__name__)

SOCKET = Path("/var/run/docker.sock")
_INSTANCE = re.compile(r"[a-z0-9][a-z0-9-]{0,31}\Z")
_TICK = 30.0  # seconds between looks at everything
_PAUSE, _PAUSE_MAX = 0.1, 1.0  # seconds before the daemon is asked again after it has gone


class DockerDriver:
    """Args:
    instance: id of the data directory; names and labels of containers carry it.
    run: a folder that the daemon sees at the same path, made here; its parents must be passable for all.
    data: the data directory; disks are kept below it.
    folders: kind of `core.launch.Mount` to the host folder in which its names are; ``artifact`` serves `attach` too.
    prefixes: host paths of private interpreters that may be mounted.
    networks: None: only ``network: none``.
    max_sandboxes: at once.
    socket: the daemon's.
    images: language to the name of its image.
    runtime: isolation runtime where a sandbox names none; empty for the daemon's default.

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
        socket: Path = SOCKET,
        images: Mapping[str, str] | None = None,
        runtime: str = "",
    ) -> None:
        if _INSTANCE.match(instance) is None:
            raise InvalidInput(f"{instance[:40]!r} is not an instance id")
        self.name = "docker"
        self._instance = instance
        self._wanted: dict[str, Any] = {
            "socket_path": socket,
            "run": run,
            "data": data,
            "folders": dict(folders),
            "prefixes": prefixes,
            "networks": networks,
            "images": {**IMAGES, **(images or {})},
            "runtime": runtime,
        }
        self._names = count(1)
        self._table: Table[Sandbox] = Table("docker/1:", max_sandboxes)
        self._machine: Machine | None = None
        self._watching: list[asyncio.Task[None]] = []
        self._heard = asyncio.Event()
        self._probed: Probe | None = None
        self._probing = asyncio.Lock()

    async def open(self) -> None:
        """Remove what an earlier keeper of this instance left; from then on hear the daemon's events.

        Raises StartupFailed when there is no daemon that would do.
        """
        self._machine = await open_machine(instance=self._instance, **self._wanted)
        try:
            await self._remove_strays()
        except BaseException:
            self._machine.undo.close()
            await self._machine.engine.close()
            self._machine = None
            raise
        self._watching = [asyncio.create_task(work) for work in (self._watch(self._machine), self._tick())]
        await self._heard.wait()

    async def close(self) -> None:
        """Stop every sandbox and give everything back. Idempotent."""
        machine = self._machine
        if machine is None:
            return
        await self._table.close()
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        with contextlib.suppress(HearthError):
            await self._remove_strays()
        await machine.engine.close()
        machine.undo.close()
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
        machine = self._ready()
        check_spec(spec)
        if spec.isolation_runtime:
            if ISOLATION_RUNTIME.fullmatch(spec.isolation_runtime) is None:
                raise InvalidInput(
                    f"{spec.isolation_runtime[:80]!r} can't be the name of an isolation runtime"
                )
            if spec.isolation_runtime not in machine.runtimes:
                raise SandboxFailed(
                    f"docker has no isolation runtime {spec.isolation_runtime!r}",
                    hint=f"it has {', '.join(sorted(machine.runtimes))}",
                )
        self._table.check_room(spec)
        return await self._table.start(Sandbox(machine, spec, f"{next(self._names):x}"), deadline)

    async def attach(self, handle: Handle, attachment: Attachment) -> None:
        """See the port."""
        await self._table.find(handle).attach(attachment)

    async def connect(self, handle: Handle, deadline: float) -> int:
        """See the port."""
        return await self._table.find(handle).connect(deadline)

    async def listen(self, handle: Handle) -> int | None:
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
        return await self._table.find(handle).usage()

    async def list_owned(self, owner: str | None) -> list[Handle]:
        """See the port."""
        return self._table.owned(owner)

    async def stop(self, handle: Handle, grace: float) -> Exit:
        """See the port. What it does goes on when its caller is cancelled."""
        return await self._table.stop(handle, grace)

    # -- in step with the daemon ---------------------------------------------------------------------------

    async def _watch(self, machine: Machine) -> None:
        """Hear what happens to this instance's containers; when the daemon was gone, look at them all."""
        pause, told = _PAUSE, False
        while True:
            try:
                async for event in machine.engine.events(
                    type=["container"],
                    label=[f"{INSTANCE}={self._instance}"],
                    event=["die", "oom", "destroy"],
                ):
                    if event:
                        self._event(event)
                    else:
                        pause, told = _PAUSE, False
                        self._table.own(self._reconcile())
                        self._heard.set()
            except HearthError as error:
                if not told:
                    log.warning("docker's events have stopped: %s", error.message)
                told = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_MAX)

    async def _tick(self) -> None:
        """What is told and lost is found out all the same."""
        while True:
            await asyncio.sleep(_TICK)
            await self._reconcile()

    def _event(self, event: dict[str, Any]) -> None:
        said = event.get("Actor") or {}
        sandbox = self._table.get((said.get("Attributes") or {}).get(SANDBOX, ""))
        if sandbox is None or said.get("ID") != sandbox.container:
            return
        if event.get("Action") == "oom":
            sandbox.out_of_memory()
        else:
            self._table.own(self._judge(sandbox))

    async def _judge(self, sandbox: Sandbox) -> None:
        try:
            await sandbox.judge()
        except HearthError as error:  # it is looked at again when the daemon is back
            log.warning("the end of %s is not known yet: %s", sandbox.spec.id, error.message)

    async def _reconcile(self) -> None:
        """After the daemon was gone: what ended meanwhile, and what was to be removed."""
        await asyncio.gather(*(self._judge(sandbox) for sandbox in self._table.all()))
        with contextlib.suppress(HearthError):
            await self._remove_strays()

    async def _remove_strays(self) -> None:
        """Containers with this instance's label that no sandbox here has."""
        engine = self._ready().engine
        filters = json.dumps({"label": [f"{INSTANCE}={self._instance}"]})
        for found in await engine.request("GET", "/containers/json", query={"all": "1", "filters": filters}):
            labels = found.get("Labels") or {}
            if labels.get(INSTANCE) != self._instance or self._table.get(labels.get(SANDBOX, "")) is not None:
                continue
            try:
                await engine.request("DELETE", f"/containers/{found['Id']}", query={"force": "1", "v": "1"})
            except EngineRefused as error:
                if error.status not in (404, 409):  # gone, or being removed
                    log.warning("a container that nobody owns can't be removed: %s", error.message)
