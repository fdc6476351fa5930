"""Python: handlers as in AWS Lambda, ASGI and WSGI applications."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import Any

from hearth.core.errors import BuildFailed
from hearth.core.function import FunctionConfig
from hearth.core.launch import BuildPlan, Mount, SlotPlan, Toolchain
from hearth.runtimes import CODE, load_payload

REVISION = "python-1"  # raise it when the same source would be built differently
SHIM = "/hearth-shim"
DEPENDENCIES = ".hearth/python"  # below the artifact; the shim looks there (shims/python/hearth_shim/load.py)
MODULES = (
    "handler",
    "main",
    "app",
    "lambda_function",
    "index",
)  # where a handler is looked for, in this order

# Run by the build. argv: folder, the handler's module or '', candidates. Says FILE:LINE for each syntax error; one in
# the handler's own file fails the build, one elsewhere (a template, old code that nobody imports) is a warning.
_CHECK = """\
import os, sys
root, wanted, candidates = sys.argv[1], sys.argv[2], sys.argv[3:]
def file_of(module):
    path = module.replace(".", "/")
    for name in (path + ".py", path + "/__init__.py"):
        if os.path.isfile(os.path.join(root, name)):
            return name
entry = next(filter(None, map(file_of, [wanted] if wanted else candidates)), None)
if entry is None:
    names = ", ".join(name.replace(".", "/") + ".py" for name in ([wanted] if wanted else candidates))
    sys.exit(f"error: no handler: the source has none of {names}")
failed = False
for folder, folders, files in os.walk(root):
    folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in ("node_modules", "__pycache__"))
    for name in sorted(files):
        if not name.endswith(".py"):
            continue
        path = os.path.join(folder, name)
        shown = os.path.relpath(path, root)
        try:
            with open(path, "rb") as file:
                compile(file.read(), shown, "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            message = getattr(error, "msg", None) or error
            kind = "error" if shown == entry else "warning"
            failed = failed or shown == entry
            print(f"{shown}:{line}: {kind}: {type(error).__name__}: {message}", file=sys.stderr)
            text = getattr(error, "text", None)
            if text:
                print("    " + text.strip()[:200], file=sys.stderr)
sys.exit(1 if failed else 0)
"""


class PythonRuntime:
    """`ports.runtime.Runtime` for Python 3.11 and newer.

    In the build sandbox `uv` is expected on the PATH; it is used only when there are dependencies.
    """

    name = "python"

    def plan_build(self, source: Path, config: FunctionConfig, toolchain: Toolchain) -> BuildPlan:
        """How the source becomes an artifact: copied, dependencies beside it, everything compiled.

        Raises BuildFailed: no handler file (when no build command could make one), a pyproject.toml or a handler
        setting that can't be read.
        """
        wanted = _wanted_module(config.handler)
        if not config.build_command:
            _demand_handler(source, wanted)
        lists = _requirements(source)
        python = shlex.quote(toolchain.bin)
        lines = ["set -eu", "umask 022"]
        if config.build_command:
            lines.append(f"/bin/sh -euc {shlex.quote(config.build_command)}")
        lines += [
            'cp -R -P -p ./. "$OUT/"',
            'rm -rf "$OUT/.hearth"',
            'find "$OUT" -name __pycache__ -type d -prune -exec rm -rf {} +',
            f'{python} -I -S -c {shlex.quote(_CHECK)} "$OUT" {shlex.quote(wanted)} {" ".join(MODULES)}',
        ]
        if lists:
            files = " ".join(f"-r {name}" for name in lists)
            lines.append(
                f'uv pip install --python {python} --target "$OUT/{DEPENDENCIES}" --link-mode copy --no-progress '
                f'--cache-dir "$CACHE/uv" {files}'
            )
            lines.append(f'rm -f "$OUT/{DEPENDENCIES}/.lock"')
        # A read-only tree can't keep what an import compiles. Files of packages that are no valid Python stay as
        # they are. The paths in tracebacks are those of the function's sandbox.
        lines.append(
            f"{python} -I -S -m compileall -qq --invalidation-mode unchecked-hash "
            f'-s "$OUT" -p {CODE} "$OUT" || :'
        )
        env = (("UV_PYTHON_DOWNLOADS", "never"), ("NO_COLOR", "1"), ("PYTHONUTF8", "1"))
        mounts = () if toolchain.mount is None else (toolchain.mount,)
        return BuildPlan("\n".join(lines) + "\n", env, mounts, REVISION)

    def slot(self, toolchain: Toolchain) -> SlotPlan:
        """An interpreter that has said hello: without site packages, which belong to the machine, not the function."""
        argv = (toolchain.bin, "-I", "-S", "-B", "-X", "utf8", "-X", "faulthandler", f"{SHIM}/main.py")
        env = (("PATH", "/usr/local/bin:/usr/bin:/bin"), ("HOME", "/tmp"), ("LANG", "C.UTF-8"))
        mounts = [Mount("shim", self.name, SHIM)]
        if toolchain.mount is not None:
            mounts.append(toolchain.mount)
        return SlotPlan(argv, env, tuple(mounts))

    def load(self, config: FunctionConfig, identity: dict[str, str]) -> dict[str, Any]:
        """The JSON object of the `load` frame."""
        return load_payload(config, identity)


def _wanted_module(handler: str) -> str:
    """``pkg.handler.main`` gives ``pkg.handler``; an empty setting gives ''. Raises BuildFailed."""
    if not handler:
        return ""
    module, _, name = handler.replace(":", ".").replace("/", ".").rpartition(".")
    if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise BuildFailed(
            f"handler {handler!r} names no module and function",
            hint="write handler: MODULE.NAME in function.yaml, such as handler.handler",
        )
    return module


def _demand_handler(source: Path, wanted: str) -> None:
    names = [wanted] if wanted else list(MODULES)
    for name in names:
        path = source.joinpath(*name.split("."))
        if path.with_name(path.name + ".py").is_file() or (path / "__init__.py").is_file():
            return
    shown = ", ".join(name.replace(".", "/") + ".py" for name in names)
    if wanted:
        raise BuildFailed(
            f"there is no {shown} in the source",
            hint="set handler: MODULE.NAME in function.yaml to a file you have",
        )
    raise BuildFailed(
        f"no handler file: the source has none of {shown}",
        hint="add handler.py with `def handler(event, context)`, or set handler: MODULE.NAME in function.yaml",
    )


def _requirements(source: Path) -> list[str]:
    """The files that name dependencies. Raises BuildFailed for a pyproject.toml that is no TOML."""
    found = []
    path = source / "requirements.txt"
    if path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace")
        if any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines()):
            found.append(path.name)
    path = source / "pyproject.toml"
    if path.is_file():
        try:
            project = tomllib.loads(path.read_text(encoding="utf-8")).get("project")
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BuildFailed(
                f"pyproject.toml can't be read: {error}", hint="mend it, or remove it"
            ) from None
        if isinstance(project, dict) and (
            project.get("dependencies") or "dependencies" in project.get("dynamic", ())
        ):
            found.append(path.name)
    return found
