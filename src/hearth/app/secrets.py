"""Secrets as members handle them: set, listed, deleted, never read back."""

from __future__ import annotations

from dataclasses import dataclass

from hearth.app.auth import require
from hearth.core.errors import InvalidInput, NotFound, TooLarge
from hearth.core.limits import SECRET_MAX, format_size
from hearth.core.names import check_function, check_secret
from hearth.core.permissions import Action, Principal, Resource
from hearth.core.records import SecretRow
from hearth.ports.clock import Ids
from hearth.ports.secrets import Sealer
from hearth.ports.store import SecretStore


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose secrets are meant: a namespace's, or one function's of it. `made`: that function is new by this."""

    namespace_id: str
    function_id: str | None
    made: bool = False


class Secrets:
    """The use cases. Who may deploy may set and delete, since what he deploys can read them; who may look may list names."""

    def __init__(self, store: SecretStore, sealer: Sealer, ids: Ids) -> None:
        self._store = store
        self._sealer = sealer
        self._ids = ids

    async def set(
        self, principal: Principal, namespace: str, function: str | None, name: str, value: bytes
    ) -> tuple[SecretRow, bool]:
        """Set a secret or replace its value; new instances are given it, and running ones are replaced by such.

        Args:
            function: whose it is; None the namespace's. One that is not there yet is made, without a version, so that its
                secrets can be set before its first deploy.

        Returns:
            what is known of it now, and whether the function was made.

        Raises:
            NotFound, Forbidden: he may not deploy there. InvalidName, InvalidInput (empty), TooLarge.
        """
        owner = await self._owner(principal, Action.DEPLOY, namespace, function, "set secrets of")
        check_secret(name)
        if not value:
            raise InvalidInput("a secret can't be empty", hint="to take it away: hearth secrets delete")
        if len(value) > SECRET_MAX:
            raise TooLarge(
                f"a secret has at most {format_size(SECRET_MAX)}",
                hint="keep large things in the function's files or in a store that it asks",
                details={"limit": SECRET_MAX},
            )
        if function is not None and owner.function_id is None:
            made, new = await self._store.ensure_function(
                owner.namespace_id, self._ids.new("function"), check_function(function)
            )
            owner = Owner(owner.namespace_id, made.id, new)
        sealed = self._sealer.seal(owner.namespace_id, owner.function_id, name, value)
        row = await self._store.put_secret(self._ids.new("secret"), sealed, principal.user_id)
        return row, owner.made

    async def page(
        self, principal: Principal, namespace: str, function: str | None, after: str | None, limit: int
    ) -> tuple[list[SecretRow], str | None]:
        """All secrets in a namespace, or those that a function is given; by id, and where the next page begins.

        Raises NotFound, Forbidden.
        """
        owner = await self._owner(principal, Action.READ, namespace, function, "list secrets of")
        if function is not None and owner.function_id is None:
            raise _missing(f"function {namespace}/{function}")
        rows = await self._store.list_secrets(owner.namespace_id, owner.function_id, after, limit + 1)
        return rows[:limit], rows[limit - 1].id if len(rows) > limit else None

    async def delete(
        self, principal: Principal, namespace: str, function: str | None, name: str, *, force: bool
    ) -> list[str]:
        """Delete a secret; returns the names of functions that can't start without it.

        Raises:
            NotFound, Forbidden. Conflict: there would be such functions, and not `force`.
        """
        owner = await self._owner(principal, Action.DEPLOY, namespace, function, "delete secrets of")
        if function is not None and owner.function_id is None:
            raise _missing(f"function {namespace}/{function}")
        check_secret(name)
        return await self._store.delete_secret(
            owner.namespace_id, owner.function_id, name, principal.user_id, force=force
        )

    async def _owner(
        self, principal: Principal, action: Action, namespace: str, function: str | None, verb: str
    ) -> Owner:
        what = f"namespace {namespace}" if function is None else f"function {namespace}/{function}"
        namespace_id = await self._store.find_namespace(namespace)
        if namespace_id is None:
            raise _missing(what)
        row = None if function is None else await self._store.find_function(namespace, function)
        owner = Owner(namespace_id, None if row is None else row.id)
        require(principal, action, Resource(namespace_id, owner.function_id), what, verb)
        return owner


def _missing(what: str) -> NotFound:
    return NotFound(f"there is no {what}", hint="look at its spelling, and at who you are: hearth whoami")
