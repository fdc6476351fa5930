"""The house's own rules: file lengths, import circles, one reader of the environment, one place of wiring."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "hearth").rglob("*.py"))
LONGEST = 500


def _modules() -> dict[str, Path]:
    found = {}
    for path in SOURCES:
        parts = list(path.relative_to(ROOT / "src").with_suffix("").parts)
        if "shims" in parts:
            continue
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imports(path: Path, modules: dict[str, Path]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:  # `from package import module` is an import of the module
                module = f"{node.module}.{alias.name}"
                found.add(module if module in modules else node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name in modules}


@pytest.mark.parametrize(
    "path", [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST, f"split {path.name}: more than {LONGEST} lines"


def test_no_import_circles() -> None:
    modules = _modules()
    graph = {name: _imports(path, modules) - {name} for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"circle: {' → '.join((*way[way.index(name) :], name))}"
        if name in done:
            return
        for other in graph[name]:
            visit(other, (*way, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_only_config_reads_the_environment() -> None:
    for name, path in _modules().items():
        if name == "hearth.config":
            continue
        text = path.read_text()
        assert "os.environ" not in text and "os.getenv" not in text, f"{name} reads the environment"


def test_every_folder_with_code_is_a_package() -> None:
    for path in SOURCES:
        if "shims" not in path.parts and "templates" not in path.parts:
            assert (path.parent / "__init__.py").exists(), f"{path.parent} has no __init__.py"


def test_shims_know_nothing_of_hearth() -> None:
    for path in (ROOT / "src" / "hearth" / "runtimes" / "shims").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else []
            )
            assert not any(name.split(".")[0] == "hearth" for name in names), f"{path.name} imports hearth"
