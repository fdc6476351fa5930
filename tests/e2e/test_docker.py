"""A platform whose functions are containers: deployed, called, isolated by gVisor, and nothing left of it afterwards."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import dockerd as daemons
from tests.dockerd import Dockerd
from tests.e2e.calls import chain, ids
from tests.e2e.platform import Platform, leftovers, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def docker_platform(dockerd: Dockerd) -> Iterator[Platform]:
    home = Path(tempfile.mkdtemp(prefix="hearth-e2e-"))
    platform = Platform(home, flags=("--isolation", "docker", "--docker-socket", str(dockerd.socket)))
    try:
        platform.start()
        platform.register()
        yield platform
        assert platform.stop() == 0
        assert leftovers(platform.instance, platform.data) == []
        assert not Path(f"/run/hearth-docker-{platform.instance}").exists()
        left = asyncio.run(dockerd.request("GET", "/containers/json", all="1")).json()
        assert [one["Names"] for one in left] == []
    finally:
        platform.put_down()
        shutil.rmtree(home, ignore_errors=True)


def deploy(platform: Platform, name: str, runtime: str, more: str = "") -> str:
    folder = platform.home / name
    if not folder.exists():
        platform.cli("create-function", "-n", name, "-r", runtime, cwd=platform.home)
    with (folder / "function.yaml").open("a") as file:
        file.write(more)
    return platform.cli("deploy", str(folder))


def test_it_says_what_it_isolates_by(docker_platform: Platform) -> None:
    assert any("Isolation  docker (" in line and "seccomp" in line for line in docker_platform.output)


@pytest.mark.parametrize("runtime", ["python", "node", "go"])
def test_a_function_is_built_and_called(docker_platform: Platform, runtime: str) -> None:
    deploy(docker_platform, f"hello-{runtime}", runtime)
    said = docker_platform.cli("invoke", f"hello-{runtime}", "-d", '{"name": "Ann"}')
    assert json.loads(said) == {"message": "Hello, Ann!"}


def test_a_function_that_names_gvisor_has_another_kernel(docker_platform: Platform) -> None:
    if shutil.which("runsc", path=daemons.PATH) is None:
        pytest.skip("needs runsc")
    deploy(docker_platform, "guarded", "python", "isolation_runtime: runsc\nnetwork: none\n")
    handler = docker_platform.home / "guarded" / "handler.py"
    handler.write_text("def handler(event, context):\n    return open('/proc/version').read()\n")
    docker_platform.cli("deploy", str(handler.parent))
    assert "4.4.0" in docker_platform.cli("invoke", "guarded")


def test_an_isolation_runtime_that_is_not_there_is_refused_at_deploy(docker_platform: Platform) -> None:
    with pytest.raises(AssertionError, match="no isolation runtime 'kata'"):
        deploy(docker_platform, "kata", "python", "isolation_runtime: kata\n")


def test_a_function_that_runs_out_of_memory_is_told_so(docker_platform: Platform) -> None:
    deploy(docker_platform, "greedy", "python")
    handler = docker_platform.home / "greedy" / "handler.py"
    handler.write_text("def handler(event, context):\n    return len(bytearray(1 << 30))\n")
    docker_platform.cli("deploy", str(handler.parent))
    with pytest.raises(AssertionError, match="memory"):
        docker_platform.cli("invoke", "greedy")


def test_functions_call_functions_without_a_network(docker_platform: Platform) -> None:
    checkout, price, tax, outside = chain(docker_platform, network="none")
    known = ids(docker_platform)
    assert [one["caller"] for one in (checkout, price, tax)] == [
        "",
        f"function:{known['checkout']}",
        f"function:{known['price']}",
    ]
    assert outside["status"] == 404


def states(dockerd: Dockerd) -> list[str]:
    found = asyncio.run(dockerd.request("GET", "/containers/json", all="1")).json()
    return [one["State"] for one in found]


def test_kill_9_of_a_process_leaves_no_container_at_work(docker_platform: Platform, dockerd: Dockerd) -> None:
    """Last in this file: the platform is started again."""
    platform = docker_platform
    files = {"handler.py": "def handler(event, context):\n    return 'here'\n"}
    platform.deploy("survivor", "python", files)
    for kind in ("keeper", "shard"):
        platform.kill(kind)
        until(lambda: answers(platform))
    assert platform.process is not None
    platform.process.kill()
    platform.process.wait()
    until(lambda: "running" not in states(dockerd))
    platform.start()
    assert answers(platform)


def answers(platform: Platform) -> bool:
    try:
        return platform.call("/fn/ann/survivor").body == b"here"
    except OSError:  # nobody listens, for a moment
        return False
