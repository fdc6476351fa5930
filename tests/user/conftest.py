"""An ordinary user's platform, for tests that do it no harm; what is left of one is looked for by whose the processes are."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.contract.driver_cases import Rig, bubblewrap_rig
from tests.e2e.platform import Platform, until
from tests.security.conftest import networked_rig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A bubblewrap driver that is open; nothing may be left of it afterwards."""
    async with bubblewrap_rig(tmp_path) as ready:
        yield ready


@pytest.fixture
async def networked(tmp_path: Path) -> AsyncIterator[Rig]:
    """A rig whose sandboxes have networks, by slirp4netns."""
    async with networked_rig(tmp_path) as ready:
        yield ready


def running(word: str = "") -> list[str]:
    """Command lines of this user's processes that have `word` in them, but for this one and its own ancestors."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"\nUid:\t{os.getuid()}\t" in (entry / "status").read_text():
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if word in line:
                    found.append(f"{entry.name} {line}")
        except OSError:
            continue
    return found


def sandboxes() -> list[str]:
    """What a platform may never leave: sandboxes, their carriers, its own processes."""
    return [*running("/bwrap --args"), *running("slirp4netns"), *running("hearth.bootstrap")]


@pytest.fixture
def own_platform() -> Iterator[Platform]:
    """Not started; stopped at the end, and nothing of it may be left."""
    home = Path(tempfile.mkdtemp(prefix="hearth-user-"))
    platform = Platform(home)
    before = set(sandboxes())
    try:
        yield platform
        if platform.process is not None and platform.process.poll() is None:
            assert platform.stop() == 0
        until(lambda: not set(sandboxes()) - before, what=f"left: {set(sandboxes()) - before}")
        assert not (platform.data / "run").exists()
        assert str(home) not in Path("/proc/self/mountinfo").read_text()
    finally:
        platform.put_down()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """Running, with ann registered and logged in."""
    home = Path(tempfile.mkdtemp(prefix="hearth-user-"))
    platform = Platform(home).start()
    try:
        platform.register()
        yield platform
        assert platform.stop() == 0
        assert not running("hearth.bootstrap.keeper")
    finally:
        platform.put_down()
        shutil.rmtree(home, ignore_errors=True)


def held(platform: Platform) -> set[str]:
    """The limits that this platform says it holds."""
    line = next(line for line in platform.output if "Isolation" in line)
    return set(line.partition("holds ")[2].rstrip(")").split(", "))
