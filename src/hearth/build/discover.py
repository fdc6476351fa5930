"""Which languages this machine has: the system's below /usr, the interpreter that runs Hearth, what was fetched.

Looks only at fixed places, never at PATH: a version manager's shim there costs a tenth of a second and
lies in a home that sandboxes don't see.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hearth.core.launch import Mount, Toolchain

OLDEST = {"python": (3, 11), "node": (18,), "go": (1, 21)}
_RUN_TIMEOUT = 20.0
_VERSION = re.compile(r"(?:Python |v|go)?(\d+(?:\.\d+){1,2})(?=\s|$)")
IN_IMAGES = "toolchain of "
_FETCHED = re.compile(r"(node|go)-(\d+(?:\.\d+)+)\Z")


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look.

    Args:
        system: what every sandbox has, ``/usr``.
        own: the interpreter that runs Hearth.
        own_prefix: its prefix, without symbolic links.
        own_version: its version.
        images: what images of containers have, in whose place the host's own is seen by nobody; None without containers.
    """

    system: Path
    own: Path
    own_prefix: Path
    own_version: str
    images: tuple[Toolchain, ...] | None = None


def version_key(version: str) -> tuple[int, ...]:
    """``3.11.2`` as numbers that compare."""
    return tuple(int(part) for part in version.split("."))


def fits(toolchain: Toolchain, runtime: str, pin: str) -> bool:
    """Whether it is of that runtime, new enough, and of the pinned version (a prefix by parts; empty for any)."""
    key = version_key(toolchain.version)
    wanted = version_key(pin) if pin else ()
    return toolchain.runtime == runtime and key[: len(wanted)] == wanted and key >= OLDEST[runtime]


def pick(found: list[Toolchain], runtime: str, pin: str) -> Toolchain | None:
    """The best: the system's before others, newer before older."""
    fitting = [toolchain for toolchain in found if fits(toolchain, runtime, pin)]
    return max(
        fitting,
        key=lambda toolchain: (
            toolchain.mount is None,
            toolchain.source != "wheel",
            version_key(toolchain.version),
        ),
        default=None,
    )


def discover(places: Places, fetched: Path) -> list[Toolchain]:
    """All toolchains that are here now. Blocking: asks interpreters for their versions."""
    if places.images is not None:
        return [*places.images, *_fetched(fetched)]
    return [*_system(places.system), *_own(places), *_fetched(fetched)]


def in_images(facts: Iterable[tuple[str, str]]) -> tuple[Toolchain, ...]:
    """What a driver's probe tells of its images: (``toolchain of LANGUAGE``, ``runtime version path``)."""
    found = []
    for name, value in facts:
        words = value.split(" ")
        if name.startswith(IN_IMAGES) and len(words) == 3 and name.removeprefix(IN_IMAGES) == words[0]:
            found.append(Toolchain(words[0], words[1], words[2], source="image"))
    return tuple(found)


def _system(system: Path) -> list[Toolchain]:
    found = []
    for folder in (system / "bin", system / "local" / "bin"):
        for path in sorted(folder.glob("python3.*")):
            if re.fullmatch(r"python3\.\d+", path.name) and (
                version := _ask(system, path, "-I", "-S", "--version")
            ):
                found.append(Toolchain("python", version, str(path)))
        node = folder / "node"
        if (folder / "npm").exists() and (version := _ask(system, node, "--version")):
            found.append(Toolchain("node", version, str(node)))
    for root in (system / "local" / "go", system / "lib" / "go", *sorted((system / "lib").glob("go-1.*"))):
        if (version := go_version(root)) and _within(system, root / "bin" / "go"):
            found.append(Toolchain("go", version, str(root / "bin" / "go")))
    return found


def _own(places: Places) -> list[Toolchain]:
    if places.own_prefix.is_relative_to(places.system):
        return []  # `_system` has it
    prefix = str(places.own_prefix)
    major_minor = ".".join(places.own_version.split(".")[:2])
    binary = places.own_prefix / "bin" / f"python{major_minor}"
    if not binary.exists():
        return []
    return [Toolchain("python", places.own_version, str(binary), Mount("prefix", prefix, prefix))]


def _fetched(folder: Path) -> list[Toolchain]:
    found = []
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _FETCHED.match(place.name)
        if match is not None:
            runtime, version = match[1], match[2]
            target = f"/opt/{runtime}"
            mount = Mount("toolchain", place.name, target)
            found.append(Toolchain(runtime, version, f"{target}/bin/{runtime}", mount, "wheel"))
    return found


def go_version(root: Path) -> str:
    """Of a GOROOT, by its VERSION file; empty when it is none or a pre-release."""
    try:
        first = (root / "VERSION").read_text().splitlines()[0]
    except (OSError, IndexError, UnicodeDecodeError):
        return ""
    match = _VERSION.fullmatch(first.strip())
    return match[1] if match else ""


def _ask(system: Path, program: Path, *arguments: str) -> str:
    """The version that a program says it has; empty when it says none, or isn't where sandboxes see it."""
    if not _within(system, program):
        return ""
    try:
        done = subprocess.run(
            [program, *arguments],
            env={"PATH": "/usr/bin:/bin"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_RUN_TIMEOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = _VERSION.match(done.stdout.strip())
    return match[1] if done.returncode == 0 and match else ""


def _within(system: Path, program: Path) -> bool:
    try:
        real = program.resolve(strict=True)
    except (OSError, RuntimeError):
        return False
    return real.is_relative_to(system.resolve()) and os.access(real, os.X_OK)
