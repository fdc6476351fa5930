"""register, login, logout, whoami, use."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from hearth.cli.commands.keys import reach
from hearth.cli.context import connect, current_namespace
from hearth.cli.names import NAMESPACE
from hearth.cli.options import Options, common, pass_options
from hearth.cli.output import emit, facts, say, warn
from hearth.cli.prompts import ask, password_options, read_password
from hearth.cli.text import day
from hearth.core.errors import InvalidInput, NotFound, Unauthenticated
from hearth.core.names import check_namespace

if TYPE_CHECKING:
    from hearth.client.api import Client
    from hearth.wire.models import Who

_EMAIL = ("there is no e-mail", "add --email YOU@EXAMPLE.COM")


@click.command()
@click.option("--email", metavar="E", help="Your e-mail; without it you are asked.")
@password_options
@click.option(
    "--setup-token", metavar="T", help="The token that `hearth up` printed, for the very first account."
)
@common
@pass_options
def register(
    options: Options, email: str | None, password: str | None, password_stdin: bool, setup_token: str | None
) -> None:
    """Make an account on a platform, and log in.

    Your namespace is named after your e-mail unless you choose it with --namespace.

    \b
    Example:
      hearth register --email ann@example.com --server http://127.0.0.1:8080
    """
    if options.namespace is not None:
        check_namespace(options.namespace)
    with connect(options) as client:
        _warn_of_plain_http(client)
        email = ask("E-mail", email, *_EMAIL)
        secret = read_password(password, password_stdin, new=True)
        session = client.register(email, secret, namespace=options.namespace, setup_token=setup_token)
        _warn_of_key(client)
        _show(options, client, session.user, "Registered and logged in.")


@click.command()
@click.option("--email", metavar="E", help="Your e-mail; without it you are asked.")
@password_options
@common
@pass_options
def login(options: Options, email: str | None, password: str | None, password_stdin: bool) -> None:
    """Log in; the next commands know you and the server.

    \b
    Example:
      hearth login --email ann@example.com
      echo "$PASSWORD" | hearth login --email ann@example.com --password-stdin
    """
    with connect(options) as client:
        _warn_of_plain_http(client)
        email = ask("E-mail", email, *_EMAIL)
        session = client.login(email, read_password(password, password_stdin, new=False))
        _warn_of_key(client)
        _show(options, client, session.user, "Logged in.")


@click.command()
@common
@pass_options
def logout(options: Options) -> None:
    """End this login on the server and forget it here.

    \b
    Example:
      hearth logout
    """
    with connect(options) as client:
        known = client.connection.login() is not None
        refused = client.logout()
        if refused is not None:
            warn(f"forgotten here, but the server was not told: {refused.message}")
        if options.json:
            emit({"server": client.connection.server, "logged_out": known})
        else:
            say("Logged out." if known else "You were not logged in.")


@click.command()
@common
@pass_options
def whoami(options: Options) -> None:
    """Show who you are, where, and which namespace commands work in.

    \b
    Example:
      hearth whoami
    """
    with connect(options) as client:
        _show(options, client, client.whoami(), None)


@click.command()
@click.argument("chosen", metavar="[NS]", type=NAMESPACE, required=False)
@common
@pass_options
def use(options: Options, chosen: str | None) -> None:
    """Remember a namespace, and with --server a server, for the next commands. Alone it shows them.

    \b
    Example:
      hearth use team
      hearth use --server https://hearth.example.com
    """
    namespace = chosen if chosen is not None else options.namespace
    with connect(options) as client:
        if namespace is not None:
            check_namespace(namespace)
            if client.connection.api_key is not None:
                raise InvalidInput(
                    "HEARTH_TOKEN is set, and nothing is remembered for a key", hint="set HEARTH_NAMESPACE"
                )
            names = sorted({member.namespace for member in client.whoami().memberships})
            if namespace not in names:
                raise NotFound(
                    f"you are no member of a namespace {namespace!r}", hint=f"use one of: {', '.join(names)}"
                )
            client.connection.remember(namespace=namespace)
        if options.server is not None:
            client.connection.remember()
        current = namespace
        if current is None:
            with contextlib.suppress(Unauthenticated):  # a server may be chosen before one logs in
                current = current_namespace(options, client)
        if options.json:
            emit({"server": client.connection.server, "namespace": current})
        else:
            facts([("server", client.connection.server), ("namespace", current or "")])


def _show(options: Options, client: Client, who: Who, headline: str | None) -> None:
    server = client.connection.server
    namespace = current_namespace(options, client) if headline is None else who.namespace
    if options.json:
        emit({**who.model_dump(), "server": server, "current_namespace": namespace})
        return
    if headline is not None:
        say(headline)
    key, others = who.key, [f"{member.namespace} ({member.role})" for member in who.memberships]
    about_key = (
        []
        if key is None
        else [
            ("key", f"{key.name} ({key.id})"),
            ("may", f"{', '.join(key.actions)} in {reach(key)}"),
            ("expires", day(key.expires_at) if key.expires_at is not None else "never"),
        ]
    )
    facts(
        [
            (
                "email" if key is None else "made by",
                who.email + (" (administrator)" if who.administrator else ""),
            ),
            *about_key,
            ("namespace", namespace or ""),
            ("member of", ", ".join(others) if key is None else ""),
            ("server", server),
        ]
    )


def _warn_of_key(client: Client) -> None:
    if client.connection.api_key is not None:
        warn("HEARTH_TOKEN is set, and the next commands use it rather than this login")


def _warn_of_plain_http(client: Client) -> None:
    from hearth.client.http import is_loopback

    server = client.connection.server
    if server.startswith("http:") and not is_loopback(server):
        warn(f"{server} is not encrypted: who listens on the way reads your password")
