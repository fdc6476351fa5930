"""What commands write: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from hearth.cli.text import safe


def say(text: str = "") -> None:
    """A line of the result."""
    click.echo(text)


def note(text: str) -> None:
    """A line about what is going on."""
    click.echo(text, err=True)


def warn(text: str) -> None:
    click.echo(f"warning: {safe(text)}", err=True)


def emit(data: Any) -> None:
    """A result as JSON."""
    click.echo(json.dumps(data, indent=2))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns. A terminal gets a ruled head and cells folded to its width; a pipe whole lines, one a row."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    drawn = Table(
        box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0)
    )
    for column in columns:
        drawn.add_column(column.upper(), overflow="fold", no_wrap=not terminal)
    for row in rows:
        drawn.add_row(*(Text(safe(cell)) for cell in row))
    console = Console(
        file=sys.stdout, width=None if terminal else 100_000, highlight=False, markup=False, emoji=False
    )
    if terminal:
        console.print(drawn)
        return
    with console.capture() as captured:
        console.print(drawn)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def facts(pairs: Sequence[tuple[str, str]]) -> None:
    """Names and values under each other; pairs with an empty value are left out."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        if value:
            click.echo(f"{name.ljust(width)}  {safe(value)}")
