"""up: the platform. Its flags are `core.settings.SETTINGS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from hearth.cli.options import json_option
from hearth.config import environment, server_settings
from hearth.core.settings import SETTINGS

F = TypeVar("F", bound=Callable[..., Any])


def _settings_options(command: F) -> F:
    for setting in reversed(SETTINGS):
        command = click.option(
            setting.flag,
            setting.field,
            metavar="VALUE",
            help=f"{setting.meaning} ({setting.env}). Default: {setting.default}.",
        )(command)
    return command


@click.command()
@_settings_options
@json_option
def up(**flags: str | None) -> None:
    """Run the platform in the foreground, until Ctrl-C or SIGTERM. All its state is in --data-dir.

    \b
    Example:
      hearth up
      hearth up --port 9000 --data-dir ./state
    """
    from hearth.bootstrap.up import run

    run(server_settings(flags, environment()))
