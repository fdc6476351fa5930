"""Rigs of the driver for attacks and for looks from outside, and the languages whose slots run on them."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import uv

from hearth.build.registries import read_registries
from hearth.build.toolchains import Toolchains, machine_places
from hearth.core.launch import Toolchain
from hearth.egress.networks import HostNetworks
from hearth.egress.own_networks import OwnNetworks
from hearth.runtimes.go import GoRuntime
from hearth.runtimes.node import NodeRuntime
from hearth.runtimes.python import PythonRuntime
from tests.contract.driver_cases import Rig, bubblewrap_rig
from tests.integration import go_function
from tests.security.functions import GO, NODE, PYTHON, Language, Running, become_hostile, opened
from tests.toolchains import FETCHED, found, on_the_host

Languages = Callable[[str], Language]
RigOf = Callable[..., Awaitable[Rig]]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A bubblewrap driver that is open; nothing may be left of it afterwards."""
    async with bubblewrap_rig(tmp_path) as ready:
        yield ready


@asynccontextmanager
async def networked_rig(tmp_path: Path, **options: Any) -> AsyncIterator[Rig]:
    networks = HostNetworks("t" + secrets.token_hex(5)) if os.geteuid() == 0 else OwnNetworks()
    await networks.start()
    try:
        if networks.missing():
            pytest.skip(f"this machine has no networks for sandboxes: {networks.missing()}")
        async with bubblewrap_rig(tmp_path, networks=networks, **options) as ready:
            yield ready
    finally:
        await networks.stop()


@pytest.fixture
async def networked(tmp_path: Path) -> AsyncIterator[Rig]:
    """A rig whose sandboxes have networks, by the real rules."""
    async with networked_rig(tmp_path) as ready:
        yield ready


@pytest.fixture
async def rig_of(tmp_path: Path) -> AsyncIterator[RigOf]:
    """Makes the rig on which a language's slots run, with networks or without."""
    async with AsyncExitStack() as stack:

        async def make(language: Language, networks: bool = False) -> Rig:
            kind = networked_rig if networks else bubblewrap_rig
            return await stack.enter_async_context(kind(tmp_path, instead=language.folders))

        yield make


@pytest.fixture(scope="session")
def languages(tmp_path_factory: pytest.TempPathFactory) -> Languages:
    """``python``, ``own-python`` (the one that runs Hearth), ``node``, ``node-wheel``, ``go``; each made ready once."""

    def there(toolchain: Toolchain | None) -> Toolchain:
        if toolchain is None:
            pytest.skip("this machine lacks a language")
        return toolchain

    def written(name: str, text: str) -> Path:
        folder = tmp_path_factory.mktemp("code")
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
        return folder

    @cache
    def make(kind: str) -> Language:
        if kind == "python":
            return Language(PythonRuntime(), there(found("python")), written("handler.py", PYTHON))
        if kind == "node":
            return Language(NodeRuntime(), there(found("node")), written("handler.mjs", NODE), FETCHED)
        if kind == "node-wheel":
            folder = tmp_path_factory.mktemp("toolchains")
            toolchain = _wheel(folder, tmp_path_factory.mktemp("no-system"))
            return Language(NodeRuntime(), toolchain, written("handler.mjs", NODE), folder)
        assert kind == "go"
        toolchain = there(on_the_host("go"))
        return Language(GoRuntime(), toolchain, _go(tmp_path_factory.mktemp("go"), toolchain))

    return make


@pytest.fixture
async def python(languages: Languages) -> Language:
    return languages("python")


@pytest.fixture
async def home(python: Language, rig_of: RigOf) -> Rig:
    return await rig_of(python)


@pytest.fixture
async def evil(home: Rig, python: Language) -> AsyncIterator[Running]:
    """A loaded function whose artifact's files everybody may write, as far as their modes go."""
    async with opened(home, python) as slot:
        await become_hostile(slot)
        yield slot


def _wheel(folder: Path, empty: Path) -> Toolchain:
    """The Node that the platform fetches on a machine that has none."""
    registries = read_registries(dict(os.environ))
    toolchains = Toolchains(
        folder, registries, Path(uv.find_uv_bin()), replace(machine_places(), system=empty)
    )
    with asyncio.Runner() as runner:
        return runner.run(toolchains.get("node", "", lambda line: None))


def _go(folder: Path, toolchain: Toolchain) -> Path:
    (folder / "source").mkdir()
    (folder / "source" / "handler.go").write_text(GO)
    done = go_function.build(folder, toolchain)
    assert done.returncode == 0, done.stderr
    return folder / "out"
