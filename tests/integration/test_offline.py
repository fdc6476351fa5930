"""Resetting a password on the host, as the command does it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hearth.bootstrap.offline import reset_password
from hearth.core.errors import InvalidInput, NotFound
from hearth.core.settings import Settings
from tests.contract.store_setup import setting


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
