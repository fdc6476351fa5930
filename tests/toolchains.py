"""The machine's own Node and Go, for tests that run them themselves; where it has none, what the platform fetches then.

    python -m tests.toolchains [node] [go]

fetches what is missing of these, or of both, into the virtual environment. `scripts/test` does so.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import uv

from hearth.build.discover import discover, pick
from hearth.build.registries import read_registries
from hearth.build.toolchains import Toolchains, machine_places
from hearth.core.launch import Toolchain

FETCHED = Path(sys.prefix) / "toolchains"


@cache
def found(runtime: str) -> Toolchain | None:
    """As a sandbox has it: the system's, else one from `FETCHED` with its mount; None where there is neither."""
    here = [one for one in discover(machine_places(), FETCHED) if one.mount is None or one.source == "wheel"]
    return pick(here, runtime, "")


def on_the_host(runtime: str) -> Toolchain | None:
    """The same one, as it is run outside of sandboxes."""
    toolchain = found(runtime)
    if toolchain is None or toolchain.mount is None:
        return toolchain
    return replace(toolchain, bin=str(FETCHED / toolchain.mount.name / "bin" / runtime), mount=None)


async def fetch(folder: Path, runtimes: Iterable[str]) -> None:
    """Fetch what this machine lacks into a folder, as the platform does."""
    folder.mkdir(exist_ok=True)
    toolchains = Toolchains(
        folder, read_registries(dict(os.environ)), Path(uv.find_uv_bin()), machine_places()
    )
    for runtime in runtimes:
        await toolchains.get(runtime, "", lambda line: print(line, file=sys.stderr))


if __name__ == "__main__":
    asyncio.run(fetch(FETCHED, sys.argv[1:] or ("node", "go")))
