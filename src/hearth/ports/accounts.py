"""What accounts are protected by: passwords and tokens. The cryptography is the adapter's, the rules are `app`'s."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hearth.core.permissions import Principal


class Passwords(Protocol):
    """Hashing costs time and memory on purpose, so it has bounds: Overloaded is raised beyond them."""

    def check(self, password: str, email: str) -> None:
        """Judge a new password. Raises InvalidInput: too short, too long, a common one, the e-mail itself."""
        ...

    async def hash(self, password: str) -> str: ...

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether it is the password. With None (no such user) the same work is done and the answer is False."""
        ...


class Tokens(Protocol):
    def access(self, user_id: str, session_id: str, now_ms: int) -> tuple[str, int]:
        """A signed access token and the seconds it lives."""
        ...

    def refresh(self) -> tuple[str, bytes]:
        """A new refresh token and the hash that is stored of it."""
        ...

    def key(self) -> tuple[str, bytes]:
        """A new API key and the hash that is stored of it."""
        ...

    def hash(self, token: str) -> bytes:
        """The stored form of a refresh token or a key."""
        ...


@dataclass(frozen=True, slots=True)
class Identity:
    """A verified credential: who asks, and by which session where it was an access token."""

    principal: Principal
    session_id: str | None = None


class Identifier(Protocol):
    async def identify(self, token: str) -> Identity:
        """Raises Unauthenticated (unknown, expired, revoked), StoreUnavailable."""
        ...
