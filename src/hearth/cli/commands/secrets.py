"""secrets set, list, delete."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from hearth.cli.context import connect, namespace_of, resolve
from hearth.cli.group import Group, HintedUsageError
from hearth.cli.names import FUNCTION, SECRET
from hearth.cli.options import Options, common, pass_options
from hearth.cli.output import emit, note, say, table
from hearth.cli.prompts import confirm
from hearth.cli.text import day
from hearth.core.errors import InvalidInput, TooLarge
from hearth.core.limits import SECRET_MAX, format_size
from hearth.core.names import check_secret

if TYPE_CHECKING:
    from hearth.client.api import Client


@click.group(cls=Group)
def secrets() -> None:
    """Values that only functions read: keys of other services, passwords.

    \b
    Example:
      hearth secrets set STRIPE_KEY      # it asks for the value
      hearth secrets list
      hearth secrets delete STRIPE_KEY
    """


_function = click.option(
    "--function",
    metavar="NAME",
    type=FUNCTION,
    help="One function's own (NAME or NS/NAME); it wins over the namespace's.",
)


@secrets.command(name="set")
@click.argument("name", metavar="NAME", type=SECRET)
@_function
@click.option(
    "--from-file", "file", metavar="FILE", help="Take a file's content, byte for byte; - is standard input."
)
@common
@pass_options
@click.pass_context
def set_secret(
    ctx: click.Context, options: Options, name: str, function: str | None, file: str | None
) -> None:
    """Set a secret, or replace its value. Nobody can read it back.

    You are asked for the value; or pipe it in (a newline at its end is dropped). Functions get it once their function.yaml
    names it under `secrets`; those that name it already get the new value without a failed request.

    \b
    Example:
      hearth secrets set STRIPE_KEY
      hearth secrets set TLS_KEY --function proxy --from-file key.pem
      pass show stripe | hearth secrets set STRIPE_KEY
    """
    if "=" in name:
        raise HintedUsageError(
            "a value does not belong on the command line, where others can see it",
            f"write: hearth secrets set {name.partition('=')[0][:64]}, and you are asked for it; this value may be in your "
            "shell's history now",
            ctx,
        )
    check_secret(name)
    value = _value(name, file)
    with connect(options) as client:
        namespace, function = _owner(options, client, function)
        made = client.set_secret(namespace, function, name, value)
    if options.json:
        emit(made.model_dump())
        return
    say(f"Set {name} of {_whose(made.namespace, made.function)}.")
    if not made.environment:
        note(f"It is no text: functions find it at /run/secrets/{name} only, not in their environment.")
    if made.function_made:
        note(f"Nothing is deployed as {_whose(made.namespace, made.function)} yet.")


@secrets.command(name="list")
@_function
@common
@pass_options
def list_secrets(options: Options, function: str | None) -> None:
    """List the secrets in a namespace, or those that a function may name; never their values.

    \b
    Example:
      hearth secrets list
      hearth secrets list --function resize
    """
    with connect(options) as client:
        namespace, function = _owner(options, client, function)
        found = sorted(client.secrets(namespace, function), key=lambda item: (item.name, item.function or ""))
    if options.json:
        emit([item.model_dump() for item in found])
        return
    if not found:
        say(f"There is no secret of {_whose(namespace, function)} yet. Set one: hearth secrets set NAME")
        return
    table(
        ("name", "of", "given as", "last set"),
        [
            (
                item.name,
                _whose(item.namespace, item.function),
                "environment and file" if item.environment else "file",
                day(item.updated_at),
            )
            for item in found
        ],
    )


@secrets.command()
@click.argument("name", metavar="NAME", type=SECRET)
@_function
@click.option("--force", is_flag=True, help="Delete it though functions can't start without it.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@common
@pass_options
def delete(options: Options, name: str, function: str | None, force: bool, yes: bool) -> None:
    """Delete a secret. Refused while a function that takes traffic names it, unless --force.

    \b
    Example:
      hearth secrets delete STRIPE_KEY
      hearth secrets delete STRIPE_KEY --function resize --yes
    """
    with connect(options) as client:
        namespace, function = _owner(options, client, function)
        question = f"Delete {name} of {_whose(namespace, function)}? Its value can't be brought back"
        if not yes and not confirm(question, hint="add --yes"):
            raise click.Abort
        gone = client.delete_secret(namespace, function, name, force=force)
    if options.json:
        emit({"name": name, "namespace": namespace, "function": function, **gone.model_dump()})
        return
    say(f"Deleted {name} of {_whose(namespace, function)}.")
    if gone.lacking:
        note(f"Without it can't run: {', '.join(gone.lacking)}. Calls of them fail until it is set again.")


def _value(name: str, file: str | None) -> bytes:
    """The value by whichever way was chosen. Raises InvalidInput, TooLarge, OSError."""
    if file is not None and file != "-":
        with open(file, "rb") as stream:
            value = stream.read(SECRET_MAX + 1)
    elif file is None and sys.stdin.isatty():
        value = str(click.prompt(f"{name} (one line)", hide_input=True, err=True)).encode(
            "utf-8", "surrogateescape"
        )
        if value.startswith(b"-----BEGIN "):  # pasted: the terminal gives its first line alone
            raise InvalidInput(
                "a key of several lines can't be typed in",
                hint=f"give its file: hearth secrets set {name} --from-file FILE",
            )
    else:
        value = sys.stdin.buffer.read(SECRET_MAX + 3)
        if file is None and value.endswith(b"\n"):  # what `echo` adds is hardly ever meant
            value = value[:-1].removesuffix(b"\r")
    if not value:
        raise InvalidInput(
            "there is no value", hint=f"pipe it in, or give --from-file FILE: hearth secrets set {name}"
        )
    if len(value) > SECRET_MAX:
        raise TooLarge(
            f"a secret has at most {format_size(SECRET_MAX)}",
            hint="keep large things in the function's files or in a store that it asks",
        )
    return value


def _owner(options: Options, client: Client, function: str | None) -> tuple[str, str | None]:
    if function is None:
        return namespace_of(options, client), None
    return resolve(options, client, function)


def _whose(namespace: str, function: str | None) -> str:
    return namespace if function is None else f"{namespace}/{function}"
