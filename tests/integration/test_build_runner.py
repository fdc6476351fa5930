"""Builds as they run: output, log, limits, and every way to fail told apart."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from hearth.blobs.local import LocalBlobs
from hearth.build.registries import read_registries
from hearth.build.runner import Runner
from hearth.build.sandbox import BuildLimits
from hearth.build.toolchains import Toolchains, machine_places
from hearth.core.errors import BuildFailed, PlatformError
from hearth.core.ids import new_id
from hearth.core.launch import BuildPlan, Mount, Toolchain
from hearth.ports.builder import BuildOrder, BuildRunner
from tests.integration.build_driver import SubprocessDriver

GO = Toolchain("go", "1.99.1", "/opt/go/bin/go", Mount("toolchain", "go-1.99.1", "/opt/go"), "wheel")
REGISTRY = {"PIP_INDEX_URL": "https://ann:s3cret-word@127.0.0.1:9/simple", "GOPROXY": "off", "GOSUMDB": "off"}


class CountedIds:
    def __init__(self) -> None:
        self._next = itertools.count(1)

    def new(self, kind: str) -> str:
        return new_id(kind, next(self._next), b"0123456789")


class Bench:
    """A runner on a data directory, its driver and what it said."""

    def __init__(self, folder: Path, may: BuildLimits | None = None) -> None:
        self.blobs = LocalBlobs(folder)
        self.toolchain_folder = folder / "toolchains"
        self.toolchain_folder.mkdir()
        kinds = {
            "source": folder / "sources",
            "toolchain": self.toolchain_folder,
            "seed": self.toolchain_folder,
        }
        self.driver = SubprocessDriver(folder / "disks", kinds)
        self.registries = read_registries(REGISTRY, npmrc="//127.0.0.1/:_authToken=npm-s3cret\n")
        uv = Path("/nonexistent/uv")
        toolchains = Toolchains(self.toolchain_folder, self.registries, uv, machine_places())
        self.ids = CountedIds()
        self.lines: list[str] = []
        self.runner = Runner(
            driver=self.driver,
            owner="own_x",
            ids=self.ids,
            blobs=self.blobs,
            toolchains=toolchains,
            registries=self.registries,
            folder=self.toolchain_folder,
            seeds={"go": lambda toolchain: BuildPlan(f'echo {toolchain.version} > "$OUT/std"; echo seeding')},
            may=may,
        )

    def unfinished(self) -> list[str]:
        """What lies in the folder of blobs that are not whole: while this process lives, also its mark that it does."""
        return os.listdir(self.blobs.path("source", "0" * 64).parent.parent / "tmp")

    async def source(self, **files: str) -> str:
        staged = self.blobs.staging()
        for name, text in files.items():
            (staged / name.replace("__", ".")).write_text(text)
        return await self.blobs.adopt("source", staged)

    async def build(self, script: str, source: str | None = None, **plan: object) -> Path:
        port: BuildRunner = self.runner
        source = source or await self.source(handler__py="x = 1\n")
        order = BuildOrder(
            self.ids.new("sandbox"),
            source,
            replace(BuildPlan(script), **plan),
            GO,
            "ns_1",  # type: ignore[arg-type]
        )
        return self.blobs.path("artifact", await port.run(order, self.lines.append))

    async def fails(self, script: str, reason: str) -> BuildFailed:
        with pytest.raises(BuildFailed) as caught:
            await self.build(script)
        assert caught.value.details["reason"] == reason
        assert [name for name in self.unfinished() if not name.startswith("mark-")] == []
        assert self.driver.started == {}
        return caught.value


@contextlib.asynccontextmanager
async def bench_in(folder: Path, may: BuildLimits | None = None) -> AsyncIterator[Bench]:
    """Nothing may be left of it: no file of what was not finished, no descriptor."""
    before = set(os.listdir("/proc/self/fd"))
    made = Bench(folder, may)
    yield made
    made.blobs.close()
    assert made.unfinished() == []
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_in(tmp_path) as made:
        yield made


async def test_output_and_log(bench: Bench) -> None:
    place = await bench.build(
        'echo hello; cp handler.py "$OUT/"; printf x > "$OUT/run"; chmod 700 "$OUT/run"; echo loud >&2'
    )
    assert sorted(path.name for path in place.iterdir()) == ["handler.py", "run"]
    assert (place / "run").stat().st_mode & 0o777 == 0o755
    assert bench.lines == ["hello", "loud"]
    spec = bench.driver.specs[0]
    assert (spec.guest, spec.disk and spec.disk.name, spec.network.mode) == (False, "ns_1", "internet")
    assert (spec.limits.memory, spec.limits.pids) == (2 << 30, 1024)
    assert spec.mounts == (Mount("source", spec.mounts[0].name, "/src"), GO.mount)
    assert dict(spec.env)["PATH"].startswith("/opt/go/bin:")


async def test_log_lines_come_while_it_builds(bench: Bench) -> None:
    seen = asyncio.Event()
    bench.lines = type("Lines", (list,), {"append": lambda self, line: seen.set()})()
    fifo = bench.driver.root / "go-on"
    bench.driver.root.mkdir()
    os.mkfifo(fifo)
    task = asyncio.create_task(bench.build(f"echo first; cat {fifo}"))
    await asyncio.wait_for(seen.wait(), 20)
    assert not task.done()
    fifo.write_text("")
    await task


async def test_the_cache_stays_and_the_work_goes(bench: Bench) -> None:
    await bench.build(
        'echo kept > "$CACHE/a"; mkdir -p d/ro; echo x > d/ro/x; chmod -R a-w d; echo y > "$OUT/old"'
    )
    place = await bench.build('cat "$CACHE/a"; ls > "$OUT/listing"; test ! -e "$OUT/old"')
    assert bench.lines == ["kept"]
    assert (place / "listing").read_text() == "handler.py\n"


async def test_the_source_is_never_written(bench: Bench) -> None:
    source = await bench.source(a="1\n")
    await bench.build("echo 2 >> a; rm -f a", source)
    assert (bench.blobs.path("source", source) / "a").read_text() == "1\n"


async def test_no_credential_reaches_the_log(bench: Bench) -> None:
    script = 'echo "$PIP_INDEX_URL $UV_DEFAULT_INDEX s3cret-word"; cat "$HOME/.npmrc"; env | grep -c HEARTH_ || true'
    await bench.build(script)
    text = "\n".join(bench.lines)
    assert "s3cret" not in text
    assert "https://***@127.0.0.1:9/simple" in text
    assert bench.lines[-1] == "0"
    assert all("s3cret" not in word for word in bench.driver.specs[0].argv[:-1])


async def test_exit(bench: Bench) -> None:
    error = await bench.fails("echo one; echo 'error: no such thing'; echo two; exit 3", "exit")
    assert error.message == "the build failed with exit code 3: error: no such thing"
    assert error.details["tail"] == "one\nerror: no such thing\ntwo\n"


async def test_a_command_that_fails_ends_it(bench: Bench) -> None:
    await bench.fails("false; echo not reached", "exit")
    assert bench.lines == []


async def test_places(bench: Bench) -> None:
    error = await bench.fails(
        """echo '  File "/build/work/pkg/handler.py", line 7'; echo 'SyntaxError: bad'; exit 1""", "exit"
    )
    assert (error.details["file"], error.details["line"]) == ("pkg/handler.py", 7)
    assert error.message.endswith("SyntaxError: bad")


async def test_timeout(tmp_path: Path) -> None:
    async with bench_in(tmp_path, BuildLimits(timeout=0.2)) as bench:
        await bench.fails("echo before; sleep 600 & sleep 600", "timeout")


async def test_oom(bench: Bench) -> None:
    bench.driver.oom = True
    await bench.fails("exit 137", "oom")


async def test_disk_full(bench: Bench) -> None:
    await bench.fails("echo 'cp: write error: No space left on device'; exit 1", "disk")


async def test_killed(bench: Bench) -> None:
    error = await bench.fails("kill -9 $PPID; sleep 60", "exit")
    assert "signal 9" in error.message


async def test_hostile_output(bench: Bench) -> None:
    error = await bench.fails('ln -s ../../../etc "$OUT/l"', "output")
    assert "leaves the tree" in error.message
    await bench.fails('mkfifo "$OUT/p"', "output")
    place = await bench.build('echo x > a; ln a "$OUT/a"; ln a "$OUT/b"')
    assert {path.stat().st_nlink for path in place.iterdir()} == {1}


async def test_the_script_can_not_forge_output(bench: Bench) -> None:
    """Descriptor 3 is tar's alone."""
    place = await bench.build('(echo forged >&3) 2>/dev/null || echo closed; echo x > "$OUT/x"')
    assert [path.name for path in place.iterdir()] == ["x"]
    assert bench.lines == ["closed"]


async def test_log_is_bounded(bench: Bench) -> None:
    await bench.build("head -c 9500000 /dev/zero | tr '\\0' 'x' | fold -w 999; echo the end")
    assert sum(len(line) + 1 for line in bench.lines) < 8 << 20 | 1 << 10
    assert "are not kept" in bench.lines[-1]


async def test_cancelled(bench: Bench) -> None:
    seen = asyncio.Event()
    bench.lines = type("Lines", (list,), {"append": lambda self, line: seen.set()})()
    task = asyncio.create_task(bench.build("echo on; sleep 600"))
    await asyncio.wait_for(seen.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.driver.started == {}


async def test_seed_is_made_once(bench: Bench) -> None:
    seed = Mount("seed", "go-1.99.1-std", "/opt/go-std")
    await asyncio.gather(*(bench.build("true", mounts=(seed,)) for _ in range(3)))
    assert (bench.toolchain_folder / "go-1.99.1-std" / "std").read_text() == "1.99.1\n"
    assert bench.lines.count("seeding") == 1
    assert sum(spec.disk is not None and spec.disk.name == "seed-go" for spec in bench.driver.specs) == 1


async def test_a_seed_may_take_longer_than_a_build(bench: Bench) -> None:
    bench.runner._may = BuildLimits(timeout=0.2)  # type: ignore[attr-defined]
    bench.runner._seeds = {"go": lambda _: BuildPlan('sleep 0.4; echo made > "$OUT/std"')}  # type: ignore[attr-defined]
    with contextlib.suppress(BuildFailed):  # the build itself: however fast this machine is
        await bench.build("true", mounts=(Mount("seed", "go-1.99.1-std", "/opt/go-std"),))
    assert (bench.toolchain_folder / "go-1.99.1-std" / "std").read_text() == "made\n"


async def test_a_seed_that_fails_is_ours(bench: Bench) -> None:
    bench.runner._seeds = {"go": lambda _: BuildPlan("exit 4")}  # type: ignore[attr-defined]
    with pytest.raises(PlatformError, match="could not be made"):
        await bench.build("true", mounts=(Mount("seed", "go-1.99.1-std", "/opt/go-std"),))
    assert [path.name for path in bench.toolchain_folder.iterdir()] == []
