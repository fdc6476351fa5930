"""The runtime images: what they are built from, and which of them a daemon has."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import hearth
from hearth.core.errors import SandboxFailed
from hearth.drivers.docker.engine import Engine, EngineRefused

IMAGES = {"python": "hearth-python", "node": "hearth-node", "go": "hearth-go"}
"""Language to the name that its image has where nobody configures another."""


@dataclass(frozen=True, slots=True)
class Image:
    """One of a daemon's. `id` is empty and `size` 0 where it is not there."""

    language: str
    name: str
    id: str = ""
    size: int = 0


def dockerfile(language: str) -> str:
    """Of a language: from the installed package, or from the clone that this runs from. Raises KeyError: there is none."""
    package = Path(hearth.__file__).resolve().parent
    for folder in (package / "deploy" / "images", package.parents[1] / "deploy" / "images"):
        path = folder / language / "Dockerfile"
        if path.is_file():
            return path.read_text()
    raise KeyError(language)


async def found(engine: Engine, language: str, name: str) -> Image:
    """Raises EngineGone, EngineRefused."""
    try:
        said = await engine.request("GET", f"/images/{name}/json")
    except EngineRefused as error:
        if error.status != 404:
            raise
        return Image(language, name)
    return Image(language, name, str(said["Id"]), int(said["Size"]))


async def build(engine: Engine, language: str, name: str, network: str = "") -> AsyncIterator[str]:
    """Build a language's image and give it a name; what is said meanwhile, line by line.

    Args:
        network: of the steps, such as ``host``; empty for the daemon's default.

    Raises SandboxFailed: a step failed; EngineGone, EngineRefused.
    """
    async for said in engine.build(_context(dockerfile(language)), name, network):
        if "error" in said:
            raise SandboxFailed(f"the image of {language} could not be built: {said['error']}")
        for line in str(said.get("stream", "")).splitlines():
            if line.strip():
                yield line


def _context(text: str) -> bytes:
    data, out = text.encode(), io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()
