"""Rigs of the driver for attacks and for looks from outside."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hearth.egress.networks import HostNetworks
from tests.contract.driver_cases import Rig, bubblewrap_rig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A bubblewrap driver that is open; nothing may be left of it afterwards."""
    async with bubblewrap_rig(tmp_path) as ready:
        yield ready


@pytest.fixture
async def networked(tmp_path: Path) -> AsyncIterator[Rig]:
    """A rig whose sandboxes have networks, by the real rules."""
    networks = HostNetworks("t" + secrets.token_hex(5))
    await networks.start()
    try:
        if networks.missing():
            pytest.skip(f"this machine has no networks for sandboxes: {networks.missing()}")
        async with bubblewrap_rig(tmp_path, networks=networks) as ready:
            yield ready
    finally:
        await networks.stop()
