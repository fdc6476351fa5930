"""Control's half of a deploy as it runs: API, store, blobs, build workers with a real runner; the test plays the shard."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from hearth.api.functions import FunctionServices, functions_router
from hearth.api.logs import logs_router
from hearth.api.versions import versions_router
from hearth.app.builds import BuildWorkers, Workshop
from hearth.app.deploy import Deploys
from hearth.app.feed import BuildFeed
from hearth.app.functions import FunctionViews
from hearth.app.logs import LogViews
from hearth.app.traffic import Traffic
from hearth.blobs.local import LocalBlobs
from hearth.build.archive import unpack_upload
from hearth.build.discover import Places
from hearth.build.registries import read_registries
from hearth.build.runner import Runner
from hearth.build.toolchains import Toolchains
from hearth.core.function import FunctionConfig
from hearth.core.launch import BuildPlan, Probe, Toolchain
from hearth.core.settings import Settings
from hearth.telemetry.logreader import LogReader
from hearth.telemetry.logs import LogFiles
from tests.integration.api_server import Running, running
from tests.integration.build_driver import SubprocessDriver

YAML = "name: {name}\nruntime: node\n"
ENFORCED = Probe(
    "subprocess", True, frozenset({"memory", "cpu", "pids", "tmp", "network", "uids", "seccomp"})
)


class ShellRuntime:
    """`ports.runtime.Runtime` whose functions are built by their own ``build.sh``."""

    name = "node"

    def plan_build(self, source: Path, config: FunctionConfig, toolchain: Toolchain) -> BuildPlan:
        return BuildPlan('sh -e build.sh; cp -R . "$OUT/"', identity="shell-1")

    def slot(self, toolchain: Toolchain) -> Any:
        raise NotImplementedError

    def load(self, config: FunctionConfig, identity: dict[str, str]) -> dict[str, Any]:
        raise NotImplementedError


def archive(name: str = "hello", build: str = "echo built", **files: str) -> bytes:
    out = io.BytesIO()
    contents = {"function.yaml": YAML.format(name=name), "build.sh": build} | {
        key.replace("__", "."): text for key, text in files.items()
    }
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for path, text in contents.items():
            info = tarfile.TarInfo(path)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def fake_system(folder: Path) -> Path:
    """A /usr with a Node 20 and its npm, which say their versions and do no more."""
    (folder / "bin").mkdir(parents=True)
    for name, said in (("node", "v20.20.2"), ("npm", "10.0.0")):
        (folder / "bin" / name).write_text(f"#!/bin/sh\necho {said}\n")
        (folder / "bin" / name).chmod(0o755)
    return folder


@dataclass
class Platform:
    api: Running
    blobs: LocalBlobs
    driver: SubprocessDriver
    logs: LogFiles
    workshop: Workshop
    feed: BuildFeed
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def deploy(
        self, headers: dict[str, str], data: bytes, name: str = "hello", kind: str = "application/gzip"
    ) -> httpx.Response:
        return await self.api.client.post(
            f"/api/v1/functions/jo-fn/{name}/versions", content=data, headers=headers | {"content-type": kind}
        )

    async def prove(self) -> None:
        """What a shard does with a built version."""
        while (job := await self.api.store.claim_proof("own_shard", 30)) is None:
            await asyncio.sleep(0.01)
        await self.api.store.publish(job.version.id, job.lease.token, "build.sh")

    @contextmanager
    def workers(self, count: int = 2) -> Iterator[asyncio.Task[None]]:
        self.stopping = asyncio.Event()
        task = asyncio.create_task(BuildWorkers(self.workshop, self.api.bus, count).run(self.stopping))
        try:
            yield task
        finally:
            self.stopping.set()

    async def settled(self, function_id: str, number: int, *states: str) -> Any:
        """The version, once it is in one of these states."""
        while True:
            row = await self.api.store.find_version(function_id, number)
            assert row is not None
            if row.state.value in states:
                return row
            await asyncio.sleep(0.01)


@asynccontextmanager
async def platform(folder: Path, probe: Probe = ENFORCED, **settings: Any) -> AsyncIterator[Platform]:
    data = folder / "data"
    (data / "toolchains").mkdir(parents=True)
    blobs = LocalBlobs(data)
    usr = fake_system(folder / "usr")
    driver = SubprocessDriver(
        folder / "disks",
        {"source": data / "sources", "toolchain": data / "toolchains", "seed": data / "toolchains"},
    )
    registries = read_registries(
        {"GOPROXY": "off", "GOSUMDB": "off", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    )
    registries = replace(registries, endpoints=())
    toolchains = Toolchains(
        data / "toolchains", registries, Path("/nonexistent/uv"), Places(usr, usr / "x", usr, "3.11.0")
    )
    async with running() as api:
        runner = Runner(
            driver=driver,
            owner="own_control",
            ids=api.ids,
            blobs=blobs,
            toolchains=toolchains,
            registries=registries,
            folder=data / "toolchains",
            seeds={},
        )
        logs, feed = LogFiles(data / "logs", "own_control", pause=0.001), BuildFeed(api.bus)
        reader = LogReader(data / "logs")
        workshop = Workshop(
            store=api.store,
            blobs=blobs,
            toolchains=toolchains,
            runner=runner,
            runtimes={"node": ShellRuntime()},
            logs=logs,
            feed=feed,
            clock=api.clock,
            ids=api.ids,
            owner="own_control",
            driver="subprocess",
        )
        chosen = Settings(data_dir=data, public_url="http://127.0.0.1:8080", **settings)
        services = FunctionServices(
            settings=chosen,
            store=api.store,
            views=FunctionViews(api.store),
            deploys=Deploys(
                store=api.store,
                blobs=blobs,
                unpack=unpack_upload,
                ids=api.ids,
                probe=probe,
                allow_unenforced=chosen.allow_unenforced,
            ),
            feed=feed,
            logs=reader,
            probe=probe,
        )
        api.app.include_router(functions_router(services))
        traffic = Traffic(
            api.store,
            services.views,
            api.ids,
            whole=lambda row: row.artifact is not None and blobs.exists("artifact", row.artifact),
            has_source=lambda row: blobs.exists("source", row.source),
        )
        api.app.include_router(versions_router(traffic))
        api.app.include_router(logs_router(LogViews(services.views, api.store, reader)))
        try:
            yield Platform(api, blobs, driver, logs, workshop, feed)
        finally:
            logs.close()
