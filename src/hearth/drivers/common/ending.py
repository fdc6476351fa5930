"""How a sandbox ended, from a code as shells say it."""

from __future__ import annotations

import signal

from hearth.core.launch import Exit


def exit_of(code: int | None, oom_kills: int) -> Exit:
    """How a sandbox ended.

    Args:
        code: as the program around it told it, or None when it was killed first. Above 128 it is a signal, as shells say it; a
            program that exits with such a code itself can't be told from that.
        oom_kills: how many of its processes the kernel killed for memory.
    """
    oom = oom_kills > 0
    if code is None:
        return Exit(None, int(signal.SIGKILL), oom, "killed for memory" if oom else "killed")
    if 128 < code <= 128 + 64:
        return Exit(None, code - 128, oom, "killed for memory" if oom else "ended by a signal")
    return Exit(code, None, oom, "killed for memory in it" if oom else "")
