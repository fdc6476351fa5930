"""The Python runtime: build scripts run for real, what they make is loaded by the shim that the slot plan starts."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hearth.core.errors import BuildFailed
from hearth.core.function import FunctionConfig
from hearth.core.launch import Mount, Toolchain
from hearth.runtimes import python as runtime_module
from hearth.runtimes.python import PythonRuntime
from tests.integration.python_shim import MAIN
from tests.integration.shim_host import READY, shim, write_files

SHIM_LOAD = MAIN.parent / "hearth_shim/load.py"
TOOLCHAIN = Toolchain("python", "3.11", sys.executable)
CONFIG = FunctionConfig("hello", "python")
HANDLER = "def handler(event, context): return 'built'\n"


def build(
    folder: Path, files: dict[str, str], config: FunctionConfig = CONFIG
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run a plan's script as a builder does; the log is both outputs together."""
    source = write_files(folder / "source", files)
    out, cache = folder / "out", folder / "cache"
    out.mkdir()
    cache.mkdir()
    plan = PythonRuntime().plan_build(source, config, TOOLCHAIN)
    passed = {key: value for key, value in os.environ.items() if key.startswith(("UV_", "PIP_", "SSL_CERT"))}
    env = {
        **passed,
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(folder),
        "OUT": str(out),
        "CACHE": str(cache),
        **dict(plan.env),
    }
    done = subprocess.run(
        ["/bin/sh", "-c", plan.script],
        cwd=source,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done, out


def answer(code: Path) -> bytes:
    """What the built function answers, in the process that the slot plan describes."""
    plan = PythonRuntime().slot(TOOLCHAIN)
    argv = [part.replace("/hearth-shim", str(MAIN.parent)) for part in plan.argv]
    with shim(argv, dict(plan.env) | {"HOME": str(code)}) as host:
        kind, said = host.load(code)
        assert kind == READY, said
        return host.call(1).body


def test_a_plain_source_needs_no_network(tmp_path: Path) -> None:
    done, out = build(
        tmp_path,
        {
            "handler.py": HANDLER,
            "pkg/data.txt": "x",
            "requirements.txt": "# nothing\n\n",
            "pyproject.toml": "[tool.x]\na = 1\n[project]\nname = 'x'\ndependencies = []\n",
            "__pycache__/handler.cpython-311.pyc": "stale",
            ".hearth/python/smuggled.py": "",
        },
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert answer(out) == b"built"
    compiled = list(out.glob("__pycache__/handler.*.pyc"))
    assert len(compiled) == 1
    assert int.from_bytes(compiled[0].read_bytes()[4:8], "little") == 0b01  # PEP 552: hash-based, unchecked
    assert b"/hearth/code/handler.py" in compiled[0].read_bytes()
    assert not (out / ".hearth").exists() and (out / "pkg/data.txt").read_text() == "x"


@pytest.mark.network
@pytest.mark.parametrize(
    "told",
    [
        {"requirements.txt": "tomli-w==1.2.0\n"},
        {"pyproject.toml": "[project]\nname = 'x'\nversion = '1'\ndependencies = ['tomli-w==1.2.0']\n"},
    ],
    ids=["requirements", "pyproject"],
)
def test_dependencies(told: dict[str, str], tmp_path: Path) -> None:
    source = "import tomli_w\ndef handler(event, context): return tomli_w.dumps({'a': 1})\n"
    done, out = build(tmp_path, {"handler.py": source, **told})
    assert done.returncode == 0, done.stdout
    assert "tomli-w==1.2.0" in done.stdout
    assert answer(out) == b"a = 1\n"
    assert list(out.glob(".hearth/python/tomli_w/__pycache__/*.pyc"))


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    done, _ = build(tmp_path, {"handler.py": "x = 1\ndef handler(:\n"})
    assert done.returncode != 0
    assert (
        "handler.py:2: error: SyntaxError: invalid syntax" in done.stdout and "def handler(:" in done.stdout
    )


def test_a_syntax_error_elsewhere_is_a_warning(tmp_path: Path) -> None:
    done, out = build(tmp_path, {"handler.py": HANDLER, "old/two.py": "print 'x'\n", "nul.py": "\0"})
    assert done.returncode == 0
    assert "old/two.py:1: warning: SyntaxError" in done.stdout and "nul.py:1: warning:" in done.stdout
    assert answer(out) == b"built"


def test_a_build_command_can_make_the_handler(tmp_path: Path) -> None:
    command = """printf 'def handler(e, c): return "%s"' "it's made" > handler.py; echo made"""
    done, out = build(tmp_path, {"README": ""}, replace(CONFIG, build_command=command))
    assert (done.returncode, done.stdout) == (0, "made\n")
    assert answer(out) == b"it's made"


def test_a_build_command_that_fails_or_makes_nothing(tmp_path: Path) -> None:
    done, out = build(tmp_path / "a", {"README": ""}, replace(CONFIG, build_command="echo no >&2; exit 7"))
    assert (done.returncode, done.stdout, list(out.iterdir())) == (7, "no\n", [])
    done, _ = build(tmp_path / "b", {"README": ""}, replace(CONFIG, build_command="true", handler="api.go"))
    assert done.returncode != 0 and "error: no handler: the source has none of api.py" in done.stdout


@pytest.mark.parametrize(
    ("files", "handler", "message"),
    [
        ({"x.py": ""}, "", "no handler file: the source has none of handler.py, main.py, app.py"),
        ({"handler.py": ""}, "api.go", "there is no api.py in the source"),
        ({"handler.py": ""}, "handler", "names no module and function"),
        ({"handler.py": ""}, "handler.; rm -rf /.x", "names no module and function"),
        ({"handler.py": "", "pyproject.toml": "nonsense"}, "", "pyproject.toml can't be read"),
    ],
)
def test_what_can_not_be_built(files: dict[str, str], handler: str, message: str, tmp_path: Path) -> None:
    source = write_files(tmp_path, files)
    with pytest.raises(BuildFailed) as raised:
        PythonRuntime().plan_build(source, replace(CONFIG, handler=handler), TOOLCHAIN)
    assert message in raised.value.message and raised.value.hint


def test_slot_and_mounts() -> None:
    mount = Mount("prefix", "/srv/py", "/srv/py")
    toolchain = replace(TOOLCHAIN, bin="/srv/py/bin/python3", mount=mount)
    plan = PythonRuntime().slot(toolchain)
    assert plan.argv[0] == "/srv/py/bin/python3" and plan.argv[-1] == "/hearth-shim/main.py"
    assert plan.mounts == (Mount("shim", "python", "/hearth-shim"), mount)
    assert len(PythonRuntime().slot(TOOLCHAIN).mounts) == 1


def test_the_load_frame() -> None:
    config = replace(CONFIG, env=(("GREETING", "hei"), ("HEARTH_FUNCTION", "forged")), memory=(100 << 20) + 1)
    identity = {"function": "hello", "namespace": "ann", "version": "3"}
    assert PythonRuntime().load(config, identity) == {
        "function": "hello",
        "namespace": "ann",
        "version": "3",
        "runtime": "python",
        "code": "/hearth/code",
        "handler": "",
        "concurrency": 1,
        "memory_mb": 101,
        "timeout_ms": 30000,
        "init_timeout_ms": 10000,
        "env": {
            "GREETING": "hei",
            "PORT": "8080",
            "HEARTH_FUNCTION": "hello",
            "HEARTH_NAMESPACE": "ann",
            "HEARTH_VERSION": "3",
        },
    }


def test_build_and_shim_look_for_the_same_things() -> None:
    text = SHIM_LOAD.read_text()
    assert repr(runtime_module.MODULES).replace("'", '"') in text
    assert f'DEPENDENCIES = "{runtime_module.DEPENDENCIES}"' in text
