"""These tests run on uvloop, as a shard does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import pytest_asyncio
import uvloop

from tests.integration.gateway.kit import Shard, reflect, shard


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest_asyncio.fixture
async def front() -> AsyncIterator[Shard]:
    """A shard with one public function that answers with what it was asked."""
    async with shard(reflect) as made:
        yield made
