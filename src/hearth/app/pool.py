"""The instances of this shard. `take` and `give_back` are all that a warm call meets: plain functions, O(1).

Everything runs on the event loop's thread and decides without awaiting, so two requests can't take one instance and
the reaper can't race a request. Starts and stops are tasks that belong to the pool, not to a request: who leaves early
leaves a warm instance behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any, Protocol

from hearth.app.admission import Granted, Ticket
from hearth.app.instances import Group, Instance
from hearth.app.renewal import Renewals
from hearth.app.slot import Slot
from hearth.app.story import NEEDED, STOPPING, Ending
from hearth.core import scaling
from hearth.core.errors import (
    FunctionError,
    FunctionTimeout,
    HearthError,
    NoCapacity,
    QueueFull,
    SandboxFailed,
)
from hearth.core.instance import InstanceState
from hearth.core.routing import Deployed
from hearth.ports.clock import Clock

READY, SMOOTHING = InstanceState.READY, scaling.SMOOTHING
PATIENCE = 3.0  # seconds that requests wait through failures of the platform (a keeper that restarts) before they hear
_log = logging.getLogger(__name__)


class Launches(Protocol):
    """What the pool needs of the launcher."""

    async def launch(self, version: Deployed) -> Slot:
        """A slot that has this version loaded.

        Raises:
            FunctionError: it does not load; says why.
            NoCapacity: this node is full.
            PlatformError: it could not be tried.
        """
        ...

    async def discard(self, slot: Slot, grace: float) -> None:
        """Remove a slot's sandbox; returns when it is gone. Raises nothing that matters."""
        ...


class Pool:
    """Every instance that this shard owns.

    Args:
        launches: starts and removes them.
        clock: monotonic seconds.
    """

    def __init__(self, launches: Launches, clock: Clock) -> None:
        self._launches = launches
        self._clock = clock
        self._groups: dict[str, Group] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._leaving = False
        self._renewals = Renewals(self._begin_renewal, self._retire)
        self.on_waiting: Callable[[], None] = lambda: None  # the scaler wants to know that somebody waits

    # The warm path.

    def take(self, version: Deployed) -> Instance | None:
        """Reserve room on an instance of this version, or None when there is none. O(1)."""
        group = self._groups.get(version.id)
        if group is None or not group.free:
            return None
        instance = group.free[-1]
        instance.in_flight = in_flight = instance.in_flight + 1
        if in_flight >= instance.limit:
            group.free.pop()
        return instance

    def give_back(self, instance: Instance, now: float, seconds: float | None = None) -> None:
        """End a reservation. O(1).

        Args:
            now: monotonic seconds.
            seconds: how long the request took, when that says something about the function.
        """
        group = instance.group
        instance.in_flight = in_flight = instance.in_flight - 1
        if seconds is not None:
            before = group.service
            group.service = seconds if before is None else before + SMOOTHING * (seconds - before)
        if instance.state is READY:
            if in_flight == instance.limit - 1:
                group.free.append(instance)
            instance.idle_since = now
            if group.line.waiting:
                if (
                    instance.guest.closed
                ):  # it failed this very request by dying, and we have not been told yet
                    self.lost(instance)
                else:
                    self._serve(group, now, 0.0)
            elif group.retired and not in_flight:
                self._retire(instance)
        elif instance.state is InstanceState.RETIRING and not in_flight:
            self._stop(instance, 1.0)

    def is_up(self, version: Deployed) -> bool:
        """Whether an instance of it is up, though it may be busy."""
        group = self._groups.get(version.id)
        return group is not None and group.ready > 0

    # Waiting.

    def wait(
        self, version: Deployed, since: float, deadline: float, granted: Granted[Instance]
    ) -> Ticket[Instance]:
        """Queue up for an instance; starts one where the scaler wants it.

        Raises:
            QueueFull: too many wait already.
            FunctionError: it failed to load a moment ago, and nothing is up.
        """
        group = self._group(version)
        if since < group.memory.not_before and not group.ready and isinstance(group.failure, FunctionError):
            raise _again(group.failure)
        bound = version.config.scale.queue + max(0, group.policy.max - group.ready) * group.policy.concurrency
        ticket = group.line.join(since, deadline, granted, bound, group.service)
        if group.ready + group.starting < group.policy.max:
            self.scale(group, since)
        self.on_waiting()
        return ticket

    @contextlib.asynccontextmanager
    async def lease(self, version: Deployed, deadline: float) -> AsyncIterator[Instance]:
        """An instance for the length of a block: for who isn't the data path. Raises what `wait` and a ticket tell."""
        now = self._clock.monotonic()
        instance = self.take(version)
        if instance is None:
            future: asyncio.Future[Instance] = asyncio.get_running_loop().create_future()

            def granted(got: Instance | None, error: HearthError | None, cold: float) -> None:
                if got is not None:
                    future.set_result(got)
                elif error is not None:
                    future.set_exception(error)

            ticket = self.wait(version, now, deadline, granted)
            try:
                instance = await future
            except asyncio.CancelledError:
                ticket.cancel()
                if future.done() and not future.cancelled() and future.exception() is None:
                    self.give_back(future.result(), self._clock.monotonic())
                raise
        try:
            yield instance
        finally:
            self.give_back(instance, self._clock.monotonic())

    # Lives of instances.

    def add(self, version: Deployed, slot: Slot, cold: float = 0.0) -> Instance:
        """A slot has loaded this version (in `cold` seconds): it takes requests from now on."""
        now = self._clock.monotonic()
        group = self._group(version)
        instance = Instance(group, slot, now)
        instance.move(InstanceState.READY)
        group.instances.add(instance)
        group.free.append(instance)
        slot.belongs_to(version, lambda: instance.current.decode() if instance.current else None)
        slot.on_closed = lambda: self.lost(instance)
        if slot.guest.closed:
            self.lost(instance)
        else:
            self._serve(group, now, cold)
        return instance

    def retire(self, instance: Instance) -> None:
        """A request in it runs too long: it takes no new ones; when those in work have ended it is stopped."""
        self._retire(instance, _too_long(instance, "stopped"))

    def kill(self, instance: Instance) -> None:
        """The request in it runs too long: stop it now."""
        self._end(instance, _too_long(instance, "killed"))

    def lost(self, instance: Instance) -> None:
        """Its connection is gone: nobody gets it any more. Idempotent."""
        self._end(instance, None)

    def leave(self) -> None:
        """This process drains: instances end as they become idle, so that a successor has room for its own."""
        self._leaving = True
        self.serve_only(())

    def serve_only(self, versions: Iterable[Deployed]) -> None:
        """The routes have changed: versions that are not among these finish what they have and end.

        Instances of one whose secrets have changed are replaced.
        """
        wanted = {version.id: version for version in versions}
        for key, group in list(self._groups.items()):
            group.retired = key not in wanted
            if group.retired:
                for instance in [i for i in group.instances if not i.in_flight]:
                    self._retire(instance)
                self._forget(group)
        for version in wanted.values():
            held = self._groups.get(version.id)
            if held is not None and held.version.secrets != version.secrets:
                held.version = version
                held.memory = replace(held.memory, failures=0, not_before=0.0)  # it may load now
                self._renewals.look(held, self._clock.monotonic())
            if version.config.scale.min:
                self._group(version)

    def scale(self, group: Group, now: float) -> None:
        """Ask `core.scaling` what to do about one version, and do it."""
        memory = scaling.Memory(
            group.service, group.memory.cold, group.memory.failures, group.memory.not_before
        )
        decision, group.memory = scaling.decide(group.policy, group.stats(now), now, memory)
        if self._closing or (group.retired and not group.line.waiting):
            return
        for _ in range(decision.start):
            group.starting += 1
            self._spawn(self._start(group))
        if decision.stop:
            for instance in group.idle()[: decision.stop]:
                self._retire(instance, Ending(f"instance stopped: idle for {group.policy.idle:g} s"))

    def tick(self, now: float) -> None:
        """What time brings: late tickets, idle instances, `scale.min`, another try after a failed start."""
        for group in list(self._groups.values()):
            for ticket in group.line.expired(now):
                ticket.granted(None, _too_late(group, now - ticket.since), 0.0)
            self.scale(group, now)
            self._renewals.look(group, now)
            self._forget(group)

    @property
    def waiting(self) -> int:
        """Requests that wait for an instance."""
        return sum(group.line.waiting for group in self._groups.values())

    def groups(self) -> list[Group]:
        """All versions that have instances, or who waits for one; to look at, not to change."""
        return list(self._groups.values())

    @property
    def instances(self) -> list[Instance]:
        """All that are not gone."""
        return [instance for group in self._groups.values() for instance in group.instances]

    async def close(self) -> None:
        """Stop everything; returns when every sandbox is gone."""
        self._closing = True
        for group in self._groups.values():
            for ticket in group.line.clear():
                ticket.granted(None, NoCapacity("the platform is stopping", retry_after=1), 0.0)
            for instance in list(group.instances):
                self._end(instance, STOPPING)
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # Inside.

    def _group(self, version: Deployed) -> Group:
        group = self._groups.get(version.id)
        if group is None:
            group = self._groups[version.id] = Group(version)
            group.retired = self._leaving
        return group

    def _forget(self, group: Group) -> None:
        if not (group.instances or group.starting or group.line.waiting) and (
            group.retired or (not group.policy.min and group.failure is None)
        ):
            self._groups.pop(group.version.id, None)

    def _serve(self, group: Group, now: float, cold: float) -> None:
        while group.free and (ticket := group.line.pop()) is not None:
            instance = self.take(group.version)
            ticket.granted(instance, None, min(cold, now - ticket.since))

    def _leave(self, instance: Instance) -> None:
        if instance in instance.group.free:
            instance.group.free.remove(instance)

    def _end(self, instance: Instance, why: Ending | None) -> None:
        """Stop it now, whatever is in work there; None: it is dead already."""
        self._leave(instance)
        if instance.move(InstanceState.STOPPING):
            instance.slot.ending = why
            self._spawn(self._remove(instance, 0.0))

    def _retire(self, instance: Instance, why: Ending | None = None) -> None:
        if instance.move(InstanceState.RETIRING):
            number = instance.group.version.number
            reason = f"version {number} serves no traffic" if instance.group.retired else "it is replaced"
            reason = "this gateway process ends" if self._leaving else reason
            instance.slot.ending = why or Ending(f"instance stopped: {reason}")
            self._leave(instance)
            if not instance.in_flight:
                self._stop(instance, 1.0)

    def _stop(self, instance: Instance, grace: float) -> None:
        if instance.move(InstanceState.STOPPING):
            self._spawn(self._remove(instance, grace))

    async def _remove(self, instance: Instance, grace: float) -> None:
        group = instance.group
        if grace:
            instance.guest.drain()
        await self._launches.discard(instance.slot, grace)
        instance.move(InstanceState.GONE)
        group.instances.discard(instance)
        if group.line.waiting:
            self.scale(group, self._clock.monotonic())
        self._forget(group)

    async def _start(self, group: Group) -> None:
        began, version = self._clock.monotonic(), group.version
        try:
            slot = await self._launch(group, version)
        except HearthError as error:
            group.starting -= 1
            self._not_started(group, error)
            return
        except Exception:  # a bug of ours must not leave those who wait without an answer
            _log.exception("a start failed in an unforeseen way")
            group.starting -= 1
            self._not_started(group, SandboxFailed("the instance could not be started"))
            return
        group.starting -= 1
        now = self._clock.monotonic()
        group.memory = scaling.started(group.memory, now - began)
        group.failure = None
        if self._closing:
            slot.ending = STOPPING
            await self._launches.discard(slot, 0.0)
            return
        instance = self.add(version, slot, now - began)
        self._renewals.up(group, instance)
        if group.retired and not instance.in_flight:
            self._retire(instance)

    def _begin_renewal(self, group: Group) -> None:
        group.starting += 1
        self._spawn(self._renew(group))

    async def _renew(self, group: Group) -> None:
        try:
            await self._start(group)
        finally:
            self._renewals.ended(
                [] if self._closing else list(self._groups.values()), self._clock.monotonic()
            )

    async def _launch(self, group: Group, version: Deployed) -> Slot:
        try:
            return await self._launches.launch(version)
        except NoCapacity:
            idle = self._spare(group)
            if idle is None:
                raise
            self._leave(idle)
            if idle.move(InstanceState.STOPPING):
                idle.slot.ending = NEEDED
                await self._remove(idle, 0.0)
            return await self._launches.launch(version)

    def _spare(self, but: Group) -> Instance | None:
        """The longest idle instance of another version that is above its `min`."""
        spare = [
            group.idle()[0]
            for group in self._groups.values()
            if group is not but and group.idle() and group.ready > group.policy.min
        ]
        return min(spare, key=lambda instance: instance.idle_since, default=None)

    def _not_started(self, group: Group, error: HearthError) -> None:
        now = self._clock.monotonic()
        self._renewals.failed(group, error)
        if group.failure is None:
            group.failure_since = now
        group.failure = error
        mine = isinstance(error, FunctionError)
        group.memory = (
            scaling.failed(group.memory, now) if mine else scaling.failed(group.memory, now, 0.1, 2.0)
        )
        hopeless = mine or isinstance(error, NoCapacity) or now - group.failure_since > PATIENCE
        up = group.ready if mine else len(group.instances)  # one that is on its way out makes room, no more
        if hopeless and not up and not group.starting:
            for ticket in group.line.clear():
                ticket.granted(None, error, now - ticket.since)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _too_long(instance: Instance, done: str) -> Ending:
    """A request did not end within its timeout."""
    seconds, current = instance.group.version.config.timeout, instance.current
    text = f"instance {done}: a request ran longer than {seconds:g} s"
    return Ending(text, "error", current.decode() if current else None)


def _again(error: FunctionError) -> HearthError:
    """The same error for another request: an exception object belongs to one."""
    return type(error)(
        error.message, hint=error.hint, retry_after=error.retry_after, details=dict(error.details)
    )


def _too_late(group: Group, waited: float) -> HearthError:
    if group.ready:
        return QueueFull(
            f"no instance became free in {waited:.0f} s", hint="raise scale.max in function.yaml"
        )
    return FunctionTimeout(
        f"no instance was up after {waited:.0f} s", hint="raise init_timeout in function.yaml"
    )
