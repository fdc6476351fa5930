"""One's own logins: which there are, and ending them."""

from __future__ import annotations

from collections.abc import Sequence

from hearth.app.auth import require_person
from hearth.core.permissions import Principal
from hearth.core.records import Session
from hearth.ports.accounts import Identity
from hearth.ports.store import AccountStore


class Sessions:
    """Sessions of one user."""

    def __init__(self, store: AccountStore) -> None:
        self._store = store

    async def list(self, principal: Principal) -> Sequence[Session]:
        """His logins that have not ended, the one that was used last first. Raises Forbidden (a key asks)."""
        require_person(principal, "list sessions")
        return await self._store.list_sessions(principal.user_id)

    async def end(self, principal: Principal, session_id: str) -> None:
        """End one login of his. Raises Forbidden (a key asks), NotFound."""
        require_person(principal, "end sessions")
        await self._store.revoke_sessions(principal.user_id, session_id=session_id)

    async def end_others(self, identity: Identity) -> int:
        """End all his logins but the one that asks; returns how many. Raises Forbidden (a key asks)."""
        require_person(identity.principal, "end sessions")
        return await self._store.revoke_sessions(identity.principal.user_id, keep=identity.session_id)
