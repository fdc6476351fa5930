"""Builds Go functions for tests by the real plan. The compiled standard library is kept between runs of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

from hearth.core.function import FunctionConfig
from hearth.core.launch import Toolchain
from hearth.runtimes.go import GoRuntime, seed_name

SHIM = Path(__file__).parents[2] / "src/hearth/runtimes/shims/go"
LAUNCHER = ["/usr/bin/python3", "-I", "-S", "-B", str(SHIM / "launcher.py")]


def seed(toolchain: Toolchain) -> Path:
    """The compiled standard library: half a minute once, then from the user's cache folder."""
    plan = GoRuntime().seed_plan(toolchain)
    name = f"{seed_name(toolchain)}-{zlib.crc32(plan.script.encode()):x}"  # what an earlier plan made is another one's
    folder = Path.home() / ".cache" / "hearth-tests" / name
    if not folder.is_dir():
        work = folder.with_name(f"{folder.name}.{os.getpid()}")
        done = run_script(plan, work, work / "out")
        assert done.returncode == 0, done.stderr
        if not folder.is_dir():
            (work / "out").rename(folder)
        shutil.rmtree(work)
    return folder


def run_script(plan: Any, folder: Path, out: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a plan's script as the build sandbox does, in `folder`."""
    for path in (out, folder / "../cache", folder / "../home"):
        path.mkdir(parents=True, exist_ok=True)
    whole = {"PATH": "/usr/bin:/bin", "HOME": str((folder / "../home").resolve()), **dict(plan.env)}
    whole |= {"OUT": str(out), "CACHE": str((folder / "../cache").resolve()), **env}
    return subprocess.run(
        ["/bin/sh", "-c", plan.script], cwd=folder, env=whole, capture_output=True, text=True, check=False
    )


def build(folder: Path, toolchain: Toolchain, env: dict[str, str] | None = None, **more: Any) -> Any:
    """Build the source in ``folder/source`` into ``folder/out``."""
    runtime = GoRuntime(str(SHIM), str(seed(toolchain)))
    settings = FunctionConfig(name="hello", runtime="go", **more)
    plan = runtime.plan_build(folder / "source", settings, toolchain)
    return run_script(plan, folder / "source", folder / "out", **(env or {}))
