"""What is done on the host, by who may read the data directory, whether the platform runs or not."""

from __future__ import annotations

import asyncio

from hearth.app import auth
from hearth.bootstrap.parts import open_store
from hearth.core.errors import NotFound
from hearth.core.records import User
from hearth.core.settings import Settings
from hearth.security.passwords import Argon2Passwords


def reset_password(settings: Settings, email: str, new: str) -> User:
    """Set somebody's password without the old one. A platform that runs ends his sessions within seconds.

    Raises:
        NotFound: there is no database, or nobody with that e-mail. InvalidInput: the new password is refused.
        StartupFailed, StoreUnavailable: the database can't be opened or written.
    """
    if not settings.database_url and not (settings.data_dir / "hearth.db").is_file():
        raise NotFound(
            f"there is no platform in {settings.data_dir}",
            hint="give the --data-dir that `hearth up` prints, or its --database-url",
        )
    return asyncio.run(_reset(settings, email, new))


async def _reset(settings: Settings, email: str, new: str) -> User:
    store = await open_store(settings, durable=True)
    passwords = Argon2Passwords()
    try:
        return await auth.reset_password(store, passwords, email, new)
    finally:
        passwords.close()
        await store.close()
