"""One sandbox, from its group to its end. The order of every step here is one that SECURITY-critical tests hold.

start: uid, disk, group, slot, socket; bubblewrap (in the group, as the uid); network while it is held; release; look at it
from outside. stop: SIGTERM, grace, kill until the group is empty, network, group, slot, disk; the uid last.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from dataclasses import replace
from functools import partial

from hearth.core.errors import LimitUnenforceable, SandboxFailed
from hearth.core.launch import CALLS_PORT, Attachment, Exit, Limits, Network, SandboxSpec, Usage
from hearth.drivers.bubblewrap import argv, cgroups
from hearth.drivers.bubblewrap.cgroups import Group
from hearth.drivers.bubblewrap.machine import Machine
from hearth.drivers.bubblewrap.spawn import Spawned, child_of, held_of, program_of, spawn
from hearth.drivers.common.disk import Mounted
from hearth.drivers.common.ending import exit_of
from hearth.drivers.common.etc import etc_files
from hearth.drivers.common.guestsock import GuestSocket
from hearth.drivers.common.slots import Slot
from hearth.drivers.common.sources import check_network
from hearth.drivers.common.watch import Watched, reap_orphans
from hearth.linux.netns import alone, listener
from hearth.ports.egress import NetHandle, Networks

_RETRY = 0.002  # seconds between looks at a group that is emptying: v1 has no event for it
_KILL_LIMIT, _REMOVE_LIMIT = 20.0, 5.0


class Sandbox:
    """Args:
    machine: what all share.
    spec: checked by `sources.check_spec`.
    name: of its slot, short.
    """

    def __init__(self, machine: Machine, spec: SandboxSpec, name: str) -> None:
        self.spec = spec
        self._machine = machine
        self._slot = Slot(machine.slots, name)
        self._uid: int | None = None
        self._spare_uid: int | None = None
        self._disk: Mounted | None = None
        self._group: Group | None = None
        self._guest: GuestSocket | None = None
        self._spawned: Spawned | None = None
        self._child: Watched | None = None
        self._program: Watched | None = None
        self._net: NetHandle | None = None
        self._watching: asyncio.Task[None] | None = None
        self._attached = self._listens = False
        self._removing = asyncio.Lock()
        self._kill_at = float("inf")
        self._kill_changed = asyncio.Event()
        self.exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Bring it up. After any error call `remove`."""
        machine, spec = self._machine, self.spec
        self._uid = self._spare_uid = machine.uids.take()
        if spec.disk is not None:
            self._disk = await machine.disks.take(spec.disk, self._spare_uid)
            self._uid = self._disk.uid
        own, gid = machine.uids.shared, machine.uids.gid(self._uid)
        self._group = machine.groups.create(spec.id, spec.limits)
        layout = self._make_layout(self._uid, gid)
        if spec.guest:
            self._guest = GuestSocket(self._slot.path / "guest.sock", self._uid, gid)
        networked = spec.networked or spec.network.opens
        if networked and machine.networks is None:
            raise LimitUnenforceable("this machine can't hold a sandbox's network", hint="use network: none")
        resolver = machine.networks.resolver if networked and machine.networks is not None else None
        self._spawned = spawned = spawn(
            layout if not own else replace(layout, network=not networked),
            joins=self._group.joins,
            open_files=spec.limits.open_files,
            uid=None if own else self._uid,
            payload=spec.argv,
            tools=machine.tools,
            etc=etc_files(resolver, spec.network.hosts),
            filters=machine.filters.programs,
            held=networked,
        )
        self._group.follow(spawned.process.pid)
        if own:  # it waits before bubblewrap, in the namespace that owns its network; else bubblewrap waits
            await held_of(spawned)
            self._group.hold(spawned.process.pid, spec.limits, final=not spec.guest)
            if networked:
                await self._make_network(machine.networks, spawned.process.pid)
            spawned.release()
        self._child = await child_of(spawned)
        self._watching = asyncio.create_task(self._watch(spawned, self._child))
        if networked and not own:
            await self._make_network(machine.networks, self._child.pid)
            spawned.release()
        self._program = await program_of(spawned, self._child, self._uid, gid)
        self._slot.unstage()
        if self._disk is not None:
            self._disk.detach()
        if not spec.guest:
            self._slot.seal()

    async def _make_network(self, networks: Networks | None, pid: int) -> None:
        assert networks is not None
        self._net = await networks.prepare(self.spec.id, pid)
        if self.spec.network.opens:
            await networks.open(self._net, self.spec.network)

    def _make_layout(self, uid: int, gid: int) -> argv.Layout:
        spec, slot = self.spec, self._slot
        slot.make()
        tmp = slot.stage_tmp(spec.limits.tmp, (uid, gid))
        binds = [
            argv.Bind(
                str(slot.stage_folder(self._machine.sources.open(mount.kind, mount.name))), mount.target
            )
            for mount in spec.mounts
        ]
        if self._disk is not None and spec.disk is not None:
            place = slot.stage_mount(self._disk.mount)
            binds.append(argv.Bind(str(place), spec.disk.target, writable=True))
        return argv.Layout(
            slot=str(slot.path),
            tmp=str(tmp),
            links=self._machine.links,
            system=self._machine.system,
            binds=tuple(binds),
            env=dict(spec.env),
            workdir=spec.workdir,
        )

    async def _watch(self, spawned: Spawned, child: Watched) -> None:
        """Notice the end, whoever caused it, and say how it was."""
        await spawned.outer.ended.wait()
        await child.ended.wait()
        spawned.process.wait()
        child.reap()  # ours when the outer bubblewrap was killed before it could
        spawned.status.read()
        if self._guest is not None:
            self._guest.ended()
        if not self.exit.done():
            self.exit.set_result(exit_of(spawned.status.code, self.usage().oom_kills))

    async def attach(self, attachment: Attachment) -> None:
        """See `ports.driver.CanAttach`."""
        if self._attached or not self.spec.guest or self._group is None or self._uid is None:
            raise SandboxFailed("this sandbox can't be given a version (any more)")
        if self.exit.done():
            raise SandboxFailed("the sandbox has ended")
        check_network(attachment.network)
        self._attached = True
        code = self._machine.sources.open("artifact", attachment.artifact)
        try:
            self._set_limits(self._group, attachment.limits)
            await self._open_network(attachment.network)
        except BaseException:
            os.close(code)
            raise
        self._slot.attach(code, attachment.secrets, (self._uid, self._machine.uids.gid(self._uid)))

    def _set_limits(self, group: Group, limits: Limits) -> None:
        try:
            group.set_limits(limits)
            self._slot.resize_tmp(limits.tmp)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EINVAL, errno.ENOSPC):
                raise
            raise LimitUnenforceable(
                f"the sandbox uses more already than it shall have: {error.strerror}",
                hint="give the function more memory or /tmp",
            ) from error
        if limits.open_files != self.spec.limits.open_files:
            cgroups.set_open_files(group.pids(), limits.open_files)

    async def _open_network(self, network: Network) -> None:
        if not network.opens:
            return
        if self._net is None or self._machine.networks is None:
            raise LimitUnenforceable("this slot has no network", hint="start it with networked=True")
        await self._machine.networks.open(self._net, network)

    async def connect(self, deadline: float) -> int:
        """See `ports.driver.Driver.connect`."""
        if self._guest is None:
            raise SandboxFailed("this sandbox has no guest")
        return await self._guest.take(deadline)

    async def listen(self) -> int:
        """See `ports.driver.CanListen`."""
        child = self._child
        if self._attached or self._listens or child is None or child.ended.is_set():
            raise SandboxFailed("nobody can listen in this sandbox (any more)")
        self._listens = True
        return (await alone(partial(listener, child.pid, CALLS_PORT))).detach()

    def output(self) -> tuple[int, int]:
        """See `ports.driver.Driver.output`."""
        spawned = self._spawned
        if spawned is None or spawned.stdout < 0:
            raise SandboxFailed("the sandbox's output was already taken")
        taken = (spawned.stdout, spawned.stderr)
        spawned.stdout = spawned.stderr = -1
        return taken

    def usage(self) -> Usage:
        return self._group.usage() if self._group is not None else Usage(0, 0, 0.0, 0)

    async def stop(self, grace: float) -> Exit:
        """SIGTERM, at most `grace` seconds, then the end. May be called again meanwhile, with a shorter grace."""
        if not self.exit.done() and self._program is not None and grace > 0:
            self._program.signal(signal.SIGTERM)
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
        if self._spawned is not None and not self.exit.done():
            if self._group is not None:
                self._group.kill()  # while it still shows whom it started
            self._spawned.process.kill()  # it may not have joined the group yet; from now on it makes no more
        if self._group is not None:
            await self._kill(self._group)
        await self._settle()
        if self._net is not None and self._machine.networks is not None:
            await self._machine.networks.close(self._net)
            self._net = None
        self._close_descriptors()
        self._slot.remove()
        if self._group is not None:
            self._group.close()
            await cgroups.remove_soon(self._group.directories, _REMOVE_LIMIT)
        if self._disk is not None:
            await self._machine.disks.give_back(self._disk)
            self._disk = None
        if self._spare_uid is not None:
            self._machine.uids.give_back(self._spare_uid)
            self._spare_uid = None

    async def _kill(self, group: Group) -> None:
        deadline = time.monotonic() + _KILL_LIMIT
        outer = None if self._spawned is None else self._spawned.outer
        while group.pids() or (outer is not None and not outer.ended.is_set()):
            group.kill()
            if self._child is not None:
                self._child.reap()
            if time.monotonic() > deadline:
                raise SandboxFailed(f"processes of {self.spec.id} don't end, though they were killed")
            await asyncio.sleep(_RETRY)

    async def _settle(self) -> None:
        """Everything is killed: wait until bubblewrap is reaped and the exit is known."""
        if self._spawned is not None:
            self._spawned.process.wait()
            if self._watching is None and self._uid is not None and not self._machine.uids.shared:
                await reap_orphans(
                    self._uid, _REMOVE_LIMIT
                )  # its pid 1 came to us when bubblewrap died, unnamed
        if self._watching is not None:
            await self._watching
        if not self.exit.done():
            self.exit.set_result(Exit(None, int(signal.SIGKILL), False, "it was never started"))

    def _close_descriptors(self) -> None:
        if self._guest is not None:
            self._guest.close()
        for watched in (self._child, self._program):
            if watched is not None:
                watched.close()
        spawned = self._spawned
        if spawned is not None:
            spawned.release()
            spawned.outer.close()
            spawned.status.close()
            for fd in (spawned.stdout, spawned.stderr):
                if fd >= 0:
                    os.close(fd)
            spawned.stdout = spawned.stderr = -1
