"""Which files of a project are left out of its archive: the rules of .gitignore and .hearthignore, and our own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from hearth.core.errors import InvalidSource

# What no function needs at run time and what is big, private to the machine, or made again by the build.
ALWAYS = (
    ".git", ".hg", ".svn", ".DS_Store", ".idea/", ".vscode/", "*.swp", "*~",
    "node_modules/", "__pycache__/", "*.pyc", ".venv/", "venv/", ".tox/", ".nox/",
    ".mypy_cache/", ".pytest_cache/", ".ruff_cache/",
)  # fmt: skip
IGNORE_FILES = (".gitignore", ".hearthignore")  # in one folder the later one has the last word
NEEDED = "function.yaml"


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules that hold in one folder: its own, and those of the folders above, outermost first.

    Each layer is the depth of its folder (the number of path parts that its patterns don't see) and its patterns.
    """

    layers: tuple[tuple[int, GitIgnoreSpec], ...]

    def ignores(self, path: str, *, folder: bool) -> bool:
        """Whether `path` (relative to the project, with ``/``) is left out. The innermost rule that knows it decides."""
        if path == NEEDED:
            return False
        parts = path.split("/")
        for depth, spec in reversed(self.layers):
            verdict = spec.check_file("/".join(parts[depth:]) + ("/" if folder else "")).include
            if verdict is not None:
                return verdict
        return False

    def entering(self, folder: Path, depth: int) -> Rules:
        """The rules inside `folder`, which lies `depth` parts below the project's root.

        Raises:
            InvalidSource: an ignore file that is no text or holds a pattern that makes no sense.
            OSError: it can't be read.
        """
        layers = list(self.layers)
        for name in IGNORE_FILES:
            file = folder / name
            if not file.is_file():
                continue
            try:
                layers.append((depth, GitIgnoreSpec.from_lines(file.read_text("utf-8").splitlines())))
            except ValueError as error:  # UnicodeDecodeError and pathspec's pattern errors are ValueErrors
                raise InvalidSource(
                    f"{file} can't be read: {error}", hint="write it like a .gitignore"
                ) from error
        return Rules(tuple(layers))


def default_rules() -> Rules:
    """The rules that hold everywhere, unless an ignore file takes one back with ``!``."""
    return Rules(((0, GitIgnoreSpec.from_lines(ALWAYS)),))
