"""Which languages functions can be written in here, and what has to be fetched for it first."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import uv

from hearth.build.discover import OLDEST, Places, discover, fits, pick, version_key
from hearth.build.toolchains import WHEELS
from hearth.core.finding import Finding, not_held, note, ok, refused
from hearth.core.launch import Toolchain
from hearth.linux.commands import install


def look(places: Places, fetched: Path | None) -> tuple[list[Finding], Toolchain | None]:
    """What is found of each language, and the Python that functions get when they pin none. Fetches nothing; asks interpreters.

    Args:
        places: where to look.
        fetched: ``toolchains/`` of the data directory; None where it can't be read.
    """
    here = [t for t in discover(places, fetched or Path("/nonexistent")) if fits(t, t.runtime, "")]
    found = [_language(runtime, here) for runtime in OLDEST]
    return [*found, _uv()], pick(here, "python", "")


def _language(runtime: str, here: Iterable[Toolchain]) -> Finding:
    have = sorted(
        (t for t in here if t.runtime == runtime), key=lambda t: version_key(t.version), reverse=True
    )
    if have:
        return ok(runtime, ", ".join(f"{t.version} ({_where(t)})" for t in have))
    oldest = ".".join(str(part) for part in OLDEST[runtime])
    if runtime in WHEELS:
        return note(
            runtime, f"none of {oldest} or newer: fetched from the package index when it is first needed"
        )
    return not_held(runtime, f"none of {oldest} or newer that sandboxes can see", install("python3"))


def _where(toolchain: Toolchain) -> str:
    if toolchain.mount is not None and toolchain.mount.kind == "toolchain":
        return "fetched"
    return toolchain.bin


def _uv() -> Finding:
    try:
        return ok("uv", uv.find_uv_bin())
    except FileNotFoundError:
        return refused("uv", "the program uv, which comes with Hearth, is missing: install Hearth again")
