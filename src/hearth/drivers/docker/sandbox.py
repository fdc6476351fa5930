"""One sandbox as a container, from its place on the host to its end.

start: uid, disk, place, socket; create, attach, start; look at it from outside and give it a network while its program is held; let it on.
stop: SIGTERM, grace, kill; the container; network, place, disk; the uid last.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import time
from functools import partial
from typing import Any

from hearth.core.errors import LimitUnenforceable, SandboxFailed
from hearth.core.launch import CALLS_PORT, Attachment, Exit, Limits, Network, SandboxSpec, Usage
from hearth.drivers.common import program
from hearth.drivers.common.disk import Mounted
from hearth.drivers.common.ending import exit_of
from hearth.drivers.common.etc import etc_files
from hearth.drivers.common.guestsock import GuestSocket
from hearth.drivers.common.sources import check_network
from hearth.drivers.common.watch import Watched
from hearth.drivers.docker import spec as container
from hearth.drivers.docker.engine import EngineGone, EngineRefused
from hearth.drivers.docker.figures import usage_of
from hearth.drivers.docker.machine import Machine
from hearth.drivers.docker.spec import Bind, Container
from hearth.drivers.docker.streams import Streams
from hearth.linux.netns import alone, listener
from hearth.ports.egress import NetHandle, Networks

_REMOVE_TRIES, _REMOVE_PAUSE = 50, 0.1  # seconds
_KILL_LIMIT, _LAST_WORD, _UNREAD = 20.0, 2.0, 0.5


class Sandbox:
    """Args:
    machine: what all share.
    spec: checked by `sources.check_spec`.
    name: of its place, short.
    """

    def __init__(self, machine: Machine, spec: SandboxSpec, name: str) -> None:
        self.spec = spec
        self.container = ""  # the daemon's id of it
        self._machine = machine
        self._runtime = spec.isolation_runtime or machine.default_runtime
        self._gvisor = container.is_gvisor(self._runtime)
        self._place = machine.place(name)
        self._uid: int | None = None
        self._spare_uid: int | None = None
        self._disk: Mounted | None = None
        self._guest: GuestSocket | None = None
        self._streams: Streams | None = None
        self._process: Watched | None = None  # the container's first, where it can be seen from here
        self._creating: asyncio.Task[str] | None = None
        self._net: NetHandle | None = None
        self._attached = self._listens = self._oom = self._up = False
        self._removing, self._judging = asyncio.Lock(), asyncio.Lock()
        self._kill_at = float("inf")
        self._kill_changed = asyncio.Event()
        self._last = Usage(0, 0, 0.0, 0)
        self.exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Bring it up. After any error call `remove`."""
        machine, spec, engine = self._machine, self.spec, self._machine.engine
        networked = spec.networked or spec.network.opens
        if networked and (machine.networks is None or self._gvisor):
            raise LimitUnenforceable("no network can be held for this sandbox", hint="use network: none")
        wanted = await self._wanted(networked)
        self._creating = asyncio.ensure_future(self._create(container.config(wanted)))
        self.container = await asyncio.shield(self._creating)
        self._streams = Streams(await engine.attach(self.container))
        await engine.request("POST", f"/containers/{self.container}/start")
        said = await self._streams.first_line()
        if said != container.HELD:
            raise SandboxFailed(f"the container's program could not be started: {said or 'it ended at once'}")
        pid = await self._look()
        if networked:
            await self._make_network(machine.networks, pid)
        await self._streams.release()
        self._place.started()
        if self._disk is not None:
            self._disk.detach()
        if not spec.guest:
            self._place.seal()
        self._up = True

    async def _wanted(self, networked: bool) -> Container:
        machine, spec, place = self._machine, self.spec, self._place
        self._uid = self._spare_uid = machine.uids.take()
        if spec.disk is not None:
            if machine.disks is None:
                raise SandboxFailed("a disk can't be given to a container here", hint="run Hearth as root")
            self._disk = await machine.disks.take(spec.disk, self._spare_uid)
            self._uid = self._disk.uid
        owner = (self._uid, machine.uids.gid(self._uid))
        binds = [place.make()]
        tmp = place.tmp(spec.limits.tmp, owner)
        binds += [tmp] if tmp is not None else []
        binds += [place.folder(mount.kind, mount.name, mount.target) for mount in spec.mounts]
        if self._disk is not None and spec.disk is not None:
            binds.append(place.disk(self._disk, spec.disk.target))
        resolver = machine.networks.resolver if networked and machine.networks is not None else None
        binds += place.etc(etc_files(resolver, spec.network.hosts, ids=owner))
        binds += [Bind(path, path) for path in machine.certificates]
        if spec.guest:
            instead = (0, 0) if self._gvisor else None  # its file server dials for it
            self._guest = GuestSocket(place.path / "guest.sock", *owner, instead=instead)
        return Container(
            image=machine.image(spec.language),
            argv=spec.argv,
            env=spec.env,
            labels=(
                (container.INSTANCE, machine.instance),
                (container.OWNER, spec.owner),
                (container.SANDBOX, spec.id),
            ),
            user=owner,
            limits=spec.limits,
            binds=tuple(binds),
            workdir=spec.workdir,
            profile=machine.profile,
            tmp=spec.limits.tmp if tmp is None else None,
            runtime=self._runtime,
        )

    async def _create(self, config: dict[str, Any]) -> str:
        """The daemon's id of the new container. A reply that was lost is asked for; a name that is somebody else's is left to him."""
        engine, name = self._machine.engine, f"hearth-{self._machine.instance}-{self.spec.id}"
        for attempt in range(3):
            try:
                made = await engine.request("POST", "/containers/create", body=config, query={"name": name})
                return str(made["Id"])
            except EngineGone:
                if attempt == 2:
                    raise
                await self._machine.back()
                mine = await self._mine(name)
                if mine is not None:
                    return mine
            except EngineRefused as error:
                if error.status == 404 and "image" in error.message.lower():
                    raise SandboxFailed(
                        f"there is no image {config['Image']} for containers",
                        hint="make it: hearth images build",
                    ) from error
                if error.status != 409 or attempt == 2:
                    raise
                mine = await self._mine(name)
                if mine is not None:  # of an answer that never came
                    return mine
                name = f"{name}-{secrets.token_hex(3)}"
        raise AssertionError("the loop above returns or raises")

    async def _mine(self, name: str) -> str | None:
        """The id of a container of that name if it is this sandbox; None where there is none, or it is somebody else's."""
        try:
            found = await self._machine.engine.request("GET", f"/containers/{name}/json")
        except EngineRefused as error:
            if error.status != 404:
                raise
            return None
        labels = found["Config"].get("Labels") or {}
        ours = (labels.get(container.INSTANCE), labels.get(container.SANDBOX)) == (
            self._machine.instance,
            self.spec.id,
        )
        return str(found["Id"]) if ours else None

    async def _look(self) -> int:
        """Hold its first process, and see from outside that it is confined as it must be. Returns its number on the host."""
        found = await self._machine.engine.request("GET", f"/containers/{self.container}/json")
        pid, uid = int(found["State"]["Pid"]), self._uid
        assert uid is not None
        if not self._machine.sees(pid, self.container):
            if self.spec.networked:
                raise LimitUnenforceable(
                    "containers' processes can't be seen from here", hint="use network: none"
                )
            return 0
        try:
            self._process = Watched(pid)
        except ProcessLookupError:
            raise SandboxFailed("the container ended at once") from None
        if not self._gvisor:  # whose processes are its own kernel's
            shell = program.first_child(pid)
            for one in (pid, *([] if shell is None else [shell])):
                program.check_confined(one, uid, self._machine.uids.gid(uid))
        return pid

    async def _make_network(self, networks: Networks | None, pid: int) -> None:
        assert networks is not None
        self._net = await networks.prepare(self.spec.id, pid)
        if self.spec.network.opens:
            await networks.open(self._net, self.spec.network)

    # -- while it runs -------------------------------------------------------------------------------------

    async def attach(self, attachment: Attachment) -> None:
        """See `ports.driver.CanAttach`."""
        if self._attached or not self.spec.guest or self._uid is None or not self.container:
            raise SandboxFailed("this sandbox can't be given a version (any more)")
        if self.exit.done():
            raise SandboxFailed("the sandbox has ended")
        check_network(attachment.network)
        self._attached = True
        owner = (self._uid, self._machine.uids.gid(self._uid))
        await self._set_limits(attachment.limits)
        if attachment.network.opens:
            await self._open_network(attachment.network)
        self._place.attach(attachment.artifact, attachment.secrets, owner)

    async def _set_limits(self, limits: Limits) -> None:
        old, new = (container.resources(one, self._runtime) for one in (self.spec.limits, limits))
        if limits.open_files != self.spec.limits.open_files:
            raise LimitUnenforceable("the number of open files can't be changed in a running container")
        self._place.resize_tmp(limits.tmp)
        if new == old:
            return
        try:
            await self._machine.engine.request("POST", f"/containers/{self.container}/update", body=new)
        except EngineRefused as error:
            raise LimitUnenforceable(
                f"the container's limits can't be changed: {error.message}",
                hint="give the function more memory",
            ) from error

    async def _open_network(self, network: Network) -> None:
        if self._net is None or self._machine.networks is None:
            raise LimitUnenforceable("this slot has no network", hint="start it with networked=True")
        await self._machine.networks.open(self._net, network)

    async def connect(self, deadline: float) -> int:
        """See `ports.driver.Driver.connect`."""
        if self._guest is None:
            raise SandboxFailed("this sandbox has no guest")
        return await self._guest.take(deadline)

    async def listen(self) -> int | None:
        """See `ports.driver.CanListen`."""
        if self._gvisor or self._process is None:
            return None  # gVisor's network is its own affair; another's process can't be seen from here
        if self._attached or self._listens or self._process.ended.is_set():
            raise SandboxFailed("nobody can listen in this sandbox (any more)")
        self._listens = True
        return (await alone(partial(listener, self._process.pid, CALLS_PORT))).detach()

    def output(self) -> tuple[int, int]:
        """See `ports.driver.Driver.output`."""
        taken = self._streams.take() if self._streams is not None else None
        if taken is None:
            raise SandboxFailed("the sandbox's output was already taken")
        return taken

    async def usage(self) -> Usage:
        """See `ports.driver.Driver.usage`; after its end, what was seen last."""
        if self.exit.done():
            return Usage(0, self._last.memory_peak, self._last.cpu_seconds, 0, int(self.exit.result().oom))
        path = f"/containers/{self.container}/stats"
        found = await self._machine.engine.request("GET", path, query={"stream": "false", "one-shot": "true"})
        self._last = usage_of(found, self._last)
        return self._last

    # -- its end -------------------------------------------------------------------------------------------

    def out_of_memory(self) -> None:
        """The daemon says that the kernel has killed in it for memory."""
        self._oom = True

    async def judge(self) -> None:
        """Find out whether it has ended and how; what the daemon tells may be late, doubled or lost."""
        async with self._judging:
            if self.exit.done() or not self.container:
                return
            try:
                found = await self._machine.engine.request("GET", f"/containers/{self.container}/json")
            except EngineRefused as error:
                if error.status == 404:
                    await self._end(Exit(None, int(signal.SIGKILL), False, "its container was removed"))
                return
            state = found["State"]
            if state["Running"] or state["Status"] in ("created", "restarting"):
                await self._listen_again()
                return
            await self._end(self._verdict(int(state["ExitCode"]), bool(state["OOMKilled"])))

    def _verdict(self, code: int, oom: bool) -> Exit:
        ended = exit_of(code, int(oom or self._oom))
        if ended.signal == signal.SIGKILL and not ended.oom:
            return Exit(None, int(signal.SIGKILL), False, "killed")
        return ended

    async def _listen_again(self) -> None:
        """It outlived its daemon (live restore): what it prints is to be had from the new one."""
        streams = self._streams
        if streams is not None and streams.ended.is_set():
            with contextlib.suppress(EngineRefused):
                streams.again(await self._machine.engine.attach(self.container))

    async def _end(self, ended: Exit) -> None:
        if self._guest is not None:
            self._guest.ended()
        if self._streams is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORD):
                    await self._streams.ended.wait()
            self._streams.finish()
        if not self.exit.done():
            self.exit.set_result(ended)

    async def stop(self, grace: float) -> Exit:
        """SIGTERM, at most `grace` seconds, then the end. May be called again meanwhile, with a shorter grace."""
        if not self.exit.done() and self.container and grace > 0:
            with contextlib.suppress(SandboxFailed):  # it has ended, or nobody is there to ask
                path = f"/containers/{self.container}/kill"
                await self._machine.engine.request("POST", path, query={"signal": "SIGTERM"})
            await self._wait_for_exit(grace)
        await self.remove()
        return self.exit.result()

    def hurry(self, grace: float) -> None:
        """Another caller of `stop` allows it less time."""
        self._kill_at = min(self._kill_at, time.monotonic() + grace)
        self._kill_changed.set()

    async def _wait_for_exit(self, grace: float) -> None:
        self.hurry(grace)
        while not self.exit.done() and (left := self._kill_at - time.monotonic()) > 0:
            self._kill_changed.clear()
            changed = asyncio.ensure_future(self._kill_changed.wait())
            await asyncio.wait((self.exit, changed), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()

    async def remove(self) -> None:
        """Kill what is left and remove everything. May be called again after an error, and at any point of a start."""
        async with self._removing:  # a start that failed and a stop may both want it
            await self._remove()

    async def _remove(self) -> None:
        if self._creating is not None:
            await asyncio.wait((self._creating,))  # it may be made though nobody waits for it any more
            if not self._creating.cancelled() and self._creating.exception() is None:
                self.container = self._creating.result()
        if self.container:
            try:
                await self._kill()
                await self._remove_container()
            except EngineGone:  # its record goes when the daemon is back
                await self._machine.kill_all(self.container, _KILL_LIMIT)
            else:
                if (
                    not self._up
                ):  # a daemon that went while it started may have left processes of which it knows nothing
                    await self._machine.kill_all(self.container, _KILL_LIMIT)
        if not self.exit.done():
            await self._end(
                Exit(None, int(signal.SIGKILL), False, "killed" if self.container else "it was never started")
            )
        if self._net is not None and self._machine.networks is not None:
            await self._machine.networks.close(self._net)
            self._net = None
        if self._guest is not None:
            self._guest.close()
        if self._streams is not None:
            self._streams.close()
        if self._process is not None:
            self._process.close()
        self._place.remove()
        if self._disk is not None and self._machine.disks is not None:
            await self._machine.disks.give_back(self._disk)
            self._disk = None
        if self._spare_uid is not None:
            self._machine.uids.give_back(self._spare_uid)
            self._spare_uid = None

    async def _kill(self) -> None:
        """End it, and learn how it ended."""
        if not self.exit.done():
            path = f"/containers/{self.container}"
            try:
                await self._until_dead(path)
            except EngineRefused as error:
                if error.status not in (404, 409):  # it is gone, or does not run
                    raise
            await self.judge()

    async def _until_dead(self, path: str) -> None:
        """The daemon tells of an end only when it has got rid of what was printed: where nobody reads that, it is let go."""
        killing = asyncio.ensure_future(self._kill_and_wait(path))
        try:
            await asyncio.wait((killing,), timeout=_UNREAD)
            if not killing.done() and self._streams is not None:
                self._streams.broken()
            await killing
        finally:
            killing.cancel()

    async def _kill_and_wait(self, path: str) -> None:
        engine = self._machine.engine
        await engine.request("POST", f"{path}/kill", query={"signal": "SIGKILL"})
        await engine.request("POST", f"{path}/wait", query={"condition": "not-running"}, timeout=_KILL_LIMIT)

    async def _remove_container(self) -> None:
        for attempt in range(_REMOVE_TRIES):
            try:
                await self._machine.engine.request(
                    "DELETE", f"/containers/{self.container}", query={"force": "1", "v": "1"}
                )
            except EngineRefused as error:
                if error.status == 404:
                    return
                if attempt == _REMOVE_TRIES - 1:
                    raise
                await asyncio.sleep(
                    _REMOVE_PAUSE
                )  # it is being removed already, or its mounts are still busy
            else:
                return
