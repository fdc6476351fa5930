"""A shell that outlives a killed keeper for a moment and ends what bubblewrap leaves running.

--die-with-parent has two gaps. A bubblewrap that is starting when the keeper dies notices nothing; and one that is killed between
its clone and the word to its child that its uids are mapped leaves that child waiting for the word for ever (seen with
0.8.0: read(2) on an eventfd that only it holds). The next keeper empties the groups, but there may be none: when the supervisor is
killed too. So this shell waits, in a group of its own, for the end of a pipe that only the keeper has, and then kills
whatever is in the instance's groups until they have stayed empty for a while. The next keeper ends it like all that is left.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time

from hearth.core.launch import Limits
from hearth.drivers.bubblewrap import cgroups
from hearth.drivers.bubblewrap.cgroups import Group, Groups

NAME = "guard"  # of its group, beside those of the sandboxes
_LIMITS = Limits(memory=32 << 20, cpu=1.0, pids=8)
_PATIENCE = 2.0  # seconds for the kernel to let go of its group

# $1: how many files to join by; those; then the groups' parents. Half a second of emptiness: a start takes some ten
# milliseconds from its first process to its group.
_SCRIPT = """
count=$1; shift
while [ "$count" -gt 0 ]; do echo 0 > "$1" || exit 125; shift; count=$((count - 1)); done
echo ready
exec > /dev/null 2>&1
read -r _
empty=0
while [ "$empty" -lt 25 ]; do
  empty=$((empty + 1))
  for parent in "$@"; do
    for file in "$parent"/*/cgroup.procs; do
      [ "$file" = "$parent/guard/cgroup.procs" ] && continue
      while read -r pid; do kill -KILL "$pid" && empty=0; done < "$file"
    done
  done
  sleep 0.02
done
"""


class Guard:
    """Started by `start`; `close` ends it when the keeper leaves in good order."""

    def __init__(self, process: subprocess.Popen[bytes], group: Group) -> None:
        self._process = process
        self._group = group

    def close(self) -> None:
        """End it. Call when no sandbox is left. Idempotent."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        deadline = time.monotonic() + _PATIENCE
        while not cgroups.remove(self._group.directories) and time.monotonic() < deadline:
            cgroups.kill_each(self._group.directories)  # the shell's `sleep`, if it was at work
            time.sleep(0.002)  # at the very end: there is nothing else to do


async def start(groups: Groups, shell: str) -> Guard:
    """Start it; returns when it watches. Raises OSError; then nothing is left."""
    group = groups.create(NAME, _LIMITS)
    try:
        process = _spawn(group, shell)
    except OSError:
        cgroups.remove(group.directories)
        raise
    guard = Guard(process, group)
    assert process.stdout is not None
    try:
        said = await asyncio.to_thread(os.read, process.stdout.fileno(), 16)
    except BaseException:
        guard.close()
        raise
    if said != b"ready\n":
        guard.close()
        raise OSError(f"the guard did not come up: exit code {process.returncode}")
    return guard


def _spawn(group: Group, shell: str) -> subprocess.Popen[bytes]:
    parents = dict.fromkeys(str(directory.parent) for directory in group.directories)
    return subprocess.Popen(
        [shell, "-c", _SCRIPT, NAME, str(len(group.joins)), *group.joins, *parents],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin"},
        cwd="/",
        start_new_session=True,
    )
