"""Which version a request goes to, and whether who asks may (PRODUCT, "Between a caller and a function")."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, NamedTuple

from hearth.app.routes import Key
from hearth.core.errors import Forbidden, HearthError, NotFound, StoreUnavailable
from hearth.core.permissions import Principal
from hearth.core.routing import Deployed, Route
from hearth.gateway import auth
from hearth.gateway.shared import Shared

VERSION, ALIAS = b"x-hearth-version", b"x-hearth-alias"


class Admitted(NamedTuple):
    """A request that may go on: where to, and on whose behalf (None: anybody's)."""

    version: Deployed
    principal: Principal | None


Verdict = Admitted | HearthError | Coroutine[Any, Any, Admitted]
"""A coroutine when something has to be looked up first; it raises what is an error otherwise."""


def admit(
    shared: Shared,
    route: Route | None,
    special: dict[bytes, bytes],
    key: Key,
    known: Principal | None = None,
) -> Verdict:
    """Judge one request.

    Args:
        shared: verifier, routes.
        route: of the function, None when there is none of that name.
        special: the request's headers that mean something here.
        key: the namespace and the function that the request names.
        known: who asks where he presents no credential; None: anybody.
    """
    if route is None:
        return _caught_up(shared, special, key, known)
    return _admit(shared, route, special, key, known)


async def _caught_up(
    shared: Shared, special: dict[bytes, bytes], key: Key, known: Principal | None
) -> Admitted:
    """The table has no such function: perhaps it was deployed a moment ago."""
    await shared.routes.catch_up()
    return await _settled(_admit(shared, shared.routes.entries.get(key), special, key, known))


def _admit(
    shared: Shared, route: Route | None, special: dict[bytes, bytes], key: Key, known: Principal | None
) -> Verdict:
    version = None if route is None else route.live.only or route.live.pick(shared.chance())
    token = auth.credential(special, version is not None and version.public)
    if token is None:
        return _judge(shared, route, version, special, key, known)
    principal = shared.verifier.cached(token)
    if principal is None:
        return auth.bad_credential()
    if isinstance(principal, Principal):
        return _judge(shared, route, version, special, key, principal)
    return _look_up(shared, route, version, special, key, token)


async def _look_up(
    shared: Shared,
    route: Route | None,
    version: Deployed | None,
    special: dict[bytes, bytes],
    key: Key,
    token: bytes,
) -> Admitted:
    return await _settled(_judge(shared, route, version, special, key, await shared.resolve(token)))


async def _settled(verdict: Verdict) -> Admitted:
    if isinstance(verdict, HearthError):
        raise verdict
    return verdict if isinstance(verdict, Admitted) else await verdict


def _judge(
    shared: Shared,
    route: Route | None,
    version: Deployed | None,
    special: dict[bytes, bytes],
    key: Key,
    principal: Principal | None,
) -> Verdict:
    if route is None or version is None:
        return _unknown(shared, key, principal)
    error = auth.refusal(principal, version)
    if isinstance(error, NotFound):
        return _hidden(shared, key, principal)
    if error is not None:
        return error
    if VERSION not in special and ALIAS not in special:
        return Admitted(version, principal)
    if not auth.is_member(principal, route.function.namespace_id):
        return Forbidden("only members of the namespace may choose a version")
    return _named(shared, route, special, principal)


async def _hidden(shared: Shared, key: Key, principal: Principal | None) -> Admitted:
    """Refuse as if it weren't there, after the same look for it: how long it takes tells nobody that it is."""
    await shared.routes.catch_up()
    return await _unknown(shared, key, principal)


async def _unknown(shared: Shared, key: Key, principal: Principal | None) -> Admitted:
    """Tell a member what is the matter with a function that has no live version; others are told what strangers are."""
    if principal is None:
        raise auth.unknown_function()
    try:
        found = await shared.routes.unrouted(key)
    except StoreUnavailable:
        found = None
    raise auth.not_live(principal, found)


async def _named(
    shared: Shared, route: Route, special: dict[bytes, bytes], principal: Principal | None
) -> Admitted:
    return Admitted(await shared.named(route, special.get(VERSION), special.get(ALIAS)), principal)
