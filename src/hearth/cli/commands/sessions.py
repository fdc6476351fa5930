"""sessions list, revoke."""

from __future__ import annotations

import click

from hearth.cli.context import connect
from hearth.cli.group import Group
from hearth.cli.options import Options, common, pass_options
from hearth.cli.output import emit, say, table
from hearth.cli.text import day


@click.group(cls=Group)
def sessions() -> None:
    """Your logins: where you are logged in, and ending that.

    \b
    Example:
      hearth sessions list
      hearth sessions revoke ses_01j…
      hearth sessions revoke --others
    """


@sessions.command(name="list")
@common
@pass_options
def list_sessions(options: Options) -> None:
    """List your logins that have not ended, the one that was used last first.

    \b
    Example:
      hearth sessions list
    """
    with connect(options) as client:
        found = list(client.sessions())
    if options.json:
        emit([session.model_dump() for session in found])
        return
    table(
        ("id", "login", "since", "renewed", "ends", ""),
        [
            (
                session.id,
                session.label,
                day(session.created_at),
                day(session.last_used_at),
                day(session.expires_at),
                "this one" if session.current else "",
            )
            for session in found
        ],
    )


@sessions.command()
@click.argument("session_id", metavar="[ID]", required=False)
@click.option("--others", is_flag=True, help="End every login but this one.")
@common
@pass_options
def revoke(options: Options, session_id: str | None, others: bool) -> None:
    """End a login: who has its tokens has to log in again. For this one there is also: hearth logout.

    \b
    Example:
      hearth sessions revoke ses_01j…
      hearth sessions revoke --others
    """
    if (session_id is None) is not others:
        raise click.UsageError("name one login's ID, or give --others")
    with connect(options) as client:
        if session_id is not None:
            client.end_session(session_id)
        ended = 1 if session_id is not None else client.end_other_sessions()
    if options.json:
        emit({"ended": ended})
    elif session_id is not None:
        say(f"Ended {session_id}.")
    else:
        say(f"Ended {ended} other login{'s' if ended != 1 else ''}.")
