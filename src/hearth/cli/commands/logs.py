"""logs: what a function's builds and runs have printed."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from hearth.cli.context import connect, resolve
from hearth.cli.options import Options, common, pass_options
from hearth.cli.output import say
from hearth.cli.text import moment, safe, safe_lines
from hearth.core.limits import parse_duration

if TYPE_CHECKING:
    from hearth.wire.models import LogItem


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option("--since", metavar="TIME", help="Only lines of the last TIME, such as 10m.")
@click.option("--invocation", metavar="ID", help="Only lines of one call (X-Hearth-Invocation).")
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="Only lines of one version.")
@click.option("--source", type=click.Choice(["build", "run"]), help="Only lines of builds, or of runs.")
@click.option(
    "--limit", type=click.IntRange(min=1, max=100_000), metavar="N", help="The last N lines at most."
)
@common
@pass_options
def logs(
    options: Options,
    name: str,
    follow: bool,
    since: str | None,
    invocation: str | None,
    version: int | None,
    source: str | None,
    limit: int | None,
) -> None:
    """Show what a function has logged: time, version, where from, text. --json gives one object a line.

    \b
    Example:
      hearth logs hello -f --since 10m
      hearth logs hello --version 3 --source build
    """
    since_ms = None if since is None else int((time.time() - parse_duration(since)) * 1000)
    with connect(options) as client:
        for item in client.logs(
            *resolve(options, client, name),
            since_ms=since_ms,
            invocation=invocation,
            version=version,
            source=source,
            limit=limit,
            follow=follow,
        ):
            if options.json:
                say(json.dumps(item.model_dump()))
            else:
                _show(item)


def _show(item: LogItem) -> None:
    """One line of a log. Further lines of its text carry the same head, so that none can pass for another's."""
    origin = "build" if item.source == "build" else item.stream
    head = f"{moment(item.at)} v{item.version} {safe(origin)}"
    for line in safe_lines(item.text):
        say(f"{head} | {line}")
