"""Rows are truth. Each consumer has its own small Protocol; one adapter implements them all.

Every method is one short transaction. All raise StoreUnavailable when the database can't be reached;
what else they raise stands at each. Leases are judged by the database's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hearth.core.function import FunctionConfig
from hearth.core.records import (
    ApiKey,
    Event,
    Failure,
    FunctionRow,
    FunctionSummary,
    InvocationRow,
    Membership,
    RouteRow,
    SandboxRow,
    User,
    VersionJob,
    VersionRow,
)


class AccountStore(Protocol):
    async def count_users(self) -> int: ...

    async def add_user(
        self,
        user_id: str,
        namespace_id: str,
        email: str,
        password_hash: str,
        namespace: str | None,
        *,
        first_only: bool,
    ) -> User:
        """Insert a user, the namespace of his own and his membership as owner, in one transaction.

        `namespace` None makes it from the e-mail, with ``-2``, ``-3``… when taken. The very first user becomes
        administrator. Raises Conflict (e-mail or namespace taken), RegistrationClosed (`first_only` and there is one).
        """
        ...

    async def find_user(
        self, *, email: str | None = None, user_id: str | None = None
    ) -> tuple[User, str] | None:
        """The user and his password hash."""
        ...

    async def list_users(self, after: str | None, limit: int) -> list[User]: ...

    async def set_password(self, user_id: str, password_hash: str) -> None:
        """Also ends all sessions. Raises NotFound."""
        ...

    async def set_disabled(self, user_id: str, disabled: bool) -> None:
        """Also ends all sessions. Raises NotFound."""
        ...

    async def memberships(self, user_id: str) -> list[Membership]: ...

    async def add_session(
        self, session_id: str, user_id: str, refresh_hash: bytes, expires_ms: int
    ) -> None: ...

    async def rotate_session(
        self, old_hash: bytes, new_hash: bytes, expires_ms: int, overlap_ms: int
    ) -> tuple[str, User] | None:
        """Replace a refresh token; None when it is unknown, expired or revoked.

        A token used again within `overlap_ms` of its rotation is rotated again (two commands at once both
        succeed); later reuse revokes the session: it was stolen.
        """
        ...

    async def session_live(self, session_id: str) -> User | None:
        """The user of a session that is neither revoked nor expired, he not disabled."""
        ...

    async def revoke_session(self, session_id: str) -> None: ...

    async def add_key(self, key: ApiKey, secret_hash: bytes) -> None: ...

    async def find_key(self, secret_hash: bytes) -> tuple[ApiKey, User] | None:
        """A key that is neither revoked nor expired, of a user who is not disabled."""
        ...

    async def list_keys(self, user_id: str) -> list[ApiKey]: ...

    async def revoke_key(self, user_id: str, key_id: str) -> None:
        """Raises NotFound."""
        ...

    async def touch_keys(self, used: dict[str, int]) -> None:
        """Note when keys were last used (id → ms), in one batch."""
        ...

    async def session_of(self, refresh_hash: bytes) -> str | None:
        """The session that a refresh token belongs to, even when it was rotated or has expired."""
        ...

    async def begin_login(self, subjects: Sequence[str]) -> float:
        """Count an attempt as a failure and return 0; or return the seconds to wait and count nothing. One transaction.

        Counting before the password is looked at is what keeps a hundred attempts at once from all being free;
        `note_login` with success takes it back.
        """
        ...

    async def login_delay(self, subjects: Sequence[str]) -> float:
        """Seconds that a login from any of these subjects (``account:…``, ``address:…``) must wait; 0 when free."""
        ...

    async def note_login(self, subjects: Sequence[str], success: bool) -> None:
        """Count a failure, or after a success forget the accounts' failures and take one of the addresses' back."""
        ...


class FunctionStore(Protocol):
    async def find_namespace(self, name: str) -> str | None:
        """A namespace's id."""
        ...

    async def find_function(self, namespace: str, name: str) -> FunctionRow | None: ...

    async def add_version(
        self,
        *,
        namespace_id: str,
        function_id: str,
        version_id: str,
        name: str,
        config: FunctionConfig,
        source: str,
        user_id: str,
    ) -> tuple[FunctionRow, VersionRow]:
        """Insert the function when it is new (`function_id` is used then) and its next version, PENDING; hint ``version``."""
        ...

    async def list_functions(
        self, namespace_ids: Sequence[str], after: str | None, limit: int
    ) -> list[FunctionSummary]: ...

    async def summary(self, function_id: str) -> FunctionSummary | None: ...

    async def find_version(self, function_id: str, number: int) -> VersionRow | None: ...

    async def list_versions(self, function_id: str, after: int | None, limit: int) -> list[VersionRow]:
        """Newest first, numbers below `after`."""
        ...

    async def delete_function(self, function_id: str) -> None:
        """Removes it, its versions and aliases; event ``route``. Raises NotFound."""
        ...

    async def digests_in_use(self) -> tuple[set[str], set[str]]:
        """(sources, artifacts) that some version needs."""
        ...


class WorkStore(Protocol):
    """Claims of versions; the token of the lease guards every settle (StaleLease otherwise)."""

    async def claim_build(self, owner: str, lease_s: float) -> VersionJob | None:
        """The oldest PENDING version, or a BUILDING one whose lease has passed; moves it to BUILDING.

        A version whose second attempt's lease has passed too is FAILED instead.
        """
        ...

    async def claim_proof(self, owner: str, lease_s: float) -> VersionJob | None:
        """The same for BUILT → PROVING."""
        ...

    async def renew(self, version_id: str, token: int, lease_s: float) -> None: ...

    async def built(self, version_id: str, token: int, artifact: str, toolchain: str) -> None:
        """BUILDING → BUILT; hint ``version``."""
        ...

    async def publish(self, version_id: str, token: int, handler: str) -> None:
        """PROVING → READY, and alias ``live`` moves to it unless a later version is live already; one transaction, event ``route``."""
        ...

    async def fail(self, version_id: str, token: int, failure: Failure) -> None:
        """→ FAILED; traffic is not touched; event ``version``."""
        ...

    async def release(self, version_id: str, token: int) -> None:
        """Give a claim back untouched (draining): BUILDING → PENDING, PROVING → BUILT, the attempt not counted."""
        ...

    async def rebuild(self, version_id: str) -> None:
        """READY or BUILT → PENDING: its artifact or its exact toolchain is gone from this node."""
        ...

    async def cached_artifact(self, build_key: str) -> str | None:
        """The artifact that an equal build made (source, settings, exact toolchain)."""
        ...

    async def remember_artifact(self, build_key: str, artifact: str) -> None: ...


class RouteStore(Protocol):
    async def routes(self, after: str | None, limit: int) -> list[RouteRow]:
        """By function id; functions with at least one alias."""
        ...

    async def route(self, function_id: str) -> RouteRow | None: ...

    async def last_event(self) -> int: ...

    async def events_after(self, seq: int, limit: int) -> list[Event]:
        """The outbox, in order."""
        ...

    async def find_version_by_id(self, version_id: str) -> VersionRow | None: ...


class ProcessStore(Protocol):
    """What processes write of themselves, in relaxed batches."""

    async def start_owner(self, owner: str, node: str, kind: str) -> None: ...

    async def heartbeat(self, owner: str) -> None: ...

    async def end_owner(self, owner: str) -> None: ...

    async def save_sandboxes(self, rows: Sequence[SandboxRow]) -> None:
        """Insert or update."""
        ...

    async def save_invocations(self, rows: Sequence[InvocationRow]) -> None: ...

    async def clear_owners(self, node: str) -> int:
        """At start: mark every sandbox and owner of this node's earlier lives gone; returns how many sandboxes."""
        ...


__all__ = [
    "AccountStore",
    "FunctionStore",
    "ProcessStore",
    "RouteStore",
    "WorkStore",
]
