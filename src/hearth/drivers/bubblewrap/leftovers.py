"""What an earlier keeper of the same instance left when it was killed.

Its sandboxes die with it (--die-with-parent), its mounts with its mount namespace, its loop devices with their mounts; this is
the guarantee behind that courtesy. Whether a process is left is decided by control groups, never by lists of pids.
"""

from __future__ import annotations

import asyncio
import time

from hearth.core.errors import StartupFailed
from hearth.drivers.bubblewrap import cgroups
from hearth.drivers.bubblewrap.cgroups import Groups

_LIMIT, _RETRY = 20.0, 0.005  # seconds


async def remove_leftovers(groups: Groups) -> list[str]:
    """Kill everything in the instance's groups and remove them; returns the sandboxes' ids.

    Raises StartupFailed when something can't be killed or removed.
    """
    left = groups.existing()
    deadline = time.monotonic() + _LIMIT
    for name, group in left.items():
        while True:
            if group.pids():
                group.kill()
            elif cgroups.remove(group.directories):
                break
            if time.monotonic() > deadline:
                raise StartupFailed(
                    f"sandbox {name} of an earlier run can't be removed", hint="restart this machine"
                )
            await asyncio.sleep(_RETRY)
    return list(left)
