"""Whether anything of an ordinary user's platform is alive: told by the kernel, where there is no control group to ask.

Every process of the platform inherits one open file with a lock on it (flock(2)), and the lock is there until the last
of them has ended, however that happens. Sandboxes needn't have it: they are below the keeper, in its process namespace.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from hearth.core.errors import StartupFailed

_PATIENCE = (
    15.0  # seconds for an earlier life to end: its processes are killed with it, its keeper tidies up first
)
_LOOK = 0.02


class Life:
    """Taken at the start of a platform; `fd` is for its processes.

    Args:
        data: the data directory, whose lock is held.

    Raises StartupFailed: something of an earlier life does not end.
    """

    def __init__(self, data: Path) -> None:
        path = data / "alive"
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        deadline = time.monotonic() + _PATIENCE
        while True:  # not a blocking flock: that has no end
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(self.fd)
                    raise StartupFailed(
                        f"processes of an earlier hearth on {data} don't end",
                        hint="end them: ps -u $USER -o pid,args | grep hearth.bootstrap",
                    ) from None
                time.sleep(_LOOK)

    def close(self) -> None:
        """Let go of it, as far as this process is concerned."""
        os.close(self.fd)
