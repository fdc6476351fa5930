"""The options that every command takes, before or after its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from hearth.cli.given import Options
from hearth.cli.names import NAMESPACE

__all__ = ["COMPLETING", "Options", "common", "json_option", "pass_options"]

COMPLETING = "_HEARTH_COMPLETE"  # set by the script of `hearth completion`, which asks what may come next

F = TypeVar("F", bound=Callable[..., Any])


def _keep(ctx: click.Context, param: click.Parameter, value: object) -> None:
    options = ctx.ensure_object(Options)
    if value and param.name is not None:  # the command's own value wins over the one before its name
        setattr(options, param.name, value)


def json_option(command: F) -> F:
    """Add --json to a command."""
    option = click.option(
        "--json", is_flag=True, expose_value=False, callback=_keep, help="Print JSON, errors too."
    )
    return option(command)


def common(command: F) -> F:
    """Add --server, --namespace and --json to a command; its function gets them by `pass_options`."""
    command = json_option(command)
    for option in (
        click.option(
            "--namespace",
            metavar="NS",
            type=NAMESPACE,
            expose_value=False,
            callback=_keep,
            help="Namespace to work in (HEARTH_NAMESPACE; remembered by: hearth use NS).",
        ),
        click.option(
            "--server",
            metavar="URL",
            expose_value=False,
            callback=_keep,
            help="Platform to talk to (HEARTH_SERVER; remembered by login).",
        ),
    ):
        command = option(command)
    return command


pass_options = click.make_pass_decorator(Options, ensure=True)
