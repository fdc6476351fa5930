"""Finds the handler in Go source, without a Go compiler: comments and strings are blanked, the rest is matched."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hearth.core.errors import BuildFailed

DEFAULT = "Handler"
SIGNATURE = "func NAME(w http.ResponseWriter, r *http.Request)"

_READ_MAX = 8 << 20  # bytes of source that are searched; the platform's own process does it
_BLANKED = re.compile(r"//[^\n]*|/\*.*?\*/|`[^`]*`|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'", re.DOTALL)
_PACKAGE = re.compile(r"^\s*package\s+(\w+)", re.M)
_FUNC = re.compile(r"^func\s+(\w+)\s*(\([^{]*)", re.M)
_PARAMETERS = re.compile(
    r"\(\s*(?:\w+\s+)?(?:\w+\s*\.\s*)?ResponseWriter\s*,\s*(?:\w+\s+)?\*\s*(?:\w+\s*\.\s*)?Request\s*,?\s*\)\s*\Z"
)
_IGNORED = re.compile(r"^//go:build\s+ignore\b|^// \+build\s+ignore\b", re.M)


@dataclass(frozen=True, slots=True)
class Handler:
    """A function found: its name, and where it stands."""

    name: str
    file: str
    line: int


def find_handler(source: Path, function: str, setting: str) -> Handler:
    """The handler in the source's root folder.

    Args:
        source: the unpacked source.
        function: the function's name in Hearth; ``hello-world`` looks for ``HelloWorld``, then ``Handler``.
        setting: the name that function.yaml gives, or empty.

    Raises:
        BuildFailed: there is none, it has another signature, the package is not main or has a main function;
            with file and line where they are known.
    """
    if setting and not re.fullmatch(r"[^\W\d]\w*", setting):
        raise BuildFailed(
            f"handler {setting!r:.80} is no name of a Go function",
            hint="write handler: NAME in function.yaml, such as Handler",
        )
    functions, packages = _read(source)
    if not packages:
        raise BuildFailed(
            "no Go file: the source's root has no .go file",
            hint=f"add handler.go with `{SIGNATURE.replace('NAME', DEFAULT)}` in package main",
        )
    for package, place in packages.items():
        if package != "main":
            raise _failed(
                place, f"package {package}: a function's Go files are package main", "write: package main"
            )
    shaped = {
        name: found for name, (found, parameters) in functions.items() if _PARAMETERS.fullmatch(parameters)
    }
    if "main" in functions:
        raise _failed(
            functions["main"][0],
            "a Go program with a main function of its own is not yet supported",
            f"remove it and write `{SIGNATURE.replace('NAME', DEFAULT)}`: Hearth adds the server around it",
        )
    wanted = [setting] if setting else [camel_case(function), DEFAULT]
    for name in wanted:
        if name in shaped:
            return shaped[name]
        if name in functions:
            signature = SIGNATURE.replace("NAME", name)
            raise _failed(functions[name][0], f"func {name} is no handler", f"write: {signature}")
    message = f"no handler: there is no func {' or func '.join(dict.fromkeys(wanted))}"
    others = sorted(name for name in shaped if name[0].isupper())
    if others:
        raise _failed(shaped[others[0]], message, f"write handler: {others[0]} in function.yaml")
    raise BuildFailed(message, hint=f"write: {SIGNATURE.replace('NAME', wanted[-1])}")


def camel_case(name: str) -> str:
    """``hello-world`` gives ``HelloWorld``."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("-"))


def _failed(place: Handler, message: str, hint: str) -> BuildFailed:
    return BuildFailed(
        f"{place.file}:{place.line}: {message}", hint=hint, details={"file": place.file, "line": place.line}
    )


def _read(source: Path) -> tuple[dict[str, tuple[Handler, str]], dict[str, Handler]]:
    """(functions by name, with their place and parameters; the place of each package clause)."""
    functions: dict[str, tuple[Handler, str]] = {}
    packages: dict[str, Handler] = {}
    left = _READ_MAX
    for path in sorted(source.glob("*.go")):
        if path.name.endswith("_test.go") or path.name.startswith(("_", ".")) or not path.is_file():
            continue
        left -= path.stat().st_size
        if left < 0:
            continue  # nobody writes a handler that long: data made into source
        text = path.read_text(encoding="utf-8", errors="replace")
        blank = _BLANKED.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
        package = _PACKAGE.search(blank)
        if package is None or _IGNORED.search(text, 0, package.start(1)):
            continue
        packages.setdefault(package[1], _place(path, blank, package.start(1)))
        for match in _FUNC.finditer(blank):
            functions.setdefault(match[1], (_place(path, blank, match.start()), match[2].strip()))
    return functions, packages


def _place(path: Path, text: str, at: int) -> Handler:
    name = re.match(r"\w+", text[at:].removeprefix("func").lstrip())
    return Handler(name[0] if name else "", path.name, text.count("\n", 0, at) + 1)
