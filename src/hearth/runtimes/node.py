"""Node.js: handlers as in AWS Lambda, and as in the web's fetch; TypeScript by type stripping."""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from pathlib import Path
from typing import Any

from hearth.core.errors import BuildFailed
from hearth.core.function import FunctionConfig
from hearth.core.launch import BuildPlan, Mount, SlotPlan, Toolchain
from hearth.runtimes import load_payload

REVISION = "node-1"  # raise it when the same source would be built differently
SHIM = "/hearth-shim"
EXTENSIONS = (".mjs", ".js", ".cjs", ".ts", ".mts", ".cts")  # as in shims/node/resolve.mjs
STEMS = ("handler", "index")
LOCKS = ("package-lock.json", "npm-shrinkwrap.json")
FOREIGN_LOCKS = ("yarn.lock", "pnpm-lock.yaml", "bun.lockb", "bun.lock")
_PACKAGE_MAX = 4 << 20  # bytes; it is read in the platform's own process
_NPM = "--no-audit --no-fund --no-update-notifier --loglevel=warn"


class NodeRuntime:
    """`ports.runtime.Runtime` for Node 18 and newer. npm is expected beside node.

    Args:
        shim: where the shim's folder stands in a sandbox.
    """

    name = "node"

    def __init__(self, shim: str = SHIM) -> None:
        self._shim = shim

    def plan_build(self, source: Path, config: FunctionConfig, toolchain: Toolchain) -> BuildPlan:
        """How the source becomes an artifact: copied, dependencies installed by npm, the handler's syntax checked.

        npm runs only when there are dependencies; scripts of packages run in the build's sandbox. Development
        dependencies are there for the build command and are gone afterwards.

        Raises BuildFailed: no handler file (when no build command could make one), TypeScript that this Node can't
        run, a package.json that can't be read.
        """
        package = _package(source)
        if not config.build_command:
            entry = _entry(source, config.handler, package)
            if entry.endswith(("ts", "mts", "cts")) and _strips_types(toolchain.version) is None:
                raise BuildFailed(
                    f"{entry} is TypeScript, which Node {toolchain.version} can't run",
                    hint="write runtime: node24 in function.yaml (22.6 or newer strips types), or deploy JavaScript",
                    details={"file": entry},
                )
        node = shlex.quote(toolchain.bin)
        flags = " ".join(_strips_types(toolchain.version) or ())
        lines = [
            "set -eu",
            "umask 022",
            f'export PATH={shlex.quote(posixpath.dirname(toolchain.bin))}:"$PATH"',
            'export npm_config_cache="$CACHE/npm"',
            'cp -R -P -p ./. "$OUT/"',
            'cd "$OUT"',
            *_install(source, package, bool(config.build_command)),
        ]
        if config.build_command:
            lines.append(f"/bin/sh -euc {shlex.quote(config.build_command)}")
            if _depends(package, development=True):
                lines.append(f"npm prune --omit=dev {_NPM}")
        lines += [
            "rm -rf node_modules/.cache",
            f"exec {node} {flags} --experimental-vm-modules --no-warnings "
            f'{shlex.quote(self._shim)}/check.mjs "$OUT" {shlex.quote(config.handler)}',
        ]
        mounts = [Mount("shim", self.name, self._shim)]
        if toolchain.mount is not None:
            mounts.append(toolchain.mount)
        env = (("NO_COLOR", "1"), ("npm_config_logs_max", "0"), ("npm_config_update_notifier", "false"))
        return BuildPlan("\n".join(lines) + "\n", env, tuple(mounts), REVISION)

    def slot(self, toolchain: Toolchain) -> SlotPlan:
        """A Node that has said hello."""
        argv = (toolchain.bin, *(_strips_types(toolchain.version) or ()), f"{self._shim}/main.mjs")
        path = f"{posixpath.dirname(toolchain.bin)}:/usr/local/bin:/usr/bin:/bin"
        env = (("PATH", path), ("HOME", "/tmp"), ("LANG", "C.UTF-8"))
        mounts = [Mount("shim", self.name, self._shim)]
        if toolchain.mount is not None:
            mounts.append(toolchain.mount)
        return SlotPlan(argv, env, tuple(mounts))

    def load(self, config: FunctionConfig, identity: dict[str, str]) -> dict[str, Any]:
        """The JSON object of the `load` frame."""
        return load_payload(config, identity)


def _strips_types(version: str) -> tuple[str, ...] | None:
    """The flags with which a Node runs TypeScript; None when it can't.

    https://nodejs.org/api/typescript.html: by flag from 22.6, without it from 22.18 and 23.6.
    """
    key = tuple(int(part) for part in version.split(".")[:2])
    quiet = "--disable-warning=ExperimentalWarning"
    if key < (22, 6):
        return None
    if key < (22, 18) or (23, 0) <= key < (23, 6):
        return ("--experimental-strip-types", quiet)
    return (quiet,)


def _package(source: Path) -> dict[str, Any]:
    """package.json, or an empty object. Raises BuildFailed."""
    path = source / "package.json"
    if not path.is_file():
        return {}
    if path.stat().st_size > _PACKAGE_MAX:
        raise BuildFailed(
            f"package.json is larger than {_PACKAGE_MAX} bytes", details={"file": "package.json"}
        )
    try:
        package = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, RecursionError):
        raise BuildFailed(
            "package.json is not UTF-8, or is nested too deep", details={"file": "package.json"}
        ) from None
    except json.JSONDecodeError as error:
        raise BuildFailed(
            f"package.json:{error.lineno}: {error.msg}",
            hint="mend it: JSON has no comments and no comma after the last item",
            details={"file": "package.json", "line": error.lineno},
        ) from None
    if not isinstance(package, dict):
        raise BuildFailed("package.json is no JSON object", details={"file": "package.json"})
    return package


def _depends(package: dict[str, Any], development: bool) -> bool:
    kinds = ["dependencies", "optionalDependencies", "workspaces"] + ["devDependencies"] * development
    return any(package.get(kind) for kind in kinds)


def _install(source: Path, package: dict[str, Any], development: bool) -> list[str]:
    """Shell lines that install what package.json names; none when it names nothing."""
    if not _depends(package, development):
        return []
    lines = [
        "command -v npm >/dev/null || { echo 'error: this machine has node without npm. hint: install npm'; exit 1; }"
    ]
    omit = "" if development else "--omit=dev "
    if any((source / name).is_file() for name in LOCKS):
        # What a lock names is known by its hash: the cache is as good as the registry.
        return [*lines, f"npm ci {omit}--prefer-offline {_NPM}"]
    for name in FOREIGN_LOCKS:
        if (source / name).is_file():
            lines.append(f"echo 'warning: {name} is not read: npm chooses versions by package.json alone'")
    return [*lines, f"npm install --no-save {omit}{_NPM}"]


def _entry(source: Path, handler: str, package: dict[str, Any]) -> str:
    """The handler's file, relative, as shims/node/resolve.mjs finds it. Raises BuildFailed."""
    if handler:
        return _named(source, handler)
    for stem in STEMS:
        if found := _with_extension(source, stem):
            return found
    main = package.get("main")
    if isinstance(main, str) and main and not Path(main).is_absolute() and ".." not in Path(main).parts:
        if (source / main).is_file():
            return main
        if found := _with_extension(source, main) or _with_extension(source, f"{main}/index"):
            return found
        raise BuildFailed(
            f"package.json names {main!r:.100} as main, and there is no such file",
            hint="mend main in package.json, or set handler: FILE.EXPORT in function.yaml",
            details={"file": "package.json"},
        )
    raise BuildFailed(
        "no handler file: the source has no handler.mjs, handler.js, handler.ts or index.*, and no main in package.json",
        hint="add handler.mjs with `export const handler = async (event, context) => …`, "
        "or set handler: FILE.EXPORT in function.yaml",
    )


def _named(source: Path, handler: str) -> str:
    path = posixpath.normpath(handler)
    if not re.fullmatch(r"[\w./@+-]+", handler) or path.startswith(("/", "..")):
        raise BuildFailed(
            f"handler {handler!r:.100} names no file and export",
            hint="write handler: FILE.EXPORT in function.yaml, such as handler.handler",
        )
    if path.endswith(EXTENSIONS) and (source / path).is_file():
        return path
    folder, base = posixpath.split(path)
    stem = posixpath.join(folder, base.split(".")[0])
    if found := _with_extension(source, stem):
        return found
    raise BuildFailed(
        f"handler is {handler}, and there is no file {stem} with an extension of {' '.join(EXTENSIONS)}",
        hint="set handler: FILE.EXPORT in function.yaml to a file you have",
    )


def _with_extension(source: Path, stem: str) -> str:
    return next((stem + end for end in EXTENSIONS if (source / (stem + end)).is_file()), "")
