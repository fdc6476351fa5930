"""What processes have computed: the figure that a busy machine hurts least."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path


def seconds(pids: Iterable[int]) -> Counter[int]:
    """Seconds on a processor of each process, all its threads together (proc(5), schedstat: nanoseconds)."""
    found: Counter[int] = Counter()
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            for task in Path(f"/proc/{pid}/task").iterdir():
                found[pid] += int((task / "schedstat").read_text().split()[0]) / 1e9
    return found
