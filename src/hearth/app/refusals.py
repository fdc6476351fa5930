"""Tells functions' logs what their instances were refused on the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Network

from hearth.app.slot import Slot
from hearth.app.story import Story
from hearth.core.errors import KeeperUnavailable
from hearth.core.refusals import Refusal, in_words
from hearth.ports.clock import Clock
from hearth.ports.egress import TellsRefusals

PAUSE = 1.0  # seconds until a keeper that has gone is asked again


class RefusalLog:
    """Writes a line for each refusal of an instance of this process.

    Args:
        source: the keeper, which tells of this process's sandboxes only.
        find: the slot that is this sandbox, or None.
        story: writes the lines.
        private_networks: CIDRs that the operator lets functions reach.
        clock: pauses.
    """

    def __init__(
        self,
        source: TellsRefusals,
        find: Callable[[str], Slot | None],
        story: Story,
        private_networks: Iterable[str],
        clock: Clock,
    ) -> None:
        self._source = source
        self._find = find
        self._story = story
        self._private = tuple(IPv4Network(network) for network in private_networks)
        self._clock = clock

    def tell(self, refusal: Refusal) -> None:
        """Write its line; nothing for a sandbox that is no function's (any more)."""
        slot = self._find(refusal.sandbox)
        if slot is None or slot.version is None:
            return
        text = in_words(refusal, slot.version.config.network == "internet", self._private)
        self._story.refused(slot.version, slot.id, text)

    async def run(self) -> None:
        """Wait for refusals until cancelled."""
        while True:
            try:
                self.tell(await self._source.refusal())
            except KeeperUnavailable:
                await self._clock.sleep(PAUSE)
