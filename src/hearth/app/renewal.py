"""A changed secret reaches what runs: instances that have the new value take over from those that have the old one.

One comes up first, then an old one goes, so that no request is refused for it; as with a deploy there may be one instance more
than `scale.max` for a moment. While new ones don't load, the old ones go on. A secret that is gone is another matter: nothing
new can start, so the old ones finish what they have and end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hearth.app.instances import Group, Instance
from hearth.core.errors import HearthError, NoCapacity
from hearth.core.instance import InstanceState

AT_ONCE = 4  # starts for this reason at once: a namespace's secret may be named by all of its functions


def stale(group: Group) -> list[Instance]:
    """Instances that were given other secrets than their version has now: idle ones first, the longest idle on top."""
    if not group.version.config.secrets:
        return []
    wanted = group.version.secrets
    found = [
        instance
        for instance in group.instances
        if instance.state is InstanceState.READY
        and instance.slot.version is not None
        and instance.slot.version.secrets != wanted
    ]
    return sorted(found, key=lambda instance: (instance.in_flight > 0, instance.idle_since))


class Renewals:
    """Decides which instances are replaced, and when.

    Args:
        start: begins one start of a group; `ended` is to be called when it is over.
        retire: an instance takes no new requests and ends when it has none.
    """

    def __init__(self, start: Callable[[Group], None], retire: Callable[[Instance], None]) -> None:
        self._start = start
        self._retire = retire
        self._running = 0

    def look(self, group: Group, now: float) -> None:
        """Do what is due for one group. Cheap where nothing is."""
        old = stale(group)
        if not old or group.retired:
            return
        if len(group.version.secrets) < len(group.version.config.secrets):
            for instance in old:
                self._retire(instance)
        elif not group.starting and self._running < AT_ONCE and now >= group.memory.not_before:
            self._running += 1
            self._start(group)

    def up(self, group: Group, instance: Instance) -> None:
        """An instance came up, for whatever reason: old ones that idle end, or else one of those at work."""
        old = stale(group)
        if instance in old:  # the secret changed once more while it started
            return
        for one in [one for one in old if not one.in_flight] or old[:1]:
            self._retire(one)

    def failed(self, group: Group, error: HearthError) -> None:
        """A start failed. Where the node is full an old instance makes room."""
        if isinstance(error, NoCapacity) and (old := stale(group)):
            self._retire(old[0])

    def ended(self, groups: Iterable[Group], now: float) -> None:
        """A start that was begun here is over; the next may begin."""
        self._running -= 1
        for group in groups:
            self.look(group, now)
