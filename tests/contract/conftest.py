"""What the suites of stores run on: every adapter, the default one first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.postgres import Postgres

from .store_setup import Setting, setting


@pytest.fixture(params=["sqlite", "postgres"])
def base(request: pytest.FixtureRequest) -> Iterator[Path | str | None]:
    """Where a test's store is: None for a new SQLite file; a URL."""
    if request.param == "sqlite":
        yield None
    else:
        yield request.getfixturevalue("migrated")


@pytest.fixture(scope="session")
def template(postgres: Postgres) -> str:
    """A migrated database that nobody uses: copies of it are quickly made."""
    name = postgres.create()

    async def migrate() -> None:
        async with setting(postgres.url(name)):
            pass

    asyncio.run(migrate())
    return name


@pytest.fixture
def migrated(postgres: Postgres, template: str) -> Iterator[str]:
    """The URL of a database of the test's own, with the tables and without a row."""
    name = postgres.create(template)
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
async def at(base: Path | str | None) -> AsyncIterator[Setting]:
    async with setting(base) as made:
        yield made
