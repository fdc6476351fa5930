"""`hearth up`: the supervisor of one node, wired."""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import secrets
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import hearth
from hearth.bootstrap import isolation
from hearth.build.registries import read_registries
from hearth.config import environment, is_loopback, registry_files, runtime_dir, settings_to_json
from hearth.core.errors import StartupFailed
from hearth.core.settings import Settings
from hearth.linux.userns import OWN_NAMESPACES
from hearth.security.rootkey import RootKey, load_root_key
from hearth.security.vault import key_descriptor
from hearth.supervisor import rundir, view
from hearth.supervisor.child import ChildSpec
from hearth.supervisor.claim import claim, locks_of
from hearth.supervisor.datadir import DataDir
from hearth.supervisor.group import PlatformGroup
from hearth.supervisor.life import Life
from hearth.supervisor.notify import tell_ready
from hearth.supervisor.sockets import bind_public
from hearth.supervisor.supervisor import Supervisor
from hearth.telemetry.log import configure

log = logging.getLogger(__name__)

PLATFORM_USER = "hearth"
_PLATFORM_UIDS = range(1_946_091_520, 1_946_157_056)  # below the sandboxes' range; see drivers/common/uids.py
_RESOLVER_UIDS = range(1_946_025_984, 1_946_091_520)  # as many, below those


def run(settings: Settings) -> None:
    """Run the platform in the foreground until SIGTERM or Ctrl-C.

    Raises:
        StartupFailed: it can't start; nothing is left behind.
    """
    configure("supervisor", settings.log_level)
    root = os.geteuid() == 0
    settings = isolation.chosen(settings)
    with ExitStack() as stack:
        log.info("starting on %s", settings.data_dir)  # it may be a while until there is more to say
        data = DataDir(settings.data_dir)
        if settings.database_url and data.has_state:
            log.warning("%s is not used: the database is PostgreSQL's", settings.data_dir / "hearth.db")
        stack.callback(data.close)
        locks = locks_of(root, runtime_dir(environment()))
        if locks is not None:
            stack.callback(os.close, claim(data.instance, data.path, locks))
        uid, gid = _platform_ids(data.instance) if root else (os.getuid(), os.getgid())
        _enter_group(PlatformGroup.of(data.instance) if root else PlatformGroup.own(data.instance), stack)
        shared: dict[str, int] = {}
        if not root:  # he may have no group, which could tell whether anything of an earlier life is left
            life = Life(data.path)
            stack.callback(life.close)
            shared["life"] = life.fd
        key = _root_key(settings, data)
        data.give_to(uid, gid)
        sockets = bind_public(settings.host, settings.port, 1)
        for sock in sockets:
            stack.callback(sock.close)
        settings = replace(settings, port=sockets[0].getsockname()[1])
        settings = replace(settings, public_url=settings.public_url or _public_url(settings))
        run_dir = _run_dir(data.instance, settings, root)
        stack.callback(rundir.remove, run_dir, root)
        (run_dir / "control").mkdir(mode=0o700)
        os.chown(run_dir / "control", uid, gid)
        setup_token = None if is_loopback(settings.host) else secrets.token_urlsafe(18)
        specs = _specs(
            settings, data.instance, run_dir, uid, gid, key, sockets[0].fileno(), shared, setup_token
        )
        supervisor = Supervisor(specs, settings.drain_grace, sockets, lambda: _renewed(specs))
        asyncio.run(supervisor.run(lambda said: _announce(settings, said, setup_token)))


def _root_key(settings: Settings, data: DataDir) -> RootKey:
    """The platform's key; a new one only where there is nothing yet that another one has locked. Raises StartupFailed."""
    path = settings.key_file or data.path / "key"
    if data.has_state and not path.exists():
        raise StartupFailed(
            f"the root key {path} is missing, and {data.path} has a database that was made with one",
            hint=f"put that key back at {path}, or name its place with --key-file",
        )
    return load_root_key(path, create=settings.key_file is None)


def _enter_group(group: PlatformGroup | None, stack: ExitStack) -> None:
    """End what an earlier life of this platform left, and be in its control group until the stack unwinds."""
    if group is None:
        return
    left = group.clear()
    if left:
        log.warning("ended %d processes that an earlier hearth left", left)
    group.enter()
    stack.callback(group.leave)


def _platform_ids(instance: str) -> tuple[int, int]:
    """The user that control, shards and resolver run as: `hearth` where there is one, else a number of the platform's own."""
    try:
        entry = pwd.getpwnam(PLATFORM_USER)
        return entry.pw_uid, entry.pw_gid
    except KeyError:
        uid = _PLATFORM_UIDS[int(instance, 16) % len(_PLATFORM_UIDS)]
        return uid, uid


def _resolver_id(instance: str, uid: int) -> int:
    """The user and group that the resolver runs as: it reads hostile packets, so it is nobody else's, where we may choose."""
    return _RESOLVER_UIDS[int(instance, 16) % len(_RESOLVER_UIDS)] if os.geteuid() == 0 else uid


def _public_url(settings: Settings) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{settings.port}"


def _run_dir(instance: str, settings: Settings, root: bool) -> Path:
    """The folder of sockets; as root also the platform's mount namespace."""
    if not root:
        return rundir.make_own(instance, settings.data_dir, runtime_dir(environment()))
    run_dir = Path(f"/run/hearth-{instance}")
    package = Path(hearth.__file__).resolve().parent
    needed = [package, Path(sys.prefix), Path(sys.base_prefix), settings.data_dir]
    view.enter(run_dir, [path.resolve() for path in needed])
    return run_dir


def _specs(
    settings: Settings,
    instance: str,
    run_dir: Path,
    uid: int,
    gid: int,
    key: RootKey,
    listener: int,
    shared: dict[str, int],
    setup_token: str | None,
) -> Sequence[ChildSpec]:
    common: dict[str, Any] = {
        "settings": settings_to_json(replace(settings, database_url="")),
        "instance": instance,
        "run_dir": str(run_dir),
        "uid": uid,
        "gid": gid,
    }
    key_fd = os.memfd_create("hearth-key", os.MFD_CLOEXEC)
    os.write(key_fd, key.secret)

    def spec(
        name: str,
        module: str,
        stage: int,
        extra: dict[str, Any],
        fds: dict[str, int],
        runs_as: tuple[int, int] | None = (uid, gid),
        arguments: tuple[str, ...] = (),
    ) -> ChildSpec:
        argv = (sys.executable, "-I", "-m", f"hearth.bootstrap.{module}", *arguments)
        own: dict[str, Any] = {"name": name, "extra": extra}
        if module in ("control", "shard"):  # of the database's password the others know nothing
            own["settings"] = settings_to_json(settings)
        return ChildSpec(
            name,
            argv if runs_as is None else (*_dropped(*runs_as), *argv),
            {**common, **own},
            stage,
            {**fds, **shared},
            drains=module in ("control", "shard"),
            overlaps=module in ("control", "resolver", "shard"),
        )

    resolver = _resolver_id(instance, uid)
    files = registry_files(environment())
    prefixes = [str(path) for path in (Path(sys.base_prefix).resolve(),) if not path.is_relative_to("/usr")]
    registries = read_registries(dict(settings.registry_env), files["pip_conf"], files["npmrc"])
    prefixes += [folder for folder in registries.folders if Path(folder).is_dir()]
    return [
        spec(
            "keeper",
            "keeper",
            0,
            {"prefixes": prefixes, "resolver_uid": resolver},
            {},
            runs_as=None,
            arguments=(OWN_NAMESPACES,) if settings.isolation == "bubblewrap" else (),
        ),
        spec("control", "control", 1, {"setup_token": setup_token, **files}, {"key": key_fd}),
        spec("resolver", "resolver", 1, {}, {}, runs_as=(resolver, resolver)),
        spec(
            "shard-0",
            "shard",
            2,
            {"token_key": key.token_public_key().hex()},
            {"listener": listener, "secrets": key_descriptor(key)},
        ),
    ]


def _renewed(specs: Sequence[ChildSpec]) -> Sequence[ChildSpec]:
    """What to start at SIGHUP: the program as it is installed now, with pip.conf and .npmrc read again."""
    files = registry_files(environment())
    return [
        replace(spec, config={**spec.config, "extra": {**spec.config["extra"], **files}})
        if spec.name == "control"
        else spec
        for spec in specs
    ]


def _dropped(uid: int, gid: int) -> tuple[str, ...]:
    """What is put before a command so that it runs without privileges; nothing when we have none."""
    if os.geteuid() != 0:
        return ()
    return (
        "setpriv",
        f"--reuid={uid}",
        f"--regid={gid}",
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--",
    )


def _announce(settings: Settings, said: dict[str, dict[str, Any]], setup_token: str | None) -> None:
    held = said["keeper"]
    lines = [
        f"Hearth {hearth.__version__}",
        f"  URL        {settings.public_url}",
        f"  Isolation  {held['isolation']}",
        f"  Data       {settings.data_dir}",
    ]
    if said["control"]["database"] is not None:
        lines.append(f"  Database   {said['control']['database']}")
    lines += [f"  Warning    {warning}" for warning in held["warnings"]]
    if setup_token is not None and said["control"]["first_user"]:
        lines.append(f"  Set-up     the first account needs this token: {setup_token}")
    lines.append("Ready.")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    tell_ready(environment().get("NOTIFY_SOCKET"))
