"""up: the platform. Its flags are `core.settings.SETTINGS`."""

from __future__ import annotations

import click

from hearth.cli.options import json_option
from hearth.cli.settings import settings_options
from hearth.config import environment, server_settings


@click.command()
@settings_options()
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
