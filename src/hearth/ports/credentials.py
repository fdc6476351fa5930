"""Who presents this credential? The door asks on every call, so the common answer comes from memory."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from hearth.core.permissions import Principal


class Unknown(Enum):
    """A credential that has not been judged lately: ask `Verifier.resolve`."""

    UNKNOWN = "unknown"


class Verifier(Protocol):
    """Judges API keys (``hk_…``) and access tokens. Its memory is bounded and forgets what events revoke."""

    def cached(self, token: bytes) -> Principal | Unknown | None:
        """The principal if this credential is known to be good now, None if it is known to be bad, else UNKNOWN.

        O(1), no I/O. The same object is returned as long as nothing has changed, so that decisions may be kept by it.
        """
        ...

    async def resolve(self, token: bytes) -> Principal:
        """Look the credential up, and remember the answer.

        Raises:
            Unauthenticated: it is malformed, unknown, expired or revoked.
            StoreUnavailable: it can't be looked up now.
        """
        ...
