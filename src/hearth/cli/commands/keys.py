"""keys create, list, revoke."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hearth.cli.context import connect, namespace_of, resolve
from hearth.cli.group import Group
from hearth.cli.names import FUNCTION
from hearth.cli.options import Options, common, pass_options
from hearth.cli.output import emit, facts, note, say, table
from hearth.cli.text import day
from hearth.core.limits import parse_duration

if TYPE_CHECKING:
    from hearth.wire.models import KeyItem


@click.group(cls=Group)
def keys() -> None:
    """API keys: for CI, and for calls from outside.

    \b
    Example:
      hearth keys create --name ci --allow deploy --expires 90d
      hearth keys list
      hearth keys revoke key_01j…
    """


@keys.command()
@click.option("--name", metavar="NAME", required=True, help="What the key is for.")
@click.option("--function", metavar="NAME", type=FUNCTION, help="Limit it to one function (NAME or NS/NAME).")
@click.option(
    "--allow",
    "actions",
    type=click.Choice(["invoke", "deploy", "metrics"]),
    multiple=True,
    default=("invoke",),
    show_default=True,
    help="What it may do; a key that may deploy may also invoke, and read logs. metrics is for the administrator.",
)
@click.option(
    "--expires", metavar="TIME", help="How long it lives, such as 90d; without it until it is revoked."
)
@click.option("--secret-only", is_flag=True, help="Print nothing but the secret.")
@common
@pass_options
def create(
    options: Options,
    name: str,
    function: str | None,
    actions: tuple[str, ...],
    expires: str | None,
    secret_only: bool,
) -> None:
    """Make a key of a namespace, or of one function; for /metrics, of the platform. Its secret is shown once.

    \b
    Example:
      hearth keys create --name ci --allow deploy --expires 90d
      export HEARTH_TOKEN="$(hearth keys create --name ci --allow deploy --secret-only)"
    """
    from hearth.wire.models import NewKey

    lifetime = None if expires is None else max(1, round(parse_duration(expires)))
    namespace: str | None = options.namespace
    with connect(options) as client:
        if function is not None:
            namespace, function = resolve(options, client, function)
        elif "metrics" not in actions:
            namespace = namespace_of(options, client)
        asked = NewKey(
            name=name, namespace=namespace, function=function, actions=list(actions), expires_in=lifetime
        )
        made = client.create_key(asked)
    if options.json:
        emit(made.model_dump())
    elif secret_only:
        say(made.secret)
    else:
        facts(
            [
                ("id", made.id),
                ("may", f"{', '.join(made.actions)} in {reach(made)}"),
                ("expires", day(made.expires_at) if made.expires_at is not None else "never"),
                ("secret", made.secret),
            ]
        )
        note("The secret is not shown again.")


@keys.command(name="list")
@common
@pass_options
def list_keys(options: Options) -> None:
    """List your keys, without their secrets.

    \b
    Example:
      hearth keys list
    """
    with connect(options) as client:
        found = list(client.keys())
    if options.json:
        emit([key.model_dump() for key in found])
        return
    table(
        ("id", "name", "begins with", "of", "may", "expires", "last used"),
        [
            (
                key.id,
                key.name,
                key.prefix,
                reach(key),
                ",".join(key.actions),
                day(key.expires_at) if key.expires_at is not None else "never",
                day(key.last_used_at) if key.last_used_at is not None else "never",
            )
            for key in found
        ],
    )


@keys.command()
@click.argument("key_id", metavar="ID")
@common
@pass_options
def revoke(options: Options, key_id: str) -> None:
    """Make a key useless at once.

    \b
    Example:
      hearth keys revoke key_01j…
    """
    with connect(options) as client:
        client.revoke_key(key_id)
    if options.json:
        emit({"id": key_id, "revoked": True})
    else:
        say(f"Revoked {key_id}.")


def reach(key: KeyItem) -> str:
    """What a key reaches: ``NS``, ``NS/NAME``, or the platform."""
    if key.namespace is None:
        return "the platform"
    return key.namespace if key.function is None else f"{key.namespace}/{key.function}"
