"""users add, list, disable, enable: for the administrator."""

from __future__ import annotations

import click

from hearth.cli.context import connect
from hearth.cli.group import Group
from hearth.cli.options import Options, common, pass_options
from hearth.cli.output import emit, say, table
from hearth.cli.prompts import password_options, read_password
from hearth.cli.text import day
from hearth.core.names import check_namespace


@click.group(cls=Group)
def users() -> None:
    """The platform's users; for its administrator.

    \b
    Example:
      hearth users add bob@example.com
      hearth users list
      hearth users disable bob@example.com
    """


@users.command()
@click.argument("email")
@password_options
@common
@pass_options
def add(options: Options, email: str, password: str | None, password_stdin: bool) -> None:
    """Add a user, also while registration is closed. --namespace names his namespace.

    \b
    Example:
      hearth users add bob@example.com --namespace bob
    """
    from hearth.wire.models import NewUser

    if options.namespace is not None:
        check_namespace(options.namespace)
    with connect(options) as client:
        client.whoami()  # not logged in: said before anybody types a password
        secret = read_password(password, password_stdin, new=True)
        made = client.add_user(NewUser(email=email, password=secret, namespace=options.namespace))
    if options.json:
        emit(made.model_dump())
    else:
        say(f"Added {made.email} with the namespace {made.namespace}.")


@users.command(name="list")
@common
@pass_options
def list_users(options: Options) -> None:
    """List the platform's users.

    \b
    Example:
      hearth users list
    """
    with connect(options) as client:
        found = list(client.users())
    if options.json:
        emit([user.model_dump() for user in found])
        return
    table(
        ("email", "namespace", "since", "", "id"),
        [
            (
                user.email,
                user.namespace,
                day(user.created_at),
                " ".join(
                    word
                    for word, holds in (("administrator", user.administrator), ("disabled", user.disabled))
                    if holds
                ),
                user.id,
            )
            for user in found
        ],
    )


@users.command()
@click.argument("user", metavar="EMAIL")
@common
@pass_options
def disable(options: Options, user: str) -> None:
    """Shut a user out: his sessions and keys stop working at once. His functions stay.

    \b
    Example:
      hearth users disable bob@example.com
    """
    _set_disabled(options, user, True)


@users.command()
@click.argument("user", metavar="EMAIL")
@common
@pass_options
def enable(options: Options, user: str) -> None:
    """Let a disabled user in again.

    \b
    Example:
      hearth users enable bob@example.com
    """
    _set_disabled(options, user, False)


def _set_disabled(options: Options, user: str, disabled: bool) -> None:
    with connect(options) as client:
        client.set_user_disabled(user, disabled)
    if options.json:
        emit({"user": user, "disabled": disabled})
    else:
        say(f"{'Disabled' if disabled else 'Enabled'} {user}.")
