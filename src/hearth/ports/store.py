"""Rows are truth. Each consumer has its own small Protocol; one adapter implements them all.

Every method is one short transaction. All raise StoreUnavailable when the database can't be reached;
what else they raise stands at each. Leases are judged by the database's clock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
    SealedSecret,
    SecretRow,
    Session,
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
        actor: str | None = None,
    ) -> User:
        """Insert a user, the namespace of his own and his membership as owner, in one transaction.

        `actor` is the user who adds him, None when he does it himself.

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

    async def set_password(
        self, user_id: str, password_hash: str, *, actor: str, keep: str | None = None
    ) -> None:
        """Also ends all sessions but `keep`. `actor` is who does it, a user's id or ``host``. Raises NotFound."""
        ...

    async def set_disabled(self, user_id: str, disabled: bool, *, actor: str) -> None:
        """Also ends all sessions. Raises NotFound."""
        ...

    async def memberships(self, user_id: str) -> list[Membership]: ...

    async def add_session(
        self, session_id: str, user_id: str, refresh_hash: bytes, expires_ms: int, *, label: str
    ) -> None:
        """`label` says what logged in and from where, in at most 64 characters."""
        ...

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

    async def list_sessions(self, user_id: str) -> list[Session]:
        """Those that have not ended, the one that was refreshed last first."""
        ...

    async def revoke_sessions(
        self, user_id: str, *, session_id: str | None = None, keep: str | None = None
    ) -> int:
        """End one session of a user, or all but `keep`; returns how many. Raises NotFound: no such session of his."""
        ...

    async def note_refused_login(self, user_id: str | None, label: str) -> None:
        """For the record. None: nobody has that e-mail."""
        ...

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

    async def function_ids(self) -> set[str]:
        """Of all functions."""
        ...

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

    async def delete_function(self, function_id: str) -> None:
        """Removes it, its versions and aliases; event ``route``. Raises NotFound."""
        ...


class SecretStore(Protocol):
    """Sealed secrets. A change of one writes events: ``secret``, and ``route`` for every function that it reaches."""

    async def find_namespace(self, name: str) -> str | None: ...

    async def find_function(self, namespace: str, name: str) -> FunctionRow | None: ...

    async def ensure_function(
        self, namespace_id: str, function_id: str, name: str
    ) -> tuple[FunctionRow, bool]:
        """The function of that name, made with this id and without a version when there is none; and whether it was made."""
        ...

    async def put_secret(self, secret_id: str, secret: SealedSecret, user_id: str) -> SecretRow:
        """Insert it (`secret_id` is used then) or replace its value.

        Raises TooLarge: its owner has too many, or a function that takes traffic would be given too many bytes.
        Conflict: its namespace or function is gone.
        """
        ...

    async def list_secrets(
        self, namespace_id: str, function_id: str | None, after: str | None, limit: int
    ) -> list[SecretRow]:
        """By id: all in a namespace; with a function those that it would be given, its own before the namespace's."""
        ...

    async def delete_secret(
        self, namespace_id: str, function_id: str | None, name: str, user_id: str, *, force: bool
    ) -> list[str]:
        """Delete it; returns the names of functions that can't start any more.

        Raises NotFound. Conflict: there would be such functions, and not `force`.
        """
        ...

    async def sealed_secrets(
        self, namespace_id: str, function_id: str | None, names: Collection[str]
    ) -> tuple[SealedSecret, ...]:
        """Of these names those that are set for a function (None: one that is not there yet), its own before the namespace's."""
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

    async def built(
        self, version_id: str, token: int, artifact: str, toolchain: str, size: int | None = None
    ) -> None:
        """BUILDING → BUILT; `size` is the artifact's in bytes; hint ``version``."""
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

    async def end_owner(self, owner: str) -> None:
        """It has ended, by itself or not: its sandboxes are gone, what it had claimed is free. Idempotent."""
        ...

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
    "SecretStore",
    "WorkStore",
]
