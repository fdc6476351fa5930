"""deploy-function: pack, upload, follow the build, say how to call it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hearth.cli.commands.functions import CALLERS
from hearth.cli.context import connect, namespace_of
from hearth.cli.follow import follow_deploy, uploading
from hearth.cli.names import FUNCTION
from hearth.cli.options import Options, common, pass_options
from hearth.cli.output import emit, facts, note, warn
from hearth.cli.recipes import calling
from hearth.cli.text import safe
from hearth.core.errors import InvalidInput, InvalidManifest, NotFound
from hearth.core.names import check_function, check_namespace

if TYPE_CHECKING:
    from hearth.core.function import FunctionConfig

MANIFEST = "function.yaml"
_MANIFEST_MAX = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Project:
    """A folder that is to be deployed, with its settings. `namespace` is None where NAME didn't name one."""

    folder: Path
    config: FunctionConfig
    namespace: str | None


@click.command(name="deploy-function")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option(
    "-n",
    "--name",
    metavar="NAME",
    type=FUNCTION,
    help="The function: ./NAME, or this folder when it is of that name.",
)
@common
@pass_options
def deploy_function(options: Options, path: Path | None, name: str | None) -> None:
    """Deploy a project: PATH, ./NAME, or this folder. Traffic moves when the new version has proven that it loads.

    Short name: deploy. What .gitignore and .hearthignore name is not sent.

    \b
    Example:
      hearth deploy-function -n hello
      hearth deploy ./services/hello --namespace team
    """
    from hearth.client.pack import pack_folder

    project = find_project(path, name)
    function = project.config.name
    with connect(options) as client, tempfile.TemporaryDirectory(prefix="hearth-deploy-") as scratch:
        namespace = project.namespace or namespace_of(options, client)
        archive = Path(scratch) / "source.tar.gz"
        packed = pack_folder(project.folder, archive)
        note(f"Deploying {namespace}/{function} from {safe(str(project.folder))} ({packed.files} files)")
        with uploading(packed.packed, shown=not options.json) as progress:
            deployed = client.deploy(namespace, function, archive, progress=progress)
        for warning in deployed.warnings:
            warn(warning)
        note(f"Uploaded version {deployed.version}.")
        url, ready = follow_deploy(client, deployed)
        result: dict[str, Any] = {
            "name": function,
            "namespace": namespace,
            "version": deployed.version,
            "state": ready.state,
            "url": url,
            "auth": ready.auth,
            "call": calling(
                url, ready.auth, f"{namespace}/{function}", has_key=client.connection.api_key is not None
            ),
            "warnings": deployed.warnings,
        }
    if options.json:
        emit(result)
        return
    lines = result["call"]
    facts(
        [
            ("function", f"{namespace}/{function}"),
            ("version", f"{deployed.version} (live)"),
            ("url", url),
            ("may call", f"{CALLERS.get(ready.auth, ready.auth)} (auth: {ready.auth})"),
            *[("call it" if line == lines[0] else "", line) for line in lines],
        ]
    )


def find_project(path: Path | None, name: str | None) -> Project:
    """The project that is meant, with its function.yaml checked.

    Raises:
        NotFound: there is none at that place.
        InvalidManifest: its function.yaml is wrong, with the line. InvalidInput: it is of another function.
    """
    namespace, wanted = None, None
    if name is not None:
        before, slash, wanted = name.rpartition("/")
        namespace = check_namespace(before) if slash else None
        check_function(wanted)
    if path is not None:
        folder = path
    elif wanted is None or _is_here(wanted):
        folder = Path()
    else:
        folder = Path(wanted)
    if not folder.exists():
        here = ""
        if wanted is not None and path is None:
            here = f" in {Path.cwd()}"
            if Path(MANIFEST).is_file():
                here += f", and its {MANIFEST} is not of {wanted}"
        raise NotFound(
            f"there is no folder {folder}{here}",
            hint=f"make it: hearth create-function -n {wanted or 'NAME'}; or name another: hearth deploy PATH",
        )
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is not a folder", hint=f"name the folder that holds {MANIFEST}")
    config = read_config(folder / MANIFEST)
    if wanted is not None and config.name != wanted:
        raise InvalidInput(
            f"{folder / MANIFEST} is of {config.name!r}, not of {wanted!r}",
            hint=f"use: hearth deploy {folder}",
        )
    return Project(folder, config, namespace)


def read_config(file: Path) -> FunctionConfig:
    """A function.yaml, checked as the server will check it. Raises NotFound, InvalidManifest, NotYetSupported."""
    from hearth.manifest.function import read

    try:
        with file.open("rb") as opened:
            text = opened.read(_MANIFEST_MAX + 1)
    except FileNotFoundError as error:
        raise NotFound(
            f"there is no {file}", hint="make a project: hearth create-function -n NAME; or name its folder"
        ) from error
    if len(text) > _MANIFEST_MAX:
        raise InvalidManifest(f"{file} is larger than 1 MiB", hint="function.yaml holds settings only")
    try:
        return read(text.decode("utf-8"), str(file))
    except UnicodeDecodeError as error:
        raise InvalidManifest(f"{file} is not UTF-8", hint="save it as UTF-8") from error


def _is_here(wanted: str) -> bool:
    """Whether this folder, and not ./NAME, is the one that `-n NAME` means."""
    if (Path(wanted) / MANIFEST).is_file() or not Path(MANIFEST).is_file():
        return False
    try:
        return read_config(Path(MANIFEST)).name == wanted
    except InvalidManifest:
        # It can't say its name. With no ./NAME there is nothing else that could be meant: show what is wrong with it.
        return not Path(wanted).exists()
