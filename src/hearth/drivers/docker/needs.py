"""What containers need of this machine, as `hearth up` and `hearth doctor` tell it."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Mapping
from pathlib import Path

from hearth.core.errors import HearthError
from hearth.core.finding import Finding, State, found_by, ok, refused
from hearth.drivers.docker import images
from hearth.drivers.docker.engine import Engine, EngineGone
from hearth.drivers.docker.machine import check_daemon
from hearth.linux.commands import by_root, has_systemd, install


def findings(path: Path, runtime: str, names: Mapping[str, str]) -> list[Finding]:
    """All without which no container can be made. Call it outside of an event loop.

    Args:
        path: the daemon's socket.
        runtime: isolation runtime that the platform is to use; empty for the daemon's own.
        names: of images, by language, where they are not Hearth's own.
    """
    return [_seccomp(), *asyncio.run(_ask(path, runtime, {**images.IMAGES, **names}))]


def answers(path: Path) -> bool:
    """Whether a daemon is there. Call it outside of an event loop."""
    return asyncio.run(_answers(path))


async def _answers(path: Path) -> bool:
    engine = Engine(path)
    try:
        await engine.open()
    except HearthError:
        return False
    finally:
        await engine.close()
    return True


def _seccomp() -> Finding:
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return refused("libseccomp", "libseccomp2 is not there", install("libseccomp2"))
    return ok("libseccomp", "libseccomp.so.2")


async def _ask(path: Path, runtime: str, names: Mapping[str, str]) -> list[Finding]:
    engine = Engine(path)
    try:
        await engine.open()
        info = await engine.request("GET", "/info")
        check_daemon(info, "")
        found = [
            ok("docker", f"{info.get('ServerVersion')} at {path}"),
            _runtime(info.get("Runtimes") or {}, runtime, info),
        ]
        return [*found, *[await _image(engine, language, name) for language, name in names.items()]]
    except EngineGone as error:
        return [refused("docker", error.message, _mend(path))]
    except HearthError as error:
        return [found_by(error, "docker", State.REFUSED)]
    finally:
        await engine.close()


def _mend(path: Path) -> str:
    if not path.exists():
        return install("docker.io")
    return by_root("systemctl start docker") if has_systemd() else ""


def _runtime(here: Mapping[str, object], wanted: str, info: Mapping[str, object]) -> Finding:
    name = "isolation runtime"
    has = ", ".join(sorted(here))
    if wanted and wanted not in here:
        return refused(
            name, f"docker has no runtime {wanted} (it has {has}): runtimes are named in its daemon.json"
        )
    return ok(name, f"{wanted or info.get('DefaultRuntime')}; functions may name one of {has}")


async def _image(engine: Engine, language: str, name: str) -> Finding:
    found = await images.found(engine, language, name)
    if found.id:
        return ok(f"image of {language}", f"{name}, {found.size >> 20} MiB")
    return refused(f"image of {language}", f"docker has no image {name}", "hearth images build")
