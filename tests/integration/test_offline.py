"""What is done on the host without a platform, as the commands do it: a password is reset, a database is migrated."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hearth.bootstrap.migrate import migrate_now
from hearth.bootstrap.offline import reset_password
from hearth.core.errors import InvalidInput, NotFound, StartupFailed
from hearth.core.settings import Settings
from hearth.store.migrate import newest
from tests.contract.store_setup import setting, sql


async def test_a_lost_password_is_reset_and_sessions_end() -> None:
    async with setting() as at:  # the platform runs meanwhile
        user = await at.user()
        session = at.ids.new("session")
        await at.store.add_session(session, user.id, b"r" * 32, at.clock.now_ms() + 1000, label="cli")
        found = await asyncio.to_thread(
            reset_password, Settings(at.path.parent), " JO@example.com", "seven new red hats"
        )
        assert found.id == user.id
        after = await at.store.find_user(user_id=user.id)
        assert after is not None and after[1].startswith("$argon2id$")
        assert await at.store.session_live(session) is None
        with pytest.raises(InvalidInput):
            await asyncio.to_thread(reset_password, Settings(at.path.parent), "jo@example.com", "password123")
        with pytest.raises(NotFound, match="nobody"):
            await asyncio.to_thread(
                reset_password, Settings(at.path.parent), "else@example.com", "seven new red hats"
            )


def test_no_platform_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no platform"):
        reset_password(Settings(tmp_path), "jo@example.com", "seven new red hats")
    assert list(tmp_path.iterdir()) == []


async def test_a_file_is_migrated_where_there_is_one(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    with pytest.raises(NotFound, match="no database"):
        migrate_now(settings)
    assert list(tmp_path.iterdir()) == []
    async with setting(tmp_path / "hearth.db") as at:  # a platform may be running
        assert await asyncio.to_thread(migrate_now, settings) == (newest(), newest())
        sql(at, "UPDATE alembic_version SET version_num = '9999'")
        with pytest.raises(StartupFailed, match="newer Hearth"):
            await asyncio.to_thread(migrate_now, settings)
