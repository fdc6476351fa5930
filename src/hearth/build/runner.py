"""Builds run: one sandbox each, its log streamed, its output read as hostile."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from hearth.build.buildlog import BuildLog
from hearth.build.reach import keep_bundle, resolve
from hearth.build.registries import Registries
from hearth.build.sandbox import BuildLimits, build_spec, judge, run_to_end
from hearth.build.toolchains import Toolchains, keep_folder
from hearth.core import limits
from hearth.core.errors import BuildFailed, PlatformError
from hearth.core.launch import BuildPlan, Mount, Network, SandboxSpec, Toolchain
from hearth.ports.blobs import Blobs
from hearth.ports.builder import BuildOrder, Log
from hearth.ports.clock import Ids
from hearth.ports.driver import Driver

SeedPlan = Callable[[Toolchain], BuildPlan]


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
            await self._sandbox(spec, staged, log, self._may)
            return await self._blobs.adopt("artifact", staged)
        finally:
            await asyncio.to_thread(shutil.rmtree, staged, ignore_errors=True)

    async def _sandbox(self, spec: SandboxSpec, staged: Path, log: Log, may: BuildLimits) -> None:
        lines = BuildLog(log, self._registries.scrub)
        judge(await run_to_end(self._driver, spec, staged, lines, may.timeout), may)

    async def _spec(self, order: BuildOrder) -> SandboxSpec:
        mounts = list(order.plan.mounts)
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
        env = {**dict(order.plan.env), **dict(self._registries.env)}
        if self._registries.npmrc:
            env["HEARTH_NPMRC"] = self._registries.npmrc
        return build_spec(
            sandbox=order.sandbox,
            owner=self._owner,
            script=order.plan.script,
            env=env,
            path=path,
            mounts=mounts,
            disk=order.disk,
            may=self._may,
            network=network,
            source=order.source,
            language=order.toolchain.runtime,
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
            log(f"preparing {toolchain.runtime} {toolchain.version} (once; a minute or two)")
            plan = make(toolchain)
            # Nobody's code runs in it, so a slow machine may take its time: cut off, no deploy would ever get past it.
            may = replace(self._may, timeout=limits.SEED_TIMEOUT)
            spec = build_spec(
                sandbox=self._ids.new("sandbox"),
                owner=self._owner,
                script=plan.script,
                env=dict(plan.env),
                path=[str(Path(toolchain.bin).parent)],
                mounts=list(plan.mounts),
                disk=f"seed-{toolchain.runtime}",
                may=may,
                network=Network(),
                language=toolchain.runtime,
            )
            staged = self._blobs.staging()
            try:
                await self._sandbox(spec, staged, log, may)
                await asyncio.to_thread(keep_folder, staged, place)
            except BuildFailed as error:  # no function's fault
                raise PlatformError(
                    f"{mount.name} could not be made: {error.message}", details=error.details
                ) from error
            finally:
                await asyncio.to_thread(shutil.rmtree, staged, ignore_errors=True)
