"""What the store answers about versions that take traffic, and about what nobody needs any more.

Every method is one short transaction, or several short ones; all raise StoreUnavailable.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from hearth.core.records import VersionRow
from hearth.core.traffic import AliasRow, Share, VersionUse


class TrafficStore(Protocol):
    """Versions and aliases of a function."""

    async def version_uses(self, function_id: str, after: int | None, limit: int) -> list[VersionUse]:
        """Newest first, numbers below `after`."""
        ...

    async def version_use(self, function_id: str, number: int) -> VersionUse | None: ...

    async def aliases(self, function_id: str) -> list[AliasRow]:
        """By name."""
        ...

    async def point_alias(
        self, function_id: str, alias_id: str, name: str, shares: Sequence[Share], user_id: str
    ) -> AliasRow:
        """Send an alias's traffic there, in one step; it is made (with `alias_id`) when it is new. Event ``route``.

        Raises NotFound: the function, or one of the versions, is gone. Conflict: a version is not READY, or there are
        too many aliases.
        """
        ...

    async def remove_alias(self, function_id: str, name: str, user_id: str) -> None:
        """Event ``route``. Raises NotFound."""
        ...

    async def rebuild(self, version_id: str) -> None:
        """READY or BUILT → PENDING."""
        ...


class RetentionStore(Protocol):
    """What may go. Times are milliseconds since the epoch."""

    async def hold(self, name: str, owner: str, lease_s: float) -> bool:
        """Take or renew a piece of work that one process does at a time; False while another one has it."""
        ...

    async def let_go(self, name: str, owner: str) -> None:
        """End what `hold` began."""
        ...

    async def crowded(self, kept: int) -> list[str]:
        """Ids of functions with more than that many versions."""
        ...

    async def expendable_versions(self, function_id: str, kept: int) -> list[VersionRow]:
        """Versions that nobody needs now (`core.retention.expendable`)."""
        ...

    async def remove_versions(self, function_id: str, version_ids: Collection[str], kept: int) -> list[int]:
        """Remove those of these versions that still nobody needs; returns their numbers. An event ``route`` for each."""
        ...

    async def digests_in_use(self) -> tuple[set[str], set[str]]:
        """(sources, artifacts) that a version needs, or an instance, also one of a function that is deleted."""
        ...

    async def forget_builds(self, artifacts: Collection[str]) -> None:
        """No build is answered with these any more."""
        ...

    async def prune_invocations(self, before_ms: int, of_function: int, in_all: int) -> int:
        """Remove records that began earlier, and the oldest ones beyond these numbers; returns how many.

        What has not ended (``queued``, ``running``), and what waits for a person (``dead``), stays.
        """
        ...

    async def prune_events(self, before_ms: int, in_all: int) -> int:
        """The same for the outbox."""
        ...

    async def prune_processes(self, before_ms: int) -> int:
        """Rows of sandboxes and processes that ended earlier."""
        ...
