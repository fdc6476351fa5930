"""Go: a handler function in package main, to which the build adds the program around it."""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from pathlib import Path
from typing import Any

from hearth.core import limits
from hearth.core.errors import BuildFailed
from hearth.core.function import FunctionConfig
from hearth.core.launch import BuildPlan, Mount, SlotPlan, Toolchain
from hearth.runtimes import load_payload
from hearth.runtimes.go_source import Handler, find_handler

REVISION = "go-2"  # raise it when the same source would be built differently
SHIM = "/hearth-shim"
SEED = "/seed/go"
PYTHON = "/usr/bin/python3"  # the system's; the launcher needs nothing but its standard library
BINARY = "function"  # in the artifact's root; shims/go/launcher.py starts it
PACKAGE = "internal/hearthshim"  # what the shim is in the function's own module
MAIN = "hearth_main.go"
_SHIM_FILES = ("body.go", "call.go", "failure.go", "frames.go", "logs.go", "response.go", "serve.go")
_NOT_DATA = ("*.go", "./go.mod", "./go.sum", "./go.work", "./go.work.sum", "./vendor", "./.git")
# Of the standard library, what functions hardly use; what others of it need is compiled all the same.
_NOT_SEEDED = r"(^|/)(go|debug|testing|internal|vendor|plugin|cmd|test|httptest)(/|$)"
# The same in every build and in the seed: what differs here compiles the standard library again.
_ENV = (
    ("GOTOOLCHAIN", "local"),
    # Nothing for debuggers, which a linked binary has not anyway (-s -w): a sixth less work.
    ("GOFLAGS", "-trimpath -modcacherw -buildvcs=false -gcflags=all=-dwarf=false"),
    ("GOENV", "off"),
    ("CGO_ENABLED", "0"),
    ("GOMAXPROCS", str(int(limits.BUILD_CPU))),
)


class GoRuntime:
    """`ports.runtime.Runtime` for Go 1.21 and newer.

    Args:
        shim: where the shim's folder stands in a sandbox.
        seed: where the compiled standard library (`seed_plan`) stands in a build's sandbox.
        python: the interpreter of the launcher, inside a sandbox.
    """

    name = "go"

    def __init__(self, shim: str = SHIM, seed: str = SEED, python: str = PYTHON) -> None:
        self._shim = shim
        self._seed = seed
        self._python = python

    def plan_build(self, source: Path, config: FunctionConfig, toolchain: Toolchain) -> BuildPlan:
        """How the source becomes an artifact: a static binary, and the files that are no Go source beside it.

        The shim and a main function are laid over the source by `go build -overlay`: no file of it changes.

        Raises BuildFailed: no handler, a main function, another package than main, a go.mod that can't be read.
        """
        handler = find_handler(source, config.name, config.handler)
        if (source / BINARY).exists() or (source / BINARY).is_symlink():
            raise BuildFailed(
                f"the source has a file or folder named {BINARY!r}, where the built program goes",
                hint="rename it",
                details={"file": BINARY},
            )
        module, made = _module(source, config.name)
        vendored = (source / "vendor" / "modules.txt").is_file()
        lines = [
            "set -eu",
            "umask 022",
            f'export PATH={shlex.quote(posixpath.dirname(toolchain.bin))}:"$PATH"',
            f'export GOMODCACHE="$CACHE/gomod" GOCACHE="$CACHE/gobuild-{toolchain.version}"',
            'work=$(mktemp -d "$CACHE/gowork.XXXXXX")',
            "trap 'rm -rf \"$work\"' EXIT",
            'export GOTMPDIR="$work"',
            *self._link_seed(),
        ]
        if config.build_command:
            lines.append(f"/bin/sh -euc {shlex.quote(config.build_command)}")
        lines += [
            *_overlay(self._shim, module, made, handler),
            f"go build -mod={'vendor' if vendored else 'readonly'} -ldflags='-s -w' "
            f'-overlay "$work/overlay.json" -o "$OUT/{BINARY}" .',
            f'tar {" ".join(f"--exclude={shlex.quote(name)}" for name in _NOT_DATA)} -cf - . | tar -xf - -C "$OUT"',
        ]
        mounts = [Mount("shim", self.name, self._shim), Mount("seed", seed_name(toolchain), self._seed)]
        if toolchain.mount is not None:
            mounts.append(toolchain.mount)
        return BuildPlan("\n".join(lines) + "\n", _ENV, tuple(mounts), REVISION)

    def _link_seed(self) -> list[str]:
        """Shell lines that lay links to the seed's files into the namespace's own, writable cache (33 ms, 2,500 links).

        Go forgets what it has not seen used for five days, and judges a link by its own age: links are made anew
        before that. Caches of other toolchains go when a month has passed.
        """
        seed = shlex.quote(self._seed)
        return [
            'mkdir -p "$GOCACHE"',
            f'if [ -d {seed}/00 ] && [ -z "$(find "$GOCACHE/seeded" -mtime -3 2>/dev/null)" ]; then',
            f'  cp -rsf --no-preserve=mode {seed}/. "$GOCACHE/"',
            '  : > "$GOCACHE/seeded"',
            "fi",
            'find "$CACHE" -maxdepth 1 -name "gobuild-*" -mtime +30 ! -path "$GOCACHE" -exec rm -rf {} +',
        ]

    def seed_plan(self, toolchain: Toolchain) -> BuildPlan:
        """How the standard library is compiled, once per toolchain; its artifact is what `seed_name` names.

        Go's own tools (parsers, debuggers, tests) are left out, a third of the work: the function that uses one has it compiled into
        its namespace's cache. At most 20 s of two cores, 400 MB of memory and 100 MB of disk; needs no network.
        """
        script = [
            "set -eu",
            "umask 022",
            f'export PATH={shlex.quote(posixpath.dirname(toolchain.bin))}:"$PATH"',
            'export GOCACHE="$OUT" GOTMPDIR="$CACHE"',
            f"packages=$(go list std | grep -vE {shlex.quote(_NOT_SEEDED)})",
            "go build $packages",
            'rm -f "$OUT/trim.txt" "$OUT/testexpire.txt"',  # a cache's own state, which no link may share
        ]
        mounts = () if toolchain.mount is None else (toolchain.mount,)
        return BuildPlan("\n".join(script) + "\n", _ENV, mounts, f"{REVISION}-seed")

    def slot(self, toolchain: Toolchain) -> SlotPlan:
        """The launcher, which has said hello. It needs no Go: a function's binary stands alone."""
        argv = (self._python, "-I", "-S", "-B", f"{self._shim}/launcher.py")
        env = (("PATH", "/usr/local/bin:/usr/bin:/bin"), ("HOME", "/tmp"), ("LANG", "C.UTF-8"))
        return SlotPlan(argv, env, (Mount("shim", self.name, self._shim),))

    def load(self, config: FunctionConfig, identity: dict[str, str]) -> dict[str, Any]:
        """The JSON object of the `load` frame; `cpu` (cores) becomes GOMAXPROCS."""
        return load_payload(config, identity) | {"cpu": config.cpu}


def seed_name(toolchain: Toolchain) -> str:
    """The folder below toolchains/ with a toolchain's compiled standard library, such as ``go-1.26.8-std2``; another number for other
    flags, for a build finds nothing that was compiled with others."""
    return f"go-{toolchain.version}-std2"


def _module(source: Path, function: str) -> tuple[str, bool]:
    """(the module's path, whether its go.mod is to be made). Raises BuildFailed."""
    path = source / "go.mod"
    if not path.is_file():
        return f"hearth.local/{function}", True
    match = re.search(r'^module[ \t]+"?([^\s"]+)"?', path.read_text(encoding="utf-8", errors="replace"), re.M)
    if match is None:
        raise BuildFailed(
            "go.mod has no module line", hint="write: module example.com/NAME", details={"file": "go.mod"}
        )
    return match[1], False


def _overlay(shim: str, module: str, made: bool, handler: Handler) -> list[str]:
    """Shell lines that write overlay.json and what it names into ``$work``."""
    main = (
        "//go:build go1.21\n\npackage main\n\n"
        f'import hearthshim "{module}/{PACKAGE}"\n\n'
        f"func main() {{ hearthshim.Serve({json.dumps(handler.name)}, {handler.name}) }}\n"
    )
    files = {MAIN: ("$work/main.go", main)}
    if made:
        files["go.mod"] = ("$work/go.mod", f"module {module}\n\ngo 1.21\n")
    replace = [(f"$PWD/{PACKAGE}/{name}", f"{shim}/hearthshim/{name}") for name in _SHIM_FILES]
    replace += [(f"$PWD/{name}", real) for name, (real, _) in files.items()]
    lines = [f'printf %s {shlex.quote(text)} > "{real}"' for real, text in files.values()]
    # The build's own paths are only known to the shell.
    pairs = ",".join(f'"{virtual}":"{real}"' for virtual, real in replace)
    lines.append(f'cat > "$work/overlay.json" <<EOF\n{{"Replace":{{{pairs}}}}}\nEOF')
    return lines
