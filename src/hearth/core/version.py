"""The life of a version, as a table of the moves that are allowed."""

from __future__ import annotations

from enum import StrEnum


class VersionState(StrEnum):
    """Where a version stands.

    PENDING: source stored, waits for a build. BUILDING: a control process holds its lease. BUILT: its
    artifact exists, waits for a shard to prove that it loads. PROVING: a shard holds its lease.
    READY: it loaded once; aliases may point to it. FAILED: it never will; `failure` says why.
    """

    PENDING = "pending"
    BUILDING = "building"
    BUILT = "built"
    PROVING = "proving"
    READY = "ready"
    FAILED = "failed"


MOVES: dict[VersionState, frozenset[VersionState]] = {
    VersionState.PENDING: frozenset({VersionState.BUILDING, VersionState.FAILED}),
    VersionState.BUILDING: frozenset({VersionState.BUILT, VersionState.PENDING, VersionState.FAILED}),
    VersionState.BUILT: frozenset({VersionState.PROVING, VersionState.PENDING, VersionState.FAILED}),
    VersionState.PROVING: frozenset({VersionState.READY, VersionState.BUILT, VersionState.FAILED}),
    VersionState.READY: frozenset({VersionState.PENDING}),  # built again when its toolchain is gone
    VersionState.FAILED: frozenset(),
}


def may_move(before: VersionState, after: VersionState) -> bool:
    """Whether a version may go from one state to the other."""
    return after in MOVES[before]
