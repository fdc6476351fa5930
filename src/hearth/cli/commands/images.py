"""images build, list: the runtime images of containers, for `hearth up --isolation docker`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hearth.cli.group import Group
from hearth.cli.options import Options, json_option, pass_options
from hearth.cli.output import emit, note, table
from hearth.cli.settings import settings_options
from hearth.cli.text import safe
from hearth.config import environment, server_settings
from hearth.core.limits import MIB

if TYPE_CHECKING:
    from hearth.drivers.docker.images import Image

FIELDS = ("docker_socket", "images")


@click.group(cls=Group)
def images() -> None:
    """Images that functions run in with Docker: what this machine's daemon has, and building them.

    \b
    Example:
      hearth images build
      hearth images list
    """


@images.command()
@click.argument("languages", nargs=-1, metavar="[LANGUAGE]…")
@click.option("--network", metavar="NAME", default="", help="Network of the build's steps, such as host.")
@settings_options(FIELDS)
@json_option
@pass_options
def build(options: Options, /, languages: tuple[str, ...], network: str, **flags: str | None) -> None:
    """Build the images of all languages, or of some, under the names that `hearth up` uses.

    \b
    Example:
      hearth images build
      hearth images build python --images python=registry.example.com/hearth-python
    """
    settings = server_settings(flags, environment())
    from hearth.bootstrap.images import built

    _show(options, built(settings, languages, network, lambda line: note(safe(line))))


@images.command("list")
@settings_options(FIELDS)
@json_option
@pass_options
def list_images(options: Options, /, **flags: str | None) -> None:
    """List the images and whether this machine's daemon has them.

    \b
    Example:
      hearth images list
    """
    settings = server_settings(flags, environment())
    from hearth.bootstrap.images import listed

    _show(options, listed(settings))


def _show(options: Options, found: list[Image]) -> None:
    if options.json:
        emit(
            [
                {"language": i.language, "name": i.name, "id": i.id or None, "size": i.size or None}
                for i in found
            ]
        )
        return
    rows = [(i.language, i.name, f"{i.size // MIB} MiB" if i.id else "not there") for i in found]
    table(["language", "image", "size"], rows)
