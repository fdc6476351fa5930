"""Go's plans: which function is the handler, what is refused, what the script gives with a real compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hearth.core.errors import BuildFailed
from hearth.core.function import FunctionConfig
from hearth.core.launch import Mount, Toolchain
from hearth.runtimes.go import GoRuntime, seed_name
from hearth.runtimes.go_source import camel_case, find_handler

SIGNATURE = "(w http.ResponseWriter, r *http.Request)"


def go_file(body: str, package: str = "main") -> str:
    return f'package {package}\n\nimport "net/http"\n\n{body}\n'


HANDLER = go_file(f"func Handler{SIGNATURE} {{}}")


def toolchain() -> Toolchain:
    return Toolchain("go", "1.26.8", "/usr/local/go/bin/go")


def config(**more: Any) -> FunctionConfig:
    return FunctionConfig(name="hello-world", runtime="go", **more)


def source(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("body", "setting", "name", "line"),
    [
        (f"func Handler{SIGNATURE} {{}}", "", "Handler", 5),
        (f"func HelloWorld{SIGNATURE} {{}}\nfunc Handler{SIGNATURE} {{}}", "", "HelloWorld", 5),
        (f"func other() {{}}\nfunc serve{SIGNATURE} {{}}", "serve", "serve", 6),
        ("func Handler(out web.ResponseWriter,\n\tin *web.Request,\n) {}", "", "Handler", 5),
        ("func Handler(http.ResponseWriter, *http.Request) {}", "", "Handler", 5),
        ("func Handler(_ ResponseWriter, _ *Request) {}", "", "Handler", 5),
        (f"// func HelloWorld{SIGNATURE} {{}}\nfunc Handler{SIGNATURE} {{}}", "", "Handler", 6),
        (
            f"/*\nfunc HelloWorld{SIGNATURE} {{}}\n*/\nvar s = `\nfunc main() {{}}`\nfunc Handler{SIGNATURE} {{}}",
            "",
            "Handler",
            10,
        ),
        (f"func (t T) HelloWorld{SIGNATURE} {{}}\nfunc Handler{SIGNATURE} {{}}", "", "Handler", 6),
    ],
)
def test_handlers_found(tmp_path: Path, body: str, setting: str, name: str, line: int) -> None:
    found = find_handler(source(tmp_path, {"handler.go": go_file(body)}), "hello-world", setting)
    assert (found.name, found.file, found.line) == (name, "handler.go", line)


@pytest.mark.parametrize(
    ("files", "setting", "message", "hint"),
    [
        ({}, "", "no Go file", "add handler.go"),
        ({"a_test.go": HANDLER}, "", "no Go file", "add handler.go"),
        ({"sub/a.go": HANDLER}, "", "no Go file", "add handler.go"),
        ({"a.go": go_file("", "function")}, "", "a.go:1: package function", "package main"),
        (
            {"a.go": go_file("func main() {\n}")},
            "",
            "a.go:5: a Go program with a main function",
            "Hearth adds",
        ),
        (
            {"a.go": HANDLER, "b.go": go_file("func main() {}")},
            "",
            "b.go:5: a Go program with a main function of its own is not yet supported",
            "remove it",
        ),
        ({"a.go": go_file("func Handler(a string) {}")}, "", "a.go:5: func Handler is no handler", SIGNATURE),
        ({"a.go": go_file(f"func Handler{SIGNATURE} error {{}}")}, "", "is no handler", SIGNATURE),
        (
            {"a.go": go_file(f"func Other{SIGNATURE} {{}}")},
            "",
            "no func HelloWorld or func Handler",
            "handler: Other",
        ),
        ({"a.go": HANDLER}, "Missing", "there is no func Missing", "handler: Handler"),
        ({"a.go": HANDLER}, "handler.Handler", "no name of a Go function", "handler: NAME"),
        ({"a.go": HANDLER, "function": ""}, "", "named 'function'", "rename"),
        ({"a.go": HANDLER, "go.mod": "go 1.21\n"}, "", "no module line", "module example.com"),
    ],
)
def test_refused(tmp_path: Path, files: dict[str, str], setting: str, message: str, hint: str) -> None:
    with pytest.raises(BuildFailed) as refusal:
        GoRuntime().plan_build(source(tmp_path, files), config(handler=setting), toolchain())
    assert message in refusal.value.message
    assert hint in (refusal.value.hint or "")


def test_an_ignored_file_does_not_count(tmp_path: Path) -> None:
    tool = "//go:build ignore\n\n" + go_file("func main() {}")
    files = {"a.go": HANDLER, "tool.go": tool, "a_test.go": go_file("func main() {}")}
    assert find_handler(source(tmp_path, files), "x", "").name == "Handler"


def test_camel_case() -> None:
    assert [camel_case(name) for name in ("hello", "hello-world", "a1-b2")] == ["Hello", "HelloWorld", "A1B2"]


def test_mounts_slot_and_load(tmp_path: Path) -> None:
    runtime = GoRuntime()
    chain = Toolchain("go", "1.25.1", "/opt/go/bin/go", Mount("toolchain", "go-1.25.1", "/opt/go"), "wheel")
    plan = runtime.plan_build(source(tmp_path, {"a.go": HANDLER}), config(), chain)
    assert [(mount.kind, mount.name) for mount in plan.mounts] == [
        ("shim", "go"),
        ("seed", "go-1.25.1-std2"),
        ("toolchain", "go-1.25.1"),
    ]
    assert seed_name(chain) == "go-1.25.1-std2"
    assert runtime.seed_plan(chain).env == plan.env  # else the standard library is compiled again
    slot = runtime.slot(chain)
    assert slot.argv == ("/usr/bin/python3", "-I", "-S", "-B", "/hearth-shim/launcher.py")
    assert [mount.kind for mount in slot.mounts] == ["shim"]
    load = runtime.load(config(cpu=1.5), {"function": "f", "namespace": "ann", "version": "2"})
    assert (load["cpu"], load["runtime"], load["env"]["HEARTH_VERSION"]) == (1.5, "go", "2")


def test_vendored_modules_are_used(tmp_path: Path) -> None:
    files = {"a.go": HANDLER, "go.mod": "module a.b/c\n", "vendor/modules.txt": ""}
    assert "-mod=vendor" in GoRuntime().plan_build(source(tmp_path, files), config(), toolchain()).script
    shutil.rmtree(tmp_path / "vendor")
    assert "-mod=readonly" in GoRuntime().plan_build(tmp_path, config(), toolchain()).script


def test_the_shims_files_are_all_laid_over(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "src/hearth/runtimes/shims/go/hearthshim"
    script = GoRuntime().plan_build(source(tmp_path, {"a.go": HANDLER}), config(), toolchain()).script
    for path in folder.glob("*.go"):
        assert f"/hearth-shim/hearthshim/{path.name}" in script
        assert os.access(path, os.R_OK)


def test_the_script_is_shell(tmp_path: Path) -> None:
    runtime = GoRuntime()
    plan = runtime.plan_build(
        source(tmp_path, {"a.go": HANDLER}), config(build_command="a 'b' $c"), toolchain()
    )
    for script in (plan.script, runtime.seed_plan(toolchain()).script):
        subprocess.run(["/bin/sh", "-n", "-c", script], check=True)
