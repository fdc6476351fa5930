"""stats: figures of functions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from hearth.cli.context import connect, namespace_of, resolve
from hearth.cli.names import FUNCTION
from hearth.cli.options import Options, common, pass_options
from hearth.cli.output import emit, facts, say, table, warn

if TYPE_CHECKING:
    from hearth.wire.models import StatsItem

_COLUMNS = (
    "name",
    "calls",
    "errors",
    "function",
    "request",
    "platform",
    "p50",
    "p95",
    "p99",
    "cold",
    "instances",
    "queue",
)


@click.command()
@click.argument("name", type=FUNCTION, required=False)
@common
@pass_options
def stats(options: Options, name: str | None) -> None:
    """Show figures of functions: calls, errors by whose fault, latency, cold starts, instances, queue.

    They count from the last start of the processes that serve; /metrics has the same ones for Prometheus.

    \b
    Example:
      hearth stats
      hearth stats hello
    """
    with connect(options) as client:
        if name is not None:
            one = client.stats(*resolve(options, client, name))
            items: list[StatsItem] = [one]
            missing = set(one.missing)
        else:
            namespace = namespace_of(options, client)
            items, missing = client.all_stats(namespace)
    if options.json:
        shown = [item.model_dump(exclude={"missing"}) for item in items]
        emit(shown if name is None else shown[0])
    elif name is not None:
        _show(items[0])
    elif items:
        table(_COLUMNS, [_row(item) for item in items])
    else:
        say(
            f"There is no function in {namespace} yet that you may see. Make one: hearth create-function -n hello"
        )
    if missing:
        warn(f"{', '.join(sorted(missing))} did not tell its figures: these are not all")


def _row(item: StatsItem) -> tuple[str, ...]:
    latency = (duration(value) for value in (item.p50_ms, item.p95_ms, item.p99_ms))
    errors = (item.failed, *(item.errors.get(source, 0) for source in ("function", "request", "platform")))
    counts = (item.cold_starts, sum(item.instances.values()), item.queue)
    return (item.name, str(item.calls), *map(str, errors), *latency, *map(str, counts))


def _show(item: StatsItem) -> None:
    facts(
        [
            ("name", f"{item.namespace}/{item.name}"),
            (
                "calls",
                f"{item.calls} ({item.succeeded} succeeded, {item.failed} failed, {item.cancelled} cancelled)",
            ),
            ("errors", _counts(item.errors.items()) or "none"),
            ("p50", duration(item.p50_ms)),
            ("p95", duration(item.p95_ms)),
            ("p99", duration(item.p99_ms)),
            ("cold starts", str(item.cold_starts)),
            ("instances", _counts(item.instances.items()) or "none"),
            ("in work", str(item.in_flight)),
            ("queue", str(item.queue)),
        ]
    )


def _counts(pairs: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{count} {name}" for name, count in pairs if count)


def duration(milliseconds: float | None) -> str:
    """``0.42 ms``, ``1.3 s``; a dash where nothing was measured."""
    if milliseconds is None:
        return "-"
    return f"{milliseconds / 1000:.3g} s" if milliseconds >= 1000 else f"{milliseconds:.3g} ms"
