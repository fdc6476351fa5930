"""Node's plans: what is refused with which words, what the script does with real Node and without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hearth.core.errors import BuildFailed
from hearth.core.function import FunctionConfig
from hearth.core.launch import Mount, Toolchain
from hearth.runtimes.node import NodeRuntime
from tests.toolchains import on_the_host

SHIM = Path(__file__).parents[2] / "src/hearth/runtimes/shims/node"
NODE = on_the_host("node")
HANDLER = {"handler.mjs": "export const handler = async () => 'x'"}
with_node = pytest.mark.skipif(NODE is None, reason="no node on this machine")


def toolchain(version: str = "20.20.2", mount: Mount | None = None) -> Toolchain:
    return Toolchain("node", version, NODE.bin if NODE else "/usr/bin/node", mount)


def config(**more: Any) -> FunctionConfig:
    return FunctionConfig(name="hello", runtime="node", **more)


def source(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "source"


def build(folder: Path, files: dict[str, str], **more: Any) -> subprocess.CompletedProcess[str]:
    """Run the plan's script as the build sandbox does."""
    runtime = NodeRuntime(str(SHIM))
    plan = runtime.plan_build(source(folder, files), config(**more), toolchain())
    for name in ("out", "cache", "home"):
        (folder / name).mkdir(exist_ok=True)
    env = {
        "PATH": f"{Path(toolchain().bin).parent}:/usr/bin:/bin",
        "HOME": str(folder / "home"),
        **dict(plan.env),
    }
    env |= {"OUT": str(folder / "out"), "CACHE": str(folder / "cache")}
    env |= {
        name: os.environ[name]
        for name in ("npm_config_registry", "NODE_EXTRA_CA_CERTS")
        if name in os.environ
    }
    return subprocess.run(
        ["/bin/sh", "-c", plan.script],
        cwd=folder / "source",
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("files", "handler", "message"),
    [
        ({}, "", "no handler file"),
        ({"main.mjs": ""}, "", "no handler file"),
        ({"package.json": '{"main": "gone.js"}'}, "", "names 'gone.js' as main"),
        ({"package.json": '{"main": "../up.js"}'}, "", "no handler file"),
        ({"package.json": '{\n"a": 1,\n}', **HANDLER}, "", "package.json:3: "),
        ({"package.json": "[]", **HANDLER}, "", "no JSON object"),
        ({"package.json": "[" * 100_000, **HANDLER}, "", "nested too deep"),
        (HANDLER, "other.handler", "there is no file other with an extension"),
        (HANDLER, "../handler.handler", "names no file and export"),
        (HANDLER, "a b", "names no file and export"),
        ({"handler.ts": ""}, "", "Node 20.20.2 can't run"),
    ],
)
def test_refused(tmp_path: Path, files: dict[str, str], handler: str, message: str) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(BuildFailed) as refusal:
        NodeRuntime().plan_build(source(tmp_path, files), config(handler=handler), toolchain())
    assert message in refusal.value.message


def test_a_build_command_may_make_the_handler(tmp_path: Path) -> None:
    plan = NodeRuntime().plan_build(
        source(tmp_path, {"a.txt": ""}), config(build_command="npm run build"), toolchain()
    )
    assert "/bin/sh -euc 'npm run build'" in plan.script


@pytest.mark.parametrize(
    ("version", "flags"),
    [
        ("20.20.2", ()),
        ("22.5.1", ()),
        ("22.6.0", ("--experimental-strip-types", "--disable-warning=ExperimentalWarning")),
        ("22.18.0", ("--disable-warning=ExperimentalWarning",)),
        ("23.5.0", ("--experimental-strip-types", "--disable-warning=ExperimentalWarning")),
        ("24.1.0", ("--disable-warning=ExperimentalWarning",)),
    ],
)
def test_slots_strip_types_where_node_can(version: str, flags: tuple[str, ...]) -> None:
    slot = NodeRuntime().slot(toolchain(version, Mount("toolchain", "node-1", "/opt/node")))
    assert slot.argv[1:] == (*flags, "/hearth-shim/main.mjs")
    assert [mount.kind for mount in slot.mounts] == ["shim", "toolchain"]


def test_npm_runs_only_for_dependencies(tmp_path: Path) -> None:
    runtime = NodeRuntime()

    def script(package: dict[str, Any], lock: bool = False, **more: Any) -> str:
        files = {"package.json": json.dumps(package), **HANDLER} | (
            {"package-lock.json": "{}"} if lock else {}
        )
        shutil.rmtree(tmp_path / "source", ignore_errors=True)
        return runtime.plan_build(source(tmp_path, files), config(**more), toolchain()).script

    assert "npm " not in script({"scripts": {"build": "x"}, "devDependencies": {"a": "1"}})
    assert "npm ci --omit=dev" in script({"dependencies": {"a": "1"}}, lock=True)
    assert "npm install --no-save --omit=dev" in script({"dependencies": {"a": "1"}})
    built = script({"devDependencies": {"a": "1"}}, lock=True, build_command="npm run build")
    assert built.index("npm ci --prefer-offline") < built.index("npm run build") < built.index("npm prune")


@with_node
def test_a_source_without_dependencies_is_copied(tmp_path: Path) -> None:
    done = build(tmp_path, {**HANDLER, "data/a.txt": "a", ".hidden": "h"})
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out/data/a.txt").read_text() == "a"
    assert (tmp_path / "out/.hidden").exists()
    assert not (tmp_path / "out/node_modules").exists()


@with_node
@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"handler.mjs": "\nexport const = 1"}, "handler.mjs:2: error: SyntaxError:"),
        ({"handler.js": "exports.a = 1\n)"}, "handler.js:2: error: SyntaxError:"),
        ({"handler.js": "import a from 'b'\nexport let c; let c"}, "handler.js:2: error: SyntaxError:"),
        ({"handler.mjs": "import './lib/b.mjs'", "lib/b.mjs": "\n\n}"}, "lib/b.mjs:3: error: SyntaxError:"),
        ({"handler.js": "require('./b')", "b.js": "let a\nlet a"}, "b.js:2: error: SyntaxError:"),
    ],
)
def test_syntax_errors_have_their_place(tmp_path: Path, files: dict[str, str], said: str) -> None:
    done = build(tmp_path, files)
    assert done.returncode == 1
    assert done.stderr.startswith(said)


@with_node
def test_a_file_that_nobody_imports_may_be_anything(tmp_path: Path) -> None:
    assert build(tmp_path, {**HANDLER, "browser.js": "<div>", "b.mjs": "("}).returncode == 0


@with_node
def test_the_handler_is_looked_for_once_built(tmp_path: Path) -> None:
    done = build(tmp_path, {"a.txt": ""}, build_command="echo built; echo 'exports.handler = 1' > index.js")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/index.js").exists()
    shutil.rmtree(tmp_path / "out")
    done = build(tmp_path, {"a.txt": ""}, build_command="true")
    assert done.returncode == 1
    assert "error: there is no handler.mjs" in done.stderr


@with_node
def test_a_failing_build_command_fails_the_build(tmp_path: Path) -> None:
    assert build(tmp_path, HANDLER, build_command="echo no >&2; false; true").returncode != 0


@with_node
@pytest.mark.network
def test_npm_installs_and_prunes(tmp_path: Path) -> None:
    package = {
        "name": "f",
        "version": "1.0.0",
        "dependencies": {"ms": "2.1.3"},
        "devDependencies": {"isarray": "2.0.5"},
        "scripts": {"build": "node -e \"require('isarray'); require('fs').writeFileSync('made.txt', '')\""},
    }
    files = {"package.json": json.dumps(package), "handler.js": "exports.handler = require('ms')"}
    done = build(tmp_path, files, build_command="npm run build")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out/node_modules/ms/package.json").exists()
    assert (tmp_path / "out/made.txt").exists()
    assert not (tmp_path / "out/node_modules/isarray").exists()
    assert (tmp_path / "cache/npm").is_dir()
