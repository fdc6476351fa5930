"""Arguments that are names which the server knows, so that a shell can complete them.

When the server can't be asked quickly there are no completions, and nothing is said of it: a person who presses Tab has
asked no question.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import click

from hearth.cli.context import connect, namespace_of
from hearth.cli.given import Options
from hearth.core.errors import HearthError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from hearth.client.api import Client

    _Text = click.ParamType[str]
else:
    _Text = click.ParamType  # before click 8.2 it takes no parameter

PATIENCE = 1.0  # seconds in which the server has to answer at all
_NAMES_MAX = 500


class _Names(_Text):
    """A text whose completions are asked of the server.

    Args:
        name: what it is, for click.
        look_up: given a client, the options and what is typed so far, names that may be meant.
    """

    def __init__(self, name: str, look_up: Callable[[Client, Options, str], Iterator[str]]) -> None:
        self.name = name
        self._look_up = look_up

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        options = ctx.find_object(Options) or Options()
        # No server, no login, no such namespace, a token file that can't be read: then there are no names.
        with (
            contextlib.suppress(HearthError, OSError),
            connect(options, connect_timeout=PATIENCE) as client,
        ):
            # Only a server that answers at once is asked for more: a renewal of the login must not be cut short.
            client.connection.request("GET", "/api/v1/server", anonymous=True, timeout=PATIENCE)
            names = islice(self._look_up(client, options, incomplete), _NAMES_MAX)
            return [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return []


def _functions(client: Client, options: Options, typed: str) -> Iterator[str]:
    namespace, slash, _ = typed.rpartition("/")
    for function in client.functions(namespace if slash else namespace_of(options, client)):
        yield f"{namespace}{slash}{function.name}"


def _namespaces(client: Client, options: Options, typed: str) -> Iterator[str]:
    yield from (member.namespace for member in client.whoami().memberships)


def _secrets(client: Client, options: Options, typed: str) -> Iterator[str]:
    yield from sorted({secret.name for secret in client.secrets(namespace_of(options, client), None)})


SECRET = _Names("secret", _secrets)
FUNCTION = _Names("function", _functions)
NAMESPACE = _Names("namespace", _namespaces)
