"""Values that are kept so that only functions read them. The cryptography is the adapter's."""

from __future__ import annotations

from typing import Protocol

from hearth.core.records import SealedSecret


class Sealer(Protocol):
    def seal(self, namespace_id: str, function_id: str | None, name: str, value: bytes) -> SealedSecret:
        """Encrypt a value as that one secret's: nobody can pass it off as another's."""
        ...


class Opener(Protocol):
    def open(self, secret: SealedSecret) -> bytes:
        """The value. Raises PlatformError: sealed with another key, as another secret, or changed since."""
        ...
