"""From options, environment and token file to a client and a namespace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hearth.cli.given import Options
from hearth.config import client_settings, environment
from hearth.core.errors import InvalidInput
from hearth.core.names import check_namespace, split_reference

if TYPE_CHECKING:
    from hearth.client.api import Client

DEFAULT_SERVER = "http://127.0.0.1:8080"


@contextlib.contextmanager
def connect(options: Options, *, connect_timeout: float | None = None) -> Iterator[Client]:
    """A client of the server that is meant: --server, HEARTH_SERVER, the remembered one, this machine's.

    Args:
        connect_timeout: seconds to try to reach it; None as long as the client does by itself.

    Raises:
        InvalidInput: the server's URL, the key or the token file makes no sense.
    """
    from hearth.client.api import Client
    from hearth.client.connection import Connection
    from hearth.client.credentials import CredentialsFile
    from hearth.client.http import normalise_server

    settings = client_settings(environment())
    credentials = CredentialsFile(settings.config_dir)
    server = options.server or settings.server
    if server is None:
        # With a key no login is needed, so neither is a home that can be read.
        with contextlib.suppress(*(() if settings.token is None else (OSError, InvalidInput))):
            server = credentials.read().server
    server = server or DEFAULT_SERVER
    with Connection(
        normalise_server(server), credentials, api_key=settings.token, connect_timeout=connect_timeout
    ) as connection:
        yield Client(connection)


def namespace_of(options: Options, client: Client) -> str:
    """The namespace that is meant: --namespace, HEARTH_NAMESPACE, the one of `hearth use`, the person's own.

    With an API key, whatever `hearth use` remembers of a login: the key's own.

    Raises:
        InvalidName: what was given is no namespace.
        InvalidInput: the key is of no namespace.
        Unauthenticated: nobody is logged in, and none was given.
    """
    found = current_namespace(options, client)
    if found is None:
        raise InvalidInput(
            "this key is for metrics, and of no namespace", hint="use another key, or log in: hearth login"
        )
    return found


def current_namespace(options: Options, client: Client) -> str | None:
    """As `namespace_of`, but None for a key that is of no namespace."""
    given = options.namespace or client_settings(environment()).namespace
    if given is None and client.connection.api_key is None:
        login = client.connection.login()
        given = (login.use or login.namespace) if login is not None else None
    if given is None:
        who = client.whoami()
        given = who.namespace if who.key is None else who.key.namespace
    return None if given is None else check_namespace(given)


def resolve(options: Options, client: Client, reference: str) -> tuple[str, str]:
    """The (namespace, function) of ``NAME`` or ``NS/NAME``. Raises as `namespace_of`, and InvalidName."""
    return split_reference(reference, None if "/" in reference else namespace_of(options, client))
