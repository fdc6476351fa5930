"""Control, wired: the management API, the build workers, retention, the bus."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uv
import uvicorn

import hearth
from hearth.api.app import create_app
from hearth.api.deps import ApiDeps
from hearth.api.functions import FunctionServices, functions_router
from hearth.api.logs import logs_router
from hearth.api.metrics import MetricsServices, metrics_router
from hearth.api.secrets import secrets_router
from hearth.api.streams import EndStreams
from hearth.api.versions import versions_router
from hearth.app.auth import Auth, RegistrationRule
from hearth.app.build_figures import BuildFigures
from hearth.app.builds import BuildWorkers, Workshop
from hearth.app.deploy import Deploys
from hearth.app.feed import BuildFeed
from hearth.app.functions import FunctionViews
from hearth.app.keys import Keys
from hearth.app.logs import LogSweeper, LogViews
from hearth.app.retention import Retention
from hearth.app.secrets import Secrets
from hearth.app.sessions import Sessions
from hearth.app.stats import StatsViews
from hearth.app.traffic import Traffic
from hearth.app.users import Users
from hearth.blobs.local import LocalBlobs
from hearth.bootstrap import child
from hearth.bootstrap.child import Context, RandomIds, SystemClock
from hearth.bootstrap.migrate import migrate_apart
from hearth.bootstrap.parts import log_bounds, open_store, runtimes, shown_database
from hearth.build.archive import unpack_upload
from hearth.build.registries import read_registries
from hearth.build.runner import Runner
from hearth.build.shelf import Shelf
from hearth.build.toolchains import Toolchains, places_of
from hearth.bus.local import BusServer
from hearth.core.launch import Probe
from hearth.core.metrics import Sample
from hearth.core.records import VersionRow
from hearth.drivers.remote import RemoteDriver
from hearth.runtimes.go import GoRuntime
from hearth.security.passwords import Argon2Passwords
from hearth.security.rootkey import read_root_key
from hearth.security.tokens import AccessTokens, TokenMint
from hearth.security.vault import LABEL, Vault
from hearth.security.verifier import CredentialVerifier
from hearth.store.store import Store
from hearth.telemetry.figures import FigureReader
from hearth.telemetry.keeping import LogKeeping
from hearth.telemetry.logreader import LogReader
from hearth.telemetry.logs import LogFiles
from hearth.telemetry.metrics import PrometheusPage

log = logging.getLogger(__name__)


async def _body(context: Context, ready: Callable[[dict[str, Any]], None], stopping: asyncio.Event) -> None:
    settings, clock, ids = context.settings, SystemClock(), RandomIds()
    os.lseek(context.fds["key"], 0, os.SEEK_SET)  # an earlier control has read it to the end
    root = read_root_key(context.fds.pop("key"))
    async with AsyncExitStack() as stack:
        bus = BusServer(context.bus_socket)
        await bus.start()
        stack.push_async_callback(bus.close)
        store = await open_store(settings, durable=True, publish=bus.publish, migrator=migrate_apart)
        stack.push_async_callback(store.close)
        await store.check_root_key(root.fingerprint())
        first = context.run_dir / "control" / "first"  # goes with the run directory: once per `hearth up`
        if not first.exists():
            await store.clear_owners(context.instance)
            first.touch()
        await child.begin(store, context, "control")
        driver = RemoteDriver(context.keeper_socket, context.owner)
        stack.callback(driver.close)
        probe = await driver.probe()
        bounds = log_bounds(settings)
        logs = LogFiles(settings.data_dir / "logs", context.owner, bounds)
        stack.callback(logs.close)
        passwords = Argon2Passwords()
        stack.callback(passwords.close)
        verifier = CredentialVerifier(store, AccessTokens([root.token_public_key()]), clock, bus)
        await verifier.start()
        stack.push_async_callback(verifier.close)
        blobs = LocalBlobs(settings.data_dir)
        stack.callback(blobs.close)
        feed = BuildFeed(bus)
        mint = TokenMint(root)
        deps = ApiDeps(
            settings=settings,
            version=hearth.__version__,
            auth=Auth(
                store,
                passwords,
                mint,
                clock,
                ids,
                RegistrationRule(settings.registration == "open", context.extra["setup_token"]),
            ),
            keys=Keys(store, store, mint, clock, ids),
            sessions=Sessions(store),
            users=Users(store, passwords, ids),
            identifier=verifier,
            functions=store,
            clock=clock,
        )
        services = FunctionServices(
            settings=settings,
            store=store,
            views=FunctionViews(store),
            deploys=Deploys(
                store=store,
                blobs=blobs,
                unpack=unpack_upload,
                ids=ids,
                probe=probe,
                allow_unenforced=settings.allow_unenforced,
                private_networks=settings.private_networks,
            ),
            feed=feed,
            logs=LogReader(settings.data_dir / "logs"),
            probe=probe,
        )
        workshop = _workshop(context, store, driver, probe, blobs, logs, feed)
        builders = BuildWorkers(workshop, bus, settings.build_workers)
        secrets = Secrets(store, Vault([root.derive(LABEL)]), ids)
        app = create_app(
            deps,
            [
                functions_router(services),
                versions_router(_traffic(context, probe, store, services.views, blobs)),
                logs_router(LogViews(services.views, store, services.logs)),
                secrets_router(secrets),
                metrics_router(_metrics(context, workshop.figures, services.views)),
            ],
        )
        server = _server(context, EndStreams(app, stopping))
        tasks = [
            asyncio.create_task(server.serve(), name="api"),
            asyncio.create_task(builders.run(stopping), name="builds"),
            asyncio.create_task(Retention(store, blobs, clock, bus, context.owner).run(), name="retention"),
            asyncio.create_task(
                LogSweeper(store, LogKeeping(settings.data_dir / "logs", bounds), clock).run(),
                name="log sweeper",
            ),
            asyncio.create_task(child.heartbeat(store, context.owner), name="heartbeat"),
            asyncio.create_task(stopping.wait(), name="stopping"),
        ]
        up = asyncio.create_task(server.up.wait())
        await asyncio.wait((up, tasks[0]), return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        staged = _staged(context)
        staged.chmod(0o600)
        staged.rename(
            context.api_socket
        )  # from now on shards come to us, and no longer to a control before us
        ready({"first_user": await store.count_users() == 0, "database": shown_database(settings)})
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.is_set():  # something of ours has failed: a successor takes over while we drain
            ready({"draining": True})
        server.should_exit = True
        stopping.set()
        await bus.close()  # the other processes come to our successor's
        left = await child.unless_hurried(context, asyncio.wait(tasks[:2], timeout=settings.drain_grace))
        server.force_exit = left is None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await child.end(store, context.owner)
        for task in done:
            if not task.cancelled() and task.exception() is not None:
                raise RuntimeError(f"{task.get_name()} failed") from task.exception()


def _metrics(context: Context, builds: BuildFigures, views: FunctionViews) -> MetricsServices:
    def tell(functions: AbstractSet[str] | None) -> Iterator[Sample]:
        if functions is None:
            yield Sample("hearth_build_info", (hearth.__version__,), 1)
            yield from builds.samples()

    reader = FigureReader(context.figures_dir, context.name, child.with_process(tell))
    return MetricsServices(PrometheusPage(reader), StatsViews(views, reader))


def _traffic(
    context: Context, probe: Probe, store: Store, views: FunctionViews, blobs: LocalBlobs
) -> Traffic:
    shelf = Shelf(context.settings.data_dir / "toolchains", places_of(probe))

    def whole(version: VersionRow) -> bool:
        built = version.artifact is not None and blobs.exists("artifact", version.artifact)
        return built and shelf.get(version.toolchain or "") is not None

    return Traffic(
        store,
        views,
        RandomIds(),
        whole=whole,
        has_source=lambda version: blobs.exists("source", version.source),
    )


def _workshop(
    context: Context,
    store: Store,
    driver: RemoteDriver,
    probe: Probe,
    blobs: LocalBlobs,
    logs: LogFiles,
    feed: BuildFeed,
) -> Workshop:
    settings, ids = context.settings, RandomIds()
    registries = read_registries(
        dict(settings.registry_env), context.extra["pip_conf"], context.extra["npmrc"]
    )
    folder = settings.data_dir / "toolchains"
    toolchains = Toolchains(folder, registries, Path(uv.find_uv_bin()), places_of(probe))
    go = GoRuntime()
    runner = Runner(
        driver=driver,
        owner=context.owner,
        ids=ids,
        blobs=blobs,
        toolchains=toolchains,
        registries=registries,
        folder=folder,
        seeds={"go": go.seed_plan},
        networked="network" in probe.enforces or probe.driver == "process",
    )
    languages = runtimes()
    return Workshop(
        store=store,
        blobs=blobs,
        toolchains=toolchains,
        runner=runner,
        runtimes=languages,
        logs=logs,
        feed=feed,
        clock=SystemClock(),
        ids=ids,
        owner=context.owner,
        driver=probe.driver,
        figures=BuildFigures(tuple(languages)),
    )


class _Server(uvicorn.Server):
    """Uvicorn that tells when it listens, and leaves signals to the process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(context: Context, app: Any) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            uds=str(_staged(context)),
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=int(context.settings.drain_grace),
        )
    )


def _staged(context: Context) -> Path:
    """Where the API's socket is bound, before it takes the place of one that may be in use."""
    return context.api_socket.with_name(f"api-{os.getpid()}.sock")


def main() -> None:
    child.main(_body)


if __name__ == "__main__":
    main()
