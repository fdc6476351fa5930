"""Builds in real sandboxes: isolated, limited, with the network of a build, in three languages."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import uv

from hearth.blobs.local import LocalBlobs
from hearth.bootstrap.child import RandomIds
from hearth.bootstrap.keeper import folders
from hearth.build.discover import Places
from hearth.build.registries import read_registries
from hearth.build.runner import Runner
from hearth.build.sandbox import BuildLimits
from hearth.build.toolchains import Toolchains, machine_places
from hearth.core.errors import BuildFailed
from hearth.core.launch import BuildPlan
from hearth.drivers.bubblewrap import BubblewrapDriver
from hearth.drivers.safe import safe
from hearth.egress.networks import HostNetworks
from hearth.manifest.function import read
from hearth.ports.builder import BuildOrder
from hearth.ports.runtime import Runtime
from hearth.runtimes.go import GoRuntime
from hearth.runtimes.node import NodeRuntime
from hearth.runtimes.python import PythonRuntime

pytestmark = pytest.mark.root
RUNTIMES: dict[str, Runtime] = {"python": PythonRuntime(), "node": NodeRuntime(), "go": GoRuntime()}
PASSED = (
    "PIP_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "npm_config_registry",
    "GOPROXY",
    "GOSUMDB",
    "SSL_CERT_FILE",
)


@dataclass
class Site:
    blobs: LocalBlobs
    runner: Runner
    toolchains: Toolchains
    lines: list[str] = field(default_factory=list)

    async def source(self, **files: str) -> str:
        staged = self.blobs.staging()
        for name, text in files.items():
            (staged / name.replace("__", ".").replace("_DASH_", "-")).write_text(text)
        return await self.blobs.adopt("source", staged)

    async def build(self, runtime: str, **files: str) -> Path:
        """A whole build, as a worker does it."""
        config = read(files.pop("yaml", f"name: hello\nruntime: {runtime}\n"))
        source = await self.source(**files)
        toolchain = await self.toolchains.get(runtime, "", self.lines.append)
        plan = RUNTIMES[runtime].plan_build(self.blobs.path("source", source), config, toolchain)
        return await self.run(plan, source, runtime)

    async def run(self, plan: BuildPlan, source: str, runtime: str = "python") -> Path:
        toolchain = await self.toolchains.get(runtime, "", self.lines.append)
        order = BuildOrder(RandomIds().new("sandbox"), source, plan, toolchain, "ns_test")
        return self.blobs.path("artifact", await self.runner.run(order, self.lines.append))

    async def script(self, script: str) -> Path:
        return await self.run(BuildPlan(script), await self.source(a="1\n"))


@asynccontextmanager
async def site(folder: Path, places: Places | None = None, **may: float) -> AsyncIterator[Site]:
    """A keeper's driver with its networks, and control's half on top, all in this process.

    `places`: where toolchains are looked for, if not on this machine.
    """
    instance = "t" + secrets.token_hex(5)
    run = Path(tempfile.mkdtemp(prefix="hearth-test-", dir="/run"))
    run.chmod(0o711)
    data = folder / "data"
    data.mkdir(mode=0o700)
    for name in ("sources", "artifacts", "toolchains", "tmp"):
        (data / name).mkdir()
    prefixes = tuple(str(p) for p in (machine_places().own_prefix,) if not p.is_relative_to("/usr"))
    networks = HostNetworks(instance)
    await networks.start()
    driver = BubblewrapDriver(
        instance=instance, run=run, data=data, folders=folders(data), prefixes=prefixes, networks=networks
    )
    try:
        await driver.open()
        registries = read_registries({name: os.environ[name] for name in PASSED if name in os.environ})
        toolchains = Toolchains(
            data / "toolchains", registries, Path(uv.find_uv_bin()), places or machine_places()
        )
        blobs = LocalBlobs(data)
        runner = Runner(
            driver=safe(driver),
            owner=RandomIds().new("owner"),
            ids=RandomIds(),
            blobs=blobs,
            toolchains=toolchains,
            registries=registries,
            folder=data / "toolchains",
            seeds={"go": GoRuntime().seed_plan},
            may=BuildLimits(**may),  # type: ignore[arg-type]
        )
        yield Site(blobs, runner, toolchains)
        assert await driver.list_owned(None) == []
        blobs.close()
        assert list((data / "tmp").iterdir()) == []
    finally:
        await driver.close()
        await networks.stop()
        shutil.rmtree(run)


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Site]:
    async with site(tmp_path) as made:
        yield made


async def test_what_a_build_sees(here: Site, tmp_path: Path) -> None:
    os.environ["HEARTH_TEST_LEAK"] = "leaked"
    try:
        place = await here.script(
            """
            id -u > "$OUT/uid"; env > "$OUT/env"; ls /src > "$OUT/src"; ls -A / > "$OUT/root"
            touch /src/x 2>/dev/null && echo src >> "$OUT/wrote"
            touch /usr/x 2>/dev/null && echo usr >> "$OUT/wrote"
            cat /etc/shadow 2>/dev/null >> "$OUT/wrote" || :
            touch "$OUT/wrote"
            grep CapEff /proc/self/status > "$OUT/caps"
            """
        )
    finally:
        del os.environ["HEARTH_TEST_LEAK"]
    assert (place / "uid").read_text() != "0\n"
    assert (place / "wrote").read_text() == ""
    assert (place / "src").read_text() == "a\n"
    assert (place / "caps").read_text().split()[1] == "0" * 16
    assert "leaked" not in (place / "env").read_text()
    assert str(tmp_path) not in (place / "env").read_text()
    assert "home" not in (place / "root").read_text().split()


async def test_the_cache_stays(here: Site) -> None:
    await here.script('echo kept > "$CACHE/a"; mkdir -p ro/x; chmod 0 ro')
    await here.script('cat "$CACHE/a"')
    assert here.lines[-1] == "kept"


async def fails(here: Site, script: str, reason: str) -> BuildFailed:
    with pytest.raises(BuildFailed) as caught:
        await here.script(script)
    assert caught.value.details["reason"] == reason, here.lines
    return caught.value


async def test_limits(tmp_path: Path) -> None:
    async with site(tmp_path, memory=96 << 20, disk=64 << 20, timeout=20.0, pids=64) as here:
        hungry = "/usr/bin/python3 -c 'x = bytearray(512 << 20); print(len(x))'"
        await fails(here, hungry, "oom")
        await fails(here, 'head -c 200000000 /dev/zero > "$OUT/big"', "disk")
        await fails(here, "i=0; while [ $i -lt 200 ]; do sleep 30 & i=$((i+1)); done", "exit")
        place = await here.script('echo fine > "$OUT/x"')
        assert (place / "x").read_text() == "fine\n"


async def test_timeout(tmp_path: Path) -> None:
    async with site(tmp_path, timeout=1.0) as here:
        await fails(here, "echo on; sleep 600 & sleep 600", "timeout")


async def test_inner_addresses_are_closed_to_builds(here: Site) -> None:
    """A listener on the host, which the rule of `internet` must refuse; a build gets no more than its indexes."""
    server = await asyncio.start_server(lambda r, w: w.close(), "0.0.0.0", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        place = await here.script(
            '/usr/bin/python3 -c "import socket,os; s=socket.socket(); s.settimeout(3); '
            "route=[l.split() for l in open('/proc/net/route')][1:]; "
            "gw=socket.inet_ntoa(bytes.fromhex(next(r[2] for r in route if r[1]=='00000000'))[::-1]); "
            f'print(s.connect_ex((gw, {port})))" > "$OUT/code"'
        )
    finally:
        server.close()
        await server.wait_closed()
    assert (place / "code").read_text().strip() != "0"


@pytest.mark.network
async def test_python_with_a_dependency(here: Site) -> None:
    place = await here.build(
        "python",
        handler__py="import idna\ndef handler(event, context): return idna.encode('ü')\n",
        requirements__txt="idna==3.10\n",
    )
    found = list(place.rglob("idna/__init__.py"))
    assert len(found) == 1
    assert found[0].stat().st_nlink == 1
    assert found[0].stat().st_mode & 0o777 == 0o644


async def test_python_syntax_error(here: Site) -> None:
    with pytest.raises(BuildFailed) as caught:
        await here.build("python", handler__py="x = 1\ndef handler(:\n")
    assert (caught.value.details["file"], caught.value.details["line"]) == ("handler.py", 2)


@pytest.mark.network
async def test_python_dependency_that_is_not_there(here: Site) -> None:
    with pytest.raises(BuildFailed) as caught:
        await here.build("python", handler__py="def handler(e, c): ...\n", requirements__txt="idna==999.9\n")
    assert "idna" in str(caught.value.details["tail"])


@pytest.mark.network
async def test_node_with_a_dependency(here: Site) -> None:
    place = await here.build(
        "node",
        handler__mjs="import ms from 'ms';\nexport const handler = async () => ms('2 days');\n",
        package__json='{"type": "module", "dependencies": {"ms": "2.1.3"}}',
    )
    assert (place / "node_modules" / "ms" / "index.js").is_file()


@pytest.mark.network
@pytest.mark.long
async def test_go_with_a_dependency(here: Site) -> None:
    files = {
        "handler__go": (
            'package main\n\nimport (\n\t"net/http"\n\n\t"rsc.io/quote"\n)\n\n'
            "func Handler(w http.ResponseWriter, r *http.Request) { w.Write([]byte(quote.Hello())) }\n"
        ),
        "go__mod": "module example.com/hello\n\ngo 1.21\n\nrequire rsc.io/quote v1.5.2\n",
        "go__sum": "",
    }
    files.pop("go__sum")
    with pytest.raises(BuildFailed) as caught:  # no go.sum: what is fetched must be named first
        await here.build("go", **files)
    assert "go.sum" in str(caught.value.details["tail"])
    plain = {
        "handler__go": 'package main\n\nimport "net/http"\n\nfunc Handler(w http.ResponseWriter, r *http.Request) {}\n'
    }
    place = await here.build("go", **plain)
    assert (place / "function").stat().st_mode & 0o111
    with pytest.raises(BuildFailed) as caught:
        await here.build("go", handler__go=plain["handler__go"] + "\nvar x int = y\n")
    assert (caught.value.details["file"], caught.value.details["line"]) == ("handler.go", 7)


@pytest.mark.network
@pytest.mark.long
@pytest.mark.parametrize("runtime", ["node", "go"])
async def test_toolchains_from_wheels(tmp_path: Path, runtime: str) -> None:
    """On a machine that has neither: fetched, and they build in a sandbox."""
    bare = tmp_path / "usr"
    bare.mkdir()
    places = machine_places()
    async with site(tmp_path, Places(bare, places.own, places.own_prefix, places.own_version)) as here:
        toolchain = await here.toolchains.get(runtime, "", here.lines.append)
        assert toolchain.source == "wheel"
        tool = {"node": "npm", "go": "gofmt"}[runtime]
        plan = BuildPlan(
            f'{runtime} {"version" if runtime == "go" else "--version"} > "$OUT/v"; command -v {tool} > "$OUT/tool"'
        )
        if runtime == "node":
            plan = replace(plan, script=plan.script + "; npm --version")
        place = await here.run(plan, await here.source(a="1"), runtime)
        assert toolchain.version in (place / "v").read_text()
        assert (place / "tool").read_text() == f"/opt/{runtime}/bin/{tool}\n"
