"""Builds run: one sandbox each, its log streamed, its output read as hostile."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hearth.build.buildlog import BuildLog, find_place, last_words
from hearth.build.pipes import Output, follow
from hearth.build.reach import keep_bundle, resolve
from hearth.build.registries import Registries
from hearth.build.toolchains import Toolchains, keep_folder
from hearth.core import limits
from hearth.core.errors import BuildFailed, HearthError, PlatformError
from hearth.core.launch import BuildPlan, Disk, Exit, Limits, Mount, Network, SandboxSpec, Toolchain
from hearth.ports.blobs import Blobs
from hearth.ports.builder import BuildOrder, Log
from hearth.ports.clock import Ids
from hearth.ports.driver import Driver

SOURCE, DISK = "/src", "/build"
WORK = f"{DISK}/work"
START_TIMEOUT = 60.0
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

SeedPlan = Callable[[Toolchain], BuildPlan]


@dataclass(frozen=True, slots=True)
class BuildLimits:
    """What one build may use: seconds, and what its sandbox may."""

    timeout: float = limits.BUILD_TIMEOUT
    memory: int = limits.BUILD_MEMORY
    disk: int = limits.BUILD_DISK
    cpu: float = limits.BUILD_CPU
    pids: int = limits.BUILD_PIDS


@dataclass(slots=True)
class _Ended:
    exit: Exit
    log: BuildLog
    timed_out: bool
    read: int  # bytes of output
    output_error: HearthError | None


class Runner:
    """`ports.builder.BuildRunner`.

    Args:
        driver: makes the sandboxes.
        owner: ``own_…`` of this process.
        ids: for sandboxes of seeds.
        blobs: where sources are and artifacts go.
        toolchains: of this node.
        registries: what builds are told of package indexes.
        folder: ``toolchains/`` of the data directory, where seeds and certificates are kept too.
        seeds: by runtime, the plan that makes a toolchain's read-only cache (such as Go's standard
            library, compiled) in ``$OUT``. It is made when a plan first mounts a seed.
        may: limits of a build.
        networked: this machine can hold `internet`; without it builds have no network.
    """

    def __init__(
        self,
        *,
        driver: Driver,
        owner: str,
        ids: Ids,
        blobs: Blobs,
        toolchains: Toolchains,
        registries: Registries,
        folder: Path,
        seeds: Mapping[str, SeedPlan],
        may: BuildLimits | None = None,
        networked: bool = True,
    ) -> None:
        self._driver = driver
        self._owner = owner
        self._ids = ids
        self._blobs = blobs
        self._toolchains = toolchains
        self._registries = registries
        self._folder = folder
        self._seeds = seeds
        self._may = may or BuildLimits()
        self._networked = networked
        self._seeding = asyncio.Lock()

    async def run(self, order: BuildOrder, log: Log) -> str:
        """See `ports.builder.BuildRunner.run`."""
        for mount in order.plan.mounts:
            if mount.kind == "seed":
                await self._seed(mount, order.toolchain, log)
        spec = await self._spec(order)
        staged = self._blobs.staging()
        try:
            ended = await self._sandbox(spec, staged, log)
            self._judge(ended)
            return await self._blobs.adopt("artifact", staged)
        finally:
            await asyncio.to_thread(shutil.rmtree, staged, ignore_errors=True)

    async def _spec(self, order: BuildOrder) -> SandboxSpec:
        mounts = [Mount("source", order.source, SOURCE), *order.plan.mounts]
        if order.toolchain.mount is not None:
            mounts.append(order.toolchain.mount)
        path = [str(Path(order.toolchain.bin).parent)]
        if order.toolchain.runtime == "python":
            uv = await self._toolchains.uv_mount()
            mounts.append(uv)
            path.append(uv.target)
        mounts.extend(self._registries.mounts)
        if self._registries.bundle is not None:
            mounts.append(await asyncio.to_thread(keep_bundle, self._registries.bundle, self._folder))
        network = Network()
        if self._networked:
            allow, hosts = await resolve(self._registries.endpoints)
            network = Network("internet", allow, hosts)
        env = {
            "PATH": ":".join(dict.fromkeys([*path, "/usr/local/bin", "/usr/bin", "/bin"])),
            "LANG": "C.UTF-8",
            "HOME": f"{DISK}/home",
            "TMPDIR": f"{DISK}/tmp",
            "CI": "true",
            **dict(order.plan.env),
            **dict(self._registries.env),
            "SRC": SOURCE,
            "DISK": DISK,
            "OUT": f"{DISK}/out",
            "CACHE": f"{DISK}/cache",
        }
        if self._registries.npmrc:
            env["HEARTH_NPMRC"] = self._registries.npmrc
        return SandboxSpec(
            id=order.sandbox,
            owner=self._owner,
            argv=("/bin/sh", "-c", WRAPPER, "build", order.plan.script),
            env=tuple(env.items()),
            mounts=tuple({mount.target: mount for mount in mounts}.values()),
            limits=Limits(memory=self._may.memory, cpu=self._may.cpu, pids=self._may.pids, open_files=4096),
            network=network,
            networked=network.mode != "none",
            guest=False,
            disk=Disk(order.disk, self._may.disk, DISK),
        )

    async def _seed(self, mount: Mount, toolchain: Toolchain, log: Log) -> None:
        """Make a toolchain's read-only cache, once per node."""
        place = self._folder / mount.name
        async with self._seeding:
            if place.is_dir():
                return
            make = self._seeds.get(toolchain.runtime)
            if make is None:
                raise PlatformError(f"nobody knows how to make {mount.name}")
            log(f"preparing {toolchain.runtime} {toolchain.version} (once, half a minute or so)")
            plan = make(toolchain)
            spec = SandboxSpec(
                id=self._ids.new("sandbox"),
                owner=self._owner,
                argv=("/bin/sh", "-c", WRAPPER, "build", plan.script),
                env=(
                    ("PATH", f"{Path(toolchain.bin).parent}:/usr/bin:/bin"),
                    ("LANG", "C.UTF-8"),
                    ("HOME", f"{DISK}/home"),
                    ("TMPDIR", f"{DISK}/tmp"),
                    ("SRC", ""),
                    ("DISK", DISK),
                    ("OUT", f"{DISK}/out"),
                    ("CACHE", f"{DISK}/cache"),
                    *plan.env,
                ),
                mounts=plan.mounts,
                limits=Limits(
                    memory=self._may.memory, cpu=self._may.cpu, pids=self._may.pids, open_files=4096
                ),
                guest=False,
                disk=Disk(f"seed-{toolchain.runtime}", self._may.disk, DISK),
            )
            staged = self._blobs.staging()
            try:
                ended = await self._sandbox(spec, staged, log)
                try:
                    self._judge(ended)
                except BuildFailed as error:  # no function's fault
                    raise PlatformError(
                        f"{mount.name} could not be made: {error.message}", details=error.details
                    ) from error
                await asyncio.to_thread(keep_folder, staged, place)
            finally:
                await asyncio.to_thread(shutil.rmtree, staged, ignore_errors=True)

    async def _sandbox(self, spec: SandboxSpec, staged: Path, log: Log) -> _Ended:
        """Run one sandbox to its end; always stopped, its output read to the end or refused."""
        loop = asyncio.get_running_loop()
        lines = BuildLog(log, self._registries.scrub)
        deadline = loop.time() + self._may.timeout
        handle = await self._driver.start(spec, loop.time() + START_TIMEOUT)
        pending: list[asyncio.Future[None]] = []
        timed_out = False
        try:
            stdout, stderr = self._driver.output(handle)
            output = Output(stdout)
            pending = [
                asyncio.ensure_future(asyncio.to_thread(output.unpack, staged)),
                asyncio.ensure_future(follow(stderr, lines.feed)),
            ]
            try:
                async with asyncio.timeout_at(deadline):
                    ended = await self._driver.wait(handle)
                    # pid 1 of the sandbox is gone, so both pipes are at their end
                    await asyncio.gather(*pending)
            except TimeoutError:
                timed_out = True
        finally:
            try:
                stopped = await self._driver.stop(handle, 0.0)
            finally:  # nobody holds the other ends any more
                await asyncio.gather(*pending)
        lines.close()
        return _Ended(stopped if timed_out else ended, lines, timed_out, output.read, output.error)

    def _judge(self, ended: _Ended) -> None:
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
            raise failed(
                "timeout", f"the build took longer than {self._may.timeout:g} s", "do less in the build"
            )
        if ended.exit.oom:
            raise failed("oom", f"the build ran out of memory ({size(self._may.memory)})", "do less at once")
        if code != 0 and ended.log.disk_full:
            raise failed(
                "disk", f"the build's disk is full ({size(self._may.disk)})", "leave out what isn't needed"
            )
        if code == _SET_UP_FAILED and not ended.read:
            raise PlatformError(f"the build's disk could not be set up: {last_words(tail)}")
        if isinstance(ended.output_error, PlatformError):
            raise ended.output_error
        if ended.output_error is not None and (code == 0 or ended.read):
            error = ended.output_error
            raise failed("output", f"the build's output was refused: {error.message}", error.hint)
        if code is None:
            raise failed("exit", f"the build was ended by signal {ended.exit.signal}", None)
        if code != 0:
            said = last_words(tail)
            raise failed("exit", f"the build failed with exit code {code}{f': {said}' if said else ''}", None)
