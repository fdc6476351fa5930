"""versions, rollback, alias set, list and delete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from hearth.cli.context import connect, resolve
from hearth.cli.group import Group
from hearth.cli.names import FUNCTION
from hearth.cli.options import Options, common, pass_options
from hearth.cli.output import emit, say, table
from hearth.cli.text import day, size
from hearth.core.traffic import Share, format_shares, parse_shares

if TYPE_CHECKING:
    from hearth.wire.versions import AliasItem, ShareItem


@click.command()
@click.argument("name", type=FUNCTION)
@common
@pass_options
def versions(options: Options, name: str) -> None:
    """List the versions of a function that are kept: what became of each, whose it is, what traffic it gets.

    A star marks what is live. Kept are the last ten, and those that an alias or an instance uses.

    \b
    Example:
      hearth versions hello
      hearth versions hello --json
    """
    with connect(options) as client:
        found = list(client.versions(*resolve(options, client, name)))
    if options.json:
        emit([version.model_dump() for version in found])
        return
    if not found:
        say("There is no version yet. Deploy one: hearth deploy")
        return
    table(
        ("", "version", "status", "by", "when", "size", "aliases", "failure"),
        [
            (
                "*" if version.live else "",
                str(version.number),
                version.state,
                version.created_by or "-",
                day(version.created_at),
                size(version.size),
                ", ".join(f"{alias.alias}={alias.weight}" for alias in version.aliases) or "-",
                version.failure.message if version.failure is not None else "",
            )
            for version in found
        ],
    )


@click.command()
@click.argument("name", type=FUNCTION)
@click.option(
    "--to",
    metavar="N",
    type=click.IntRange(1, 2**31),
    help="The version to go to; by default the one that was live before.",
)
@common
@pass_options
def rollback(options: Options, name: str, to: int | None) -> None:
    """Send all traffic back to an earlier version, at once. Requests in work are finished.

    Said twice, it goes back twice.

    \b
    Example:
      hearth rollback hello
      hearth rollback hello --to 3
    """
    with connect(options) as client:
        namespace, function = resolve(options, client, name)
        done = client.rollback(namespace, function, to)
    if options.json:
        emit(done.model_dump())
        return
    reference = f"{namespace}/{function}"
    if not done.changed:
        say(f"Version {done.version} of {reference} is live already.")
        return
    before = _shares(done.before)
    if len(before) == 1:
        was, undo = f"version {before[0].version}", f"hearth rollback {reference} --to {before[0].version}"
    else:
        was = format_shares(before)
        undo = f"hearth alias set {reference} live {was}"
    say(f"Version {done.version} of {reference} is live again (it was {was}).")
    say(f"To undo: {undo}")


@click.group(cls=Group)
def alias() -> None:
    """Names for versions, or for a mix of them: `live` is where traffic goes.

    Members call others by the header X-Hearth-Alias.

    \b
    Example:
      hearth alias set hello live 3=90,4=10   # a tenth of all calls to version 4
      hearth alias set hello beta 4
      hearth alias list hello
    """


@alias.command(name="set")
@click.argument("name", type=FUNCTION)
@click.argument("alias")
@click.argument("targets", metavar="VERSIONS")
@common
@pass_options
def set_alias(options: Options, name: str, alias: str, targets: str) -> None:
    """Point an alias at a version (4), or at some with weights (3=90,4=10). Traffic moves at once.

    Weights are relative to each other. The alias is made when it is new.

    \b
    Example:
      hearth alias set hello live 3=90,4=10
      hearth alias set hello beta 4
    """
    from hearth.wire.versions import SetShare

    shares = parse_shares(targets)
    with connect(options) as client:
        namespace, function = resolve(options, client, name)
        asked = [SetShare(version=share.version, weight=share.weight) for share in shares]
        found = client.set_alias(namespace, function, alias, asked)
    if options.json:
        emit(found.model_dump())
    else:
        say(f"{found.name} of {namespace}/{function} is now {format_shares(_shares(found.targets))}.")


@alias.command(name="list")
@click.argument("name", type=FUNCTION)
@common
@pass_options
def list_aliases(options: Options, name: str) -> None:
    """List the aliases of a function: their versions, weights, shares of the traffic.

    \b
    Example:
      hearth alias list hello
    """
    with connect(options) as client:
        found = client.aliases(*resolve(options, client, name))
    if options.json:
        emit([item.model_dump() for item in found])
        return
    if not found:
        say("There is no alias yet. `live` is made when the first version is ready.")
        return
    table(
        ("alias", "version", "weight", "share", "since"),
        [row for item in found for row in _rows(item)],
    )


@alias.command(name="delete")
@click.argument("name", type=FUNCTION)
@click.argument("alias")
@common
@pass_options
def delete_alias(options: Options, name: str, alias: str) -> None:
    """Delete an alias; its versions stay as long as others are. `live` can't be deleted.

    \b
    Example:
      hearth alias delete hello beta
    """
    with connect(options) as client:
        namespace, function = resolve(options, client, name)
        client.delete_alias(namespace, function, alias)
    if options.json:
        emit({"namespace": namespace, "name": function, "alias": alias, "deleted": True})
    else:
        say(f"Deleted alias {alias} of {namespace}/{function}.")


def _shares(items: Sequence[ShareItem]) -> list[Share]:
    return [Share(item.version, item.weight) for item in items]


def _rows(item: AliasItem) -> list[tuple[str, ...]]:
    total = sum(target.weight for target in item.targets)
    return [
        (
            item.name,
            str(target.version),
            str(target.weight),
            f"{100 * target.weight / total:.3g} %",
            day(item.updated_at),
        )
        for target in item.targets
    ]
