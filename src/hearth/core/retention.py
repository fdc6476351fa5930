"""Which versions of a function are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hearth.core.version import VersionState

_IN_WORK = frozenset({VersionState.PENDING, VersionState.BUILDING, VersionState.BUILT, VersionState.PROVING})


@dataclass(frozen=True, slots=True)
class Standing:
    """One version and who needs it.

    Args:
        aliased: some alias sends traffic to it.
        live: alias ``live`` does.
        running: an instance of it has not ended.
        replaced: number of the version that was live before it.
    """

    number: int
    state: VersionState
    aliased: bool = False
    live: bool = False
    running: bool = False
    replaced: int | None = None


def expendable(versions: Sequence[Standing], kept: int) -> list[int]:
    """The numbers of versions that nobody needs, oldest first.

    Kept are the newest `kept` ones whatever became of them, what an alias or an instance uses, what is being built or
    proven, and where ``hearth rollback`` goes by itself.
    """
    newest = {version.number for version in sorted(versions, key=lambda v: v.number)[-kept:]}
    live = [version for version in versions if version.live]
    back = max(live, key=lambda v: v.number).replaced if live else None
    return sorted(
        version.number
        for version in versions
        if not (
            version.number in newest
            or version.number == back
            or version.aliased
            or version.running
            or version.state in _IN_WORK
        )
    )
