"""What a sandbox prints on its descriptors 1 and 2, as lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class OutputReader(Protocol):
    def watch(
        self,
        stdout: int,
        stderr: int,
        on_line: Callable[[str, str], None],
        on_dropped: Callable[[str, int], None],
    ) -> Callable[[], None]:
        """Read both descriptors (non-blocking, taken over) on the event loop until they end.

        What comes faster than the reader's credit is read, dropped and counted, so that nobody blocks on a full
        pipe. Lines are cut at 64 KiB, bytes that are no UTF-8 replaced.

        Args:
            stdout: read end of the sandbox's descriptor 1.
            stderr: read end of its descriptor 2.
            on_line: called with (``stdout`` or ``stderr``, text without its newline).
            on_dropped: called with (``stdout`` or ``stderr``, bytes) once a second while some are, and at the end.

        Returns:
            what closes both; reads what is still there first. Idempotent.
        """
        ...
