"""The platform's settings as options of a command: `core.settings.SETTINGS`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

import click

from hearth.core.settings import SETTINGS

F = TypeVar("F", bound=Callable[..., Any])


def settings_options(fields: Collection[str] | None = None) -> Callable[[F], F]:
    """Add a flag for each setting; its function gets the text by the field's name, None where it isn't given.

    Args:
        fields: only these; None: all.
    """

    def add(command: F) -> F:
        for setting in reversed(SETTINGS):
            if fields is None or setting.field in fields:
                command = click.option(
                    setting.flag,
                    setting.field,
                    metavar="VALUE",
                    help=f"{setting.meaning} ({setting.env}). Default: {setting.default}.",
                )(command)
        return command

    return add
