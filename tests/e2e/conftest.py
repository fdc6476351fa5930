"""One platform for the tests that do it no harm; those that kill things make their own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.examples import EXAMPLES, Deployed
from tests.e2e.platform import Platform, leftovers
from tests.stack import stack


@pytest.fixture(scope="session", autouse=True)
def parts(request: pytest.FixtureRequest) -> None:
    """What ``--stack`` asks for, running before the first platform starts."""
    if request.config.getoption("--stack") == "server":
        stack.use(request.getfixturevalue("dockerd"), request.getfixturevalue("postgres"))


@pytest.fixture
def own_platform() -> Iterator[Platform]:
    """Not started; stopped and searched for leftovers at the end."""
    home = Path(tempfile.mkdtemp(prefix="hearth-e2e-"))
    platform = Platform(home)
    try:
        yield platform
        if platform.process is not None and platform.process.poll() is None:
            platform.stop()
        if (platform.data / "instance").exists():
            assert leftovers(platform.instance, platform.data) == []
    finally:
        platform.put_down()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """Running, with ann registered and logged in."""
    home = Path(tempfile.mkdtemp(prefix="hearth-e2e-"))
    platform = Platform(home).start()
    try:
        platform.register()
        yield platform
        assert platform.stop() == 0
        assert leftovers(platform.instance, platform.data) == []
    finally:
        platform.put_down()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def deployed(platform: Platform) -> Deployed:
    """Deploys an example when it is first asked for."""
    done: set[str] = set()

    def deploy(name: str) -> str:
        if name not in done:
            platform.cli("deploy", str(EXAMPLES / name))
            done.add(name)
        return f"/fn/ann/{name}"

    return deploy
