"""What a container uses, as the daemon tells it (Engine API, ``GET /containers/{id}/stats``)."""

from __future__ import annotations

from typing import Any

from hearth.core.launch import Usage


def usage_of(stats: dict[str, Any], before: Usage) -> Usage:
    """Args:
    stats: the daemon's answer; what it can't tell is missing in it.
    before: what was seen last: on control groups v2 the daemon knows no peak, so it is the most that was seen.
    """
    memory = stats.get("memory_stats") or {}
    now = int(memory.get("usage") or 0)
    peak = max(now, int(memory.get("max_usage") or 0), before.memory_peak)
    cpu = int(((stats.get("cpu_stats") or {}).get("cpu_usage") or {}).get("total_usage") or 0)
    pids = int((stats.get("pids_stats") or {}).get("current") or 0)
    return Usage(now, peak, max(cpu / 1e9, before.cpu_seconds), pids)
