"""What the pool counts: the running copies of one version, and who waits for one."""

from __future__ import annotations

from hearth.app.admission import Line
from hearth.app.slot import Slot
from hearth.core.instance import InstanceState, may_move
from hearth.core.routing import Deployed
from hearth.core.scaling import Memory, Policy, Stats
from hearth.ports.guest import Guest


class Instance:
    """One running copy of a version. Only the pool changes it, except `current`.

    Args:
        group: its version's.
        slot: the sandbox it lives in.
        now: monotonic seconds.
    """

    __slots__ = ("current", "group", "guest", "id", "idle_since", "in_flight", "limit", "slot", "state")

    def __init__(self, group: Group, slot: Slot, now: float) -> None:
        self.id = slot.id
        self.group = group
        self.slot = slot
        self.guest: Guest = slot.guest
        self.limit = group.policy.concurrency
        self.in_flight = 0
        self.state = InstanceState.STARTING
        self.idle_since = now
        self.current: bytes | None = None  # the invocation in work, where only one can be

    def move(self, state: InstanceState) -> bool:
        """Change the state if the table allows it."""
        if not may_move(self.state, state):
            return False
        if self.state is InstanceState.READY:
            self.group.ready -= 1
        elif state is InstanceState.READY:
            self.group.ready += 1
        self.state = state
        return True


class Group:
    """All of one version's instances on this shard.

    `free` holds exactly those that are READY and have room, each once, the one used last on top: so load gathers
    on few and the others grow idle.
    """

    __slots__ = (
        "failure",
        "failure_since",
        "free",
        "instances",
        "line",
        "memory",
        "policy",
        "ready",
        "retired",
        "service",
        "starting",
        "version",
    )

    def __init__(self, version: Deployed) -> None:
        scale = version.config.scale
        self.version = version
        self.policy = Policy(scale.min, scale.max, scale.idle, version.config.concurrency)
        self.instances: set[Instance] = set()
        self.free: list[Instance] = []
        self.line: Line[Instance] = Line()
        self.starting = 0
        self.ready = 0  # instances in that state
        self.memory = Memory()
        self.service: float | None = None  # average seconds of a request
        self.failure: Exception | None = None  # why the last start failed
        self.failure_since = 0.0  # when starts began to fail
        self.retired = False  # its route is gone: it serves what came before and then ends

    @property
    def in_flight(self) -> int:
        """Requests that its instances work on."""
        return sum(instance.in_flight for instance in self.instances)

    def stats(self, now: float) -> Stats:
        """What the scaler is told."""
        oldest = self.line.oldest()
        idle = () if oldest is not None else tuple(now - instance.idle_since for instance in self.idle())
        return Stats(
            ready=self.ready,
            starting=self.starting,
            in_flight=self.in_flight,
            waiting=self.line.waiting,
            oldest_wait=0.0 if oldest is None else now - oldest.since,
            idle_for=idle,
        )

    def idle(self) -> list[Instance]:
        """Those with nothing to do, longest idle first."""
        return sorted((i for i in self.free if not i.in_flight), key=lambda i: i.idle_since)
