"""What is done on the host, by who may read the data directory, whether the platform runs or not."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hearth.app import auth
from hearth.bootstrap.child import RandomIds, SystemClock
from hearth.core.errors import NotFound
from hearth.core.records import User
from hearth.security.passwords import Argon2Passwords
from hearth.store.store import Store


def reset_password(data_dir: Path, email: str, new: str) -> User:
    """Set somebody's password without the old one. A platform that runs ends his sessions within seconds.

    Raises:
        NotFound: there is no database, or nobody with that e-mail. InvalidInput: the new password is refused.
        StartupFailed, StoreUnavailable: the database can't be opened or written.
    """
    database = data_dir / "hearth.db"
    if not database.is_file():
        raise NotFound(
            f"there is no platform in {data_dir}", hint="give the --data-dir that `hearth up` prints"
        )
    return asyncio.run(_reset(database, email, new))


async def _reset(database: Path, email: str, new: str) -> User:
    store = await Store.open(database, durable=True, clock=SystemClock(), ids=RandomIds())
    passwords = Argon2Passwords()
    try:
        return await auth.reset_password(store, passwords, email, new)
    finally:
        passwords.close()
        await store.close()
