"""logs: what a function's builds and runs have printed, and what the platform did with it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from hearth.cli.context import connect, resolve
from hearth.cli.names import FUNCTION
from hearth.cli.options import Options, common, pass_options
from hearth.cli.output import note, say
from hearth.cli.text import moment, safe, safe_lines
from hearth.config import environment, wants_color

if TYPE_CHECKING:
    from hearth.wire.models import LogItem

_DEFAULT_LIMIT = 1000
_LEVELS = {"warning": "yellow", "error": "red", "critical": "red", "fatal": "red"}
_ORIGINS = {"platform": "magenta", "build": "blue", "stderr": "yellow"}


@click.command()
@click.argument("name", type=FUNCTION)
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option(
    "--since", metavar="TIME", help="Only lines of the last TIME, such as 10m, or since 2026-11-24T01:18."
)
@click.option("--invocation", metavar="ID", help="Only lines of one call (X-Hearth-Invocation).")
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="Only lines of one version.")
@click.option(
    "--source",
    type=click.Choice(["build", "run", "platform"]),
    help="Only lines of builds, of runs, or of the platform itself.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1, max=100_000),
    metavar="N",
    help=f"The last N lines at most. Default: {_DEFAULT_LIMIT}.",
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
    from hearth.cli.since import since as since_of
    from hearth.cli.tail import follow_log
    from hearth.client.api import LogsAsked

    since_ms = None if since is None else since_of(since, time.time())
    asked = LogsAsked(since_ms, invocation, version, source, limit or _DEFAULT_LIMIT)
    with connect(options) as client:
        where = resolve(options, client, name)
        if follow:
            for item in follow_log(client, *where, asked):
                _show(item, options.json)
            return
        shown = 0
        for item in client.logs(*where, asked):
            _show(item, options.json)
            shown += 1
    if not shown:
        note(_nothing(f"{where[0]}/{where[1]}", since, invocation, version, source))
    elif shown == _DEFAULT_LIMIT and limit is None:
        note(f"these are the last {shown:,} lines; --limit N shows more")


def _show(item: LogItem, as_json: bool) -> None:
    if as_json:
        say(json.dumps(item.model_dump()))
    else:
        for line in _drawn(item, wants_color(environment())):
            say(line)


def _drawn(item: LogItem, color: bool) -> Iterator[str]:
    """One line of a log. Further lines of its text carry the same head, so that none can pass for another's."""
    level = item.level if item.stream == "log" and item.source == "run" else ""
    origin = safe(level or (item.stream if item.source == "run" else item.source))
    head = f"{moment(item.at)} {f'v{item.version}' if item.version else '-'}"
    for line in safe_lines(item.text):
        if not color:
            yield f"{head} {origin} | {line}"
            continue
        serious = _LEVELS.get(item.level)
        hue = serious or _ORIGINS.get(origin)  # click leaves colours out of pipes and files
        yield f"{click.style(head, dim=True)} {_coloured(origin, hue)} | {_coloured(line, serious)}"


def _coloured(text: str, hue: str | None) -> str:
    return text if hue is None else click.style(text, fg=hue)


def _nothing(
    name: str, since: str | None, invocation: str | None, version: int | None, source: str | None
) -> str:
    """Why there may be no lines."""
    wanted = [
        *([f"of source {source}"] if source is not None else []),
        *([f"of version {version}"] if version is not None else []),
        *([f"of invocation {invocation}"] if invocation is not None else []),
        *([f"since {since}"] if since is not None else []),
    ]
    if not wanted:
        return f"{name} has no log lines yet"
    why = " It logged nothing, is another function's, or its lines are no longer kept." if invocation else ""
    return f"{name} has no log lines {' '.join(wanted)}.{why}".rstrip(".") + ("." if why else "")
