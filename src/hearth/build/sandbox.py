"""One build sandbox from its start to its end, and what its end means."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from hearth.build.buildlog import BuildLog, advice, find_place, last_words
from hearth.build.pipes import Output, follow
from hearth.core import limits
from hearth.core.errors import BuildFailed, HearthError, PlatformError
from hearth.core.launch import Disk, Exit, Limits, Mount, Network, SandboxSpec
from hearth.ports.driver import Driver

SOURCE, DISK = "/src", "/build"
WORK = f"{DISK}/work"
START_TIMEOUT = 60.0  # seconds, a fresh disk included
OPEN_FILES = 4096
_SET_UP_FAILED = 97

# The previous build's work goes first: read-only folders (Go's module cache makes such) and all. The plan's script has no
# hold of descriptor 3, so nothing but tar writes there; what it leaves running may still change the output, which is
# read as hostile either way. No hard links: uv and npm make them, and an artifact has none.
WRAPPER = r"""
exec 3>&1 1>&2
umask 022
cd "$DISK" || exit 97
chmod -R u+rwX work out tmp home 2>/dev/null
rm -rf work out tmp home && mkdir work out tmp home && mkdir -p cache || exit 97
if [ -n "${HEARTH_NPMRC-}" ]; then (umask 077 && printf '%s' "$HEARTH_NPMRC" > home/.npmrc) || exit 97; fi
unset HEARTH_NPMRC
if [ -n "$SRC" ]; then cp -R "$SRC/." work/ && chmod -R u+w work || exit 97; fi
cd work || exit 97
/bin/sh -e -c "$1" build 3>&- </dev/null || exit $?
cd / || exit 97
exec tar -C "$OUT" --hard-dereference --format=gnu --sort=name -cf - . >&3 3>&-
"""


@dataclass(frozen=True, slots=True)
class BuildLimits:
    """What one build may use: seconds, and what its sandbox may."""

    timeout: float = limits.BUILD_TIMEOUT
    memory: int = limits.BUILD_MEMORY
    disk: int = limits.BUILD_DISK
    cpu: float = limits.BUILD_CPU
    pids: int = limits.BUILD_PIDS


@dataclass(slots=True)
class Ended:
    exit: Exit
    log: BuildLog
    timed_out: bool
    read: int  # bytes of output
    output_error: HearthError | None


def build_spec(
    *,
    sandbox: str,
    owner: str,
    script: str,
    env: dict[str, str],
    path: list[str],
    mounts: list[Mount],
    disk: str,
    may: BuildLimits,
    network: Network,
    source: str = "",
    language: str = "",
) -> SandboxSpec:
    """A build as a sandbox.

    Args:
        script: the plan's.
        env: on top of what every build has; can't change where the work is.
        path: folders before the system's on PATH.
        mounts: of two with one target the last one counts.
        disk: its name.
        source: digest; empty where there is none.
        language: in whose image it runs, where the driver has such.
    """
    if source:
        mounts = [Mount("source", source, SOURCE), *mounts]
    environment = {
        "PATH": ":".join(dict.fromkeys([*path, "/usr/local/bin", "/usr/bin", "/bin"])),
        "LANG": "C.UTF-8",
        "HOME": f"{DISK}/home",
        "TMPDIR": f"{DISK}/tmp",
        "CI": "true",
        **env,
        "SRC": SOURCE if source else "",
        "DISK": DISK,
        "OUT": f"{DISK}/out",
        "CACHE": f"{DISK}/cache",
    }
    return SandboxSpec(
        id=sandbox,
        owner=owner,
        argv=("/bin/sh", "-c", WRAPPER, "build", script),
        env=tuple(environment.items()),
        mounts=tuple({mount.target: mount for mount in mounts}.values()),
        limits=Limits(memory=may.memory, cpu=may.cpu, pids=may.pids, open_files=OPEN_FILES),
        network=network,
        networked=network.mode != "none",
        guest=False,
        disk=Disk(disk, may.disk, DISK),
        language=language,
    )


async def run_to_end(driver: Driver, spec: SandboxSpec, staged: Path, log: BuildLog, timeout: float) -> Ended:
    """Run one sandbox to its end; always stopped, its output read to the end or refused."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    handle = await driver.start(spec, loop.time() + START_TIMEOUT)
    pending: list[asyncio.Future[None]] = []
    timed_out = False
    try:
        stdout, stderr = driver.output(handle)
        output = Output(stdout)
        pending = [
            asyncio.ensure_future(asyncio.to_thread(output.unpack, staged)),
            asyncio.ensure_future(follow(stderr, log.feed)),
        ]
        try:
            async with asyncio.timeout_at(deadline):
                ended = await driver.wait(handle)
                # pid 1 of the sandbox is gone, so both pipes are at their end. Not gather: it would cancel them.
                await asyncio.wait(pending)
        except TimeoutError:
            timed_out = True
    finally:
        try:
            stopped = await driver.stop(handle, 0.0)
        finally:  # nobody holds the other ends any more
            if pending:
                await asyncio.wait(pending)
    for reader in pending:
        reader.result()
    log.close()
    return Ended(stopped if timed_out else ended, log, timed_out, output.read, output.error)


def judge(ended: Ended, may: BuildLimits) -> None:
    """Raise BuildFailed or PlatformError for a build that didn't end well."""
    tail = ended.log.tail
    place = find_place(tail, WORK)
    details: dict[str, object] = {"tail": tail}
    if place is not None:
        details |= {"file": place[0], "line": place[1]}
    code, size = ended.exit.code, limits.format_size

    def failed(reason: str, message: str, hint: str | None) -> BuildFailed:
        return BuildFailed(message, hint=hint, details={**details, "reason": reason})

    if ended.timed_out:
        raise failed("timeout", f"the build took longer than {may.timeout:g} s", "do less in the build")
    if ended.exit.oom and code != 0:
        raise failed("oom", f"the build ran out of memory ({size(may.memory)})", "do less at once")
    if code != 0 and ended.log.disk_full:
        raise failed("disk", f"the build's disk is full ({size(may.disk)})", "leave out what isn't needed")
    if code == _SET_UP_FAILED and not ended.read:
        raise PlatformError(f"the build's disk could not be set up: {last_words(tail)}")
    if isinstance(ended.output_error, PlatformError):
        raise ended.output_error
    if ended.output_error is not None and (code == 0 or ended.read):
        error = ended.output_error
        raise failed("output", f"the build's output was refused: {error.message}", error.hint)
    if code is None:
        raise failed("exit", f"the build was ended by signal {ended.exit.signal}", "mend it and deploy again")
    if code != 0:
        said = last_words(tail)
        raise failed(
            "exit", f"the build failed with exit code {code}{f': {said}' if said else ''}", advice(tail)
        )
