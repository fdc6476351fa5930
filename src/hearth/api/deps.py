"""What the endpoints are handed: the one place that reads `app.state`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Query, Request

from hearth.app.auth import Auth
from hearth.app.keys import Keys
from hearth.app.logins import Origin
from hearth.app.sessions import Sessions
from hearth.app.users import Users
from hearth.core.errors import Unauthenticated
from hearth.core.permissions import Principal
from hearth.core.settings import Settings
from hearth.ports.accounts import Identifier, Identity
from hearth.ports.clock import Clock
from hearth.ports.store import FunctionStore


@dataclass(frozen=True, slots=True)
class ApiDeps:
    """Made by bootstrap, kept as ``app.state.deps``. `settings.public_url` is filled in."""

    settings: Settings
    version: str
    auth: Auth
    keys: Keys
    sessions: Sessions
    users: Users
    identifier: Identifier
    functions: FunctionStore
    clock: Clock


def deps_of(request: Request) -> ApiDeps:
    return cast(ApiDeps, request.app.state.deps)


def credential_of(request: Request) -> str | None:
    """The credential of a request: ``Authorization: Bearer``, else ``X-Hearth-Key``. Raises Unauthenticated (malformed)."""
    authorization = request.headers.get("authorization")
    if authorization is None:
        return request.headers.get("x-hearth-key")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated(
            "the Authorization header is not understood", hint="send: Authorization: Bearer TOKEN"
        )
    return token.strip()


async def current_identity(request: Request) -> Identity:
    """Who asks. Raises Unauthenticated."""
    token = credential_of(request)
    if token is None:
        raise Unauthenticated("a credential is needed", hint="log in: hearth login")
    return await deps_of(request).identifier.identify(token)


async def current_principal(request: Request) -> Principal:
    """Who asks, where his session does not matter. Raises Unauthenticated."""
    return (await current_identity(request)).principal


def client_address(request: Request) -> str:
    """The caller's address: the last one of ``X-Forwarded-For``, which the shard wrote.

    Control has no other door than its Unix socket, so whoever set that header is ours; what a caller
    wrote in front of it is not believed.
    """
    forwarded = request.headers.get("x-forwarded-for", "")
    return forwarded.rpartition(",")[2].strip()[:64] or "local"


def client_origin(request: Request) -> Origin:
    """Where a log-in comes from: the address as `client_address` has it, and the program."""
    return Origin(client_address(request), request.headers.get("user-agent", ""))


Deps = Annotated[ApiDeps, Depends(deps_of)]
CurrentIdentity = Annotated[Identity, Depends(current_identity)]
CurrentPrincipal = Annotated[Principal, Depends(current_principal)]
ClientAddress = Annotated[str, Depends(client_address)]
ClientOrigin = Annotated[Origin, Depends(client_origin)]
After = Annotated[str | None, Query(max_length=64, description="the `next` of the page before")]
Limit = Annotated[int, Query(ge=1, le=500, description="how many at most")]
