"""Users of the platform, for its administrator."""

from __future__ import annotations

from hearth.app.auth import require
from hearth.core.errors import Conflict, NotFound
from hearth.core.ids import is_id
from hearth.core.names import check_email, check_namespace
from hearth.core.permissions import Action, Principal, Resource
from hearth.core.records import User
from hearth.ports.accounts import Passwords
from hearth.ports.clock import Ids
from hearth.ports.store import AccountStore


class Users:
    """Add, list, disable, enable. Works while registration is closed too."""

    def __init__(self, store: AccountStore, passwords: Passwords, ids: Ids) -> None:
        self._store = store
        self._passwords = passwords
        self._ids = ids

    async def add(self, principal: Principal, email: str, password: str, namespace: str | None) -> User:
        """Raises Forbidden, InvalidInput, InvalidName, Conflict (e-mail or namespace taken)."""
        require(principal, Action.ADMINISTER, Resource(), "users")
        email = check_email(email)
        if namespace is not None:
            check_namespace(namespace)
        self._passwords.check(password, email)
        return await self._store.add_user(
            self._ids.new("user"),
            self._ids.new("namespace"),
            email,
            await self._passwords.hash(password),
            namespace,
            first_only=False,
            actor=principal.user_id,
        )

    async def list(self, principal: Principal, after: str | None, limit: int) -> list[User]:
        """By id, which is by age; those after the id `after`. Raises Forbidden."""
        require(principal, Action.ADMINISTER, Resource(), "users")
        return await self._store.list_users(after, limit)

    async def disable(self, principal: Principal, id_or_email: str) -> None:
        """End his sessions and refuse his keys, at once. Raises Forbidden, NotFound, Conflict (oneself)."""
        user = await self._find(principal, id_or_email)
        if user.id == principal.user_id:  # so that there is always one administrator left
            raise Conflict("you can't disable yourself", hint="let another administrator do it")
        await self._store.set_disabled(user.id, True, actor=principal.user_id)

    async def enable(self, principal: Principal, id_or_email: str) -> None:
        """Let him log in again; keys that he made work again. Raises Forbidden, NotFound."""
        user = await self._find(principal, id_or_email)
        await self._store.set_disabled(user.id, False, actor=principal.user_id)

    async def _find(self, principal: Principal, id_or_email: str) -> User:
        require(principal, Action.ADMINISTER, Resource(), "users")
        if is_id("user", id_or_email):
            found = await self._store.find_user(user_id=id_or_email)
        else:
            found = await self._store.find_user(email=check_email(id_or_email))
        if found is None:
            raise NotFound(f"there is no user {id_or_email!a}", hint="list them with: hearth users list")
        return found[0]
