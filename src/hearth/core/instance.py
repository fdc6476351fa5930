"""The life of an instance, as a table of the moves that are allowed."""

from __future__ import annotations

from enum import StrEnum


class InstanceState(StrEnum):
    """Where an instance stands.

    STARTING: its sandbox is being made or its code loaded. READY: it takes requests. RETIRING: it takes none any more;
    those in work go on. STOPPING: nothing is in work, its sandbox is being removed. GONE: nothing is left of it.
    """

    STARTING = "starting"
    READY = "ready"
    RETIRING = "retiring"
    STOPPING = "stopping"
    GONE = "gone"


MOVES: dict[InstanceState, frozenset[InstanceState]] = {
    InstanceState.STARTING: frozenset({InstanceState.READY, InstanceState.STOPPING}),
    InstanceState.READY: frozenset({InstanceState.RETIRING, InstanceState.STOPPING}),
    InstanceState.RETIRING: frozenset({InstanceState.STOPPING}),
    InstanceState.STOPPING: frozenset({InstanceState.GONE}),
    InstanceState.GONE: frozenset(),
}


def may_move(before: InstanceState, after: InstanceState) -> bool:
    """Whether an instance may go from one state to the other."""
    return after in MOVES[before]
