"""create-function: a working project of a few files."""

from __future__ import annotations

import shutil
import tempfile
from importlib import resources
from pathlib import Path

import click

from hearth.cli.options import Options, common, pass_options
from hearth.cli.output import emit, say
from hearth.core.errors import Conflict, NotYetSupported
from hearth.core.names import check_function, check_namespace

RUNTIMES = ("go", "python", "node", "container")
_SUFFIX = ".tmpl"  # so that no tool takes a template for a file of ours


@click.command(name="create-function")
@click.option(
    "-n",
    "--name",
    metavar="NAME",
    required=True,
    help="Name of the function, and of the folder that is made.",
)
@click.option(
    "-r",
    "--runtime",
    type=click.Choice(RUNTIMES),
    default="go",
    show_default=True,
    help="What it is written in.",
)
@common
@pass_options
def create_function(options: Options, name: str, runtime: str) -> None:
    """Write a new function's project to ./NAME: settings, handler, a test event, a README.

    Short name: new.

    \b
    Example:
      hearth create-function -n hello -r python
    """
    reference, name = name, split_name(name)
    folder = Path(name)
    if runtime == "container":
        raise NotYetSupported("containers are not yet supported", hint="use -r go, -r python or -r node")
    files = write_project(folder, name, runtime)
    if options.json:
        emit({"name": name, "runtime": runtime, "folder": str(folder.absolute()), "files": files})
        return
    say(f"Made ./{folder} ({runtime}):")
    for file in files:
        say(f"  {file}")
    say(f"Deploy it: hearth deploy-function -n {reference}")


def split_name(reference: str) -> str:
    """The function's name in ``NAME`` or ``NS/NAME``: a project says nothing of its namespace. Raises InvalidName."""
    namespace, slash, name = reference.rpartition("/")
    if slash:
        check_namespace(namespace)
    return check_function(name)


def write_project(folder: Path, name: str, runtime: str) -> list[str]:
    """Write a project to a folder that isn't there yet; returns its files' names. All of it or nothing.

    Raises:
        Conflict: something is there already.
        OSError: it can't be written.
    """
    taken = Conflict(f"./{folder} is there already", hint="choose another name, or move it away")
    if folder.exists() or folder.is_symlink():
        raise taken
    made = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        files = []
        templates = resources.files("hearth.cli") / "templates" / runtime
        for template in sorted(templates.iterdir(), key=lambda item: item.name):
            target = template.name.removesuffix(_SUFFIX)
            (made / target).write_text(template.read_text("utf-8").replace("{{name}}", name), "utf-8")
            files.append(target)
        made.chmod(0o755)
        try:
            made.rename(folder)  # onto an empty folder it would succeed; that was ruled out a moment ago
        except OSError as error:
            raise taken from error
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return files
