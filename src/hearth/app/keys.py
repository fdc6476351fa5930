"""API keys: what lets a program call or deploy, within what its maker may do himself."""

from __future__ import annotations

from collections.abc import Sequence

from hearth.app.auth import require, require_person
from hearth.core.errors import InvalidInput, NotFound
from hearth.core.limits import KEY_TTL_MAX, KEY_TTL_MIN
from hearth.core.names import check_function, check_namespace
from hearth.core.permissions import Action, KeyScope, Principal, Resource
from hearth.core.records import ApiKey
from hearth.ports.accounts import Tokens
from hearth.ports.clock import Clock, Ids
from hearth.ports.store import AccountStore, FunctionStore

_ACTIONS = {"invoke": Action.INVOKE, "deploy": Action.DEPLOY, "metrics": Action.METRICS}
_PREFIX = 9  # characters of a key that are kept to recognise it by: hk_ and six more (36 of 256 bits)


class Keys:
    """Keys of one user. Only a person makes and revokes them: a key that leaked can't make itself others."""

    def __init__(
        self, accounts: AccountStore, functions: FunctionStore, tokens: Tokens, clock: Clock, ids: Ids
    ) -> None:
        self._accounts = accounts
        self._functions = functions
        self._tokens = tokens
        self._clock = clock
        self._ids = ids

    async def create(
        self,
        principal: Principal,
        *,
        name: str,
        namespace: str | None,
        function: str | None,
        actions: Sequence[str],
        expires_in: int | None,
    ) -> tuple[ApiKey, str]:
        """Make a key; returns it and its secret, which is shown this once.

        Args:
            namespace: what it reaches; with `function` that one alone. None for ``metrics``.
            actions: ``invoke``, ``deploy``; or ``metrics`` alone, which is the platform's.
            expires_in: seconds; None never.

        Raises:
            NotFound: a namespace or function that he can't see. Forbidden: a key asks, or it would reach
            further than its maker. InvalidInput.
        """
        require_person(principal, "make keys")
        wanted = _check_actions(actions)
        name = _check_name(name)
        if expires_in is not None and not KEY_TTL_MIN <= expires_in <= KEY_TTL_MAX:
            raise InvalidInput(
                f"a key lives from {KEY_TTL_MIN} seconds to {KEY_TTL_MAX // 86400} days",
                hint="choose a time between these, or none: then it lives until it is revoked",
            )
        scope = await self._scope(principal, namespace, function, wanted)
        secret, secret_hash = self._tokens.key()
        now = self._clock.now_ms()
        key = ApiKey(
            id=self._ids.new("key"),
            user_id=principal.user_id,
            name=name,
            scope=scope,
            namespace=namespace,
            function=function,
            prefix=secret[:_PREFIX],
            created_ms=now,
            expires_ms=None if expires_in is None else now + expires_in * 1000,
            last_used_ms=None,
        )
        await self._accounts.add_key(key, secret_hash)
        return key, secret

    async def _scope(
        self, principal: Principal, namespace: str | None, function: str | None, actions: frozenset[Action]
    ) -> KeyScope:
        if Action.METRICS in actions:
            if len(actions) > 1 or namespace is not None or function is not None:
                raise InvalidInput(
                    "a key for metrics is the platform's, and does nothing else",
                    hint="give it no namespace and no function; make another key for the rest",
                )
            require(principal, Action.METRICS, Resource(), "the platform's metrics")
            return KeyScope(None, None, actions)
        if namespace is None:
            raise InvalidInput("the key's namespace is missing", hint="say which one it is to reach")
        what = f"namespace {check_namespace(namespace)!r}"
        namespace_id = await self._functions.find_namespace(namespace)
        require(principal, Action.READ, Resource(namespace_id or "none"), what)
        if namespace_id is None:  # unreachable by a decision, but the row decides
            raise NotFound(f"there is no {what}")
        function_id = None
        if function is not None:
            what = f"function '{namespace}/{check_function(function)}'"
            row = await self._functions.find_function(namespace, function)
            if row is None:
                raise NotFound(
                    f"there is no {what}", hint="deploy it first, or make the key for the namespace"
                )
            function_id = row.id
        for action in actions:
            require(principal, action, Resource(namespace_id, function_id), what)
        return KeyScope(namespace_id, function_id, actions)

    async def list(self, principal: Principal) -> list[ApiKey]:
        """His keys, newest first."""
        require_person(principal, "list keys")
        return await self._accounts.list_keys(principal.user_id)

    async def revoke(self, principal: Principal, key_id: str) -> None:
        """Raises NotFound when it is none of his."""
        require_person(principal, "revoke keys")
        await self._accounts.revoke_key(principal.user_id, key_id)


def _check_actions(actions: Sequence[str]) -> frozenset[Action]:
    unknown = [action for action in actions if action not in _ACTIONS]
    if unknown or not actions:
        what = f"{unknown[0][:32]!a} is nothing a key can do" if unknown else "a key must be for something"
        raise InvalidInput(what, hint="invoke, deploy or both; or metrics alone")
    return frozenset(_ACTIONS[action] for action in actions)


def _check_name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= 64 or not name.isprintable():
        raise InvalidInput(
            "a key's name has 1 to 64 printable characters", hint="say what it is for, such as ci"
        )
    return name
