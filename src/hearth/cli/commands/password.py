"""password: change one's own; on the host, reset somebody's."""

from __future__ import annotations

import click

from hearth.cli.context import connect
from hearth.cli.group import Group
from hearth.cli.options import Options, common, pass_options
from hearth.cli.output import emit, say
from hearth.cli.prompts import line_of_stdin, need_terminal, password_options, read_password
from hearth.cli.settings import settings_options
from hearth.config import environment, server_settings
from hearth.core.errors import InvalidInput


@click.group(cls=Group, invoke_without_command=True)
@click.option(
    "--password-stdin",
    is_flag=True,
    help="Read the old and the new password, a line each, from standard input.",
)
@common
@pass_options
@click.pass_context
def password(ctx: click.Context, options: Options, password_stdin: bool) -> None:
    """Change your password. Every other login of yours ends.

    \b
    Example:
      hearth password
      printf '%s\\n' "$OLD" "$NEW" | hearth password --password-stdin
    """
    if ctx.invoked_subcommand is not None:
        return
    with connect(options) as client:
        if client.connection.api_key is not None:
            raise InvalidInput("a key has no password", hint="unset HEARTH_TOKEN, and log in")
        client.whoami()  # not logged in: said before anybody types
        if password_stdin:
            old, new = line_of_stdin(), line_of_stdin()
        else:
            need_terminal("there is no password", "add --password-stdin and pipe both in")
            old = click.prompt("Old password", hide_input=True, err=True)
            new = click.prompt("New password", hide_input=True, confirmation_prompt=True, err=True)
        client.change_password(old, new)
    _done(options, "Password changed. Every other login has ended.", None)


@password.command()
@click.argument("email")
@click.option(
    "--data-dir",
    metavar="DIR",
    type=click.Path(),
    help="The platform's data directory, on this machine.",
)
@settings_options(("database_url",))
@password_options
@common
@pass_options
def reset(
    options: Options,
    email: str,
    data_dir: str | None,
    database_url: str | None,
    password: str | None,
    password_stdin: bool,
) -> None:
    """Give somebody a new password; run on the platform's host, by who may read its database.

    \b
    Example:
      hearth password reset ann@example.com --data-dir /var/lib/hearth
    """
    settings = server_settings({"data_dir": data_dir, "database_url": database_url}, environment())
    if data_dir is None and not settings.database_url:
        raise InvalidInput(
            "--data-dir is missing", hint="give the one that `hearth up` prints, or its --database-url"
        )
    from hearth.bootstrap.offline import reset_password

    new = read_password(password, password_stdin, new=True, label="New password")
    reset_password(settings, email, new)
    _done(options, f"The password of {email} is reset.", email)


def _done(options: Options, text: str, email: str | None) -> None:
    if options.json:
        emit({"changed": True, **({"email": email} if email is not None else {})})
    else:
        say(text)
