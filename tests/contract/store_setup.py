"""A store on a database of its own (SQLite: a file on tmpfs), and short ways to put things into it."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from hearth.core.function import FunctionConfig
from hearth.core.permissions import Action, KeyScope
from hearth.core.records import ApiKey, FunctionRow, User, VersionJob, VersionRow
from hearth.store.store import Store
from hearth.testing.clock import ClockIds, FakeClock

SHM = Path("/dev/shm")


@dataclass
class Setting:
    """`where` is the file, or PostgreSQL's URL."""

    store: Store
    clock: FakeClock
    ids: ClockIds
    where: Path | str
    topics: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        assert isinstance(self.where, Path)
        return self.where

    async def user(self, email: str = "jo@example.com", namespace: str | None = None) -> User:
        return await self.store.add_user(
            self.ids.new("user"), self.ids.new("namespace"), email, "hash", namespace, first_only=False
        )

    async def deploy(
        self, user: User, name: str = "resize", source: str = "s" * 64
    ) -> tuple[FunctionRow, VersionRow]:
        return await self.store.add_version(
            namespace_id=user.namespace_id,
            function_id=self.ids.new("function"),
            version_id=self.ids.new("version"),
            name=name,
            config=FunctionConfig(name, "python", env=(("A", "b"),)),
            source=source,
            user_id=user.id,
        )

    async def publish(self, version: VersionRow, artifact: str = "a" * 64) -> None:
        """Build and prove the one version that waits."""
        job = await self.claimed_build()
        assert job.version.id == version.id
        await self.store.built(version.id, job.lease.token, artifact, "python-3.11.2")
        proof = await self.store.claim_proof("prover", 30)
        assert proof is not None and proof.version.id == version.id
        await self.store.publish(version.id, proof.lease.token, "handler.handler")

    async def claimed_build(self, owner: str = "builder", lease_s: float = 30) -> VersionJob:
        job = await self.store.claim_build(owner, lease_s)
        assert job is not None
        return job

    def key(self, user: User, **changes: object) -> ApiKey:
        values: dict[str, object] = {
            "id": self.ids.new("key"),
            "user_id": user.id,
            "name": "ci",
            "scope": KeyScope(user.namespace_id, None, frozenset({Action.INVOKE})),
            "namespace": user.namespace,
            "function": None,
            "prefix": "hk_abcdef",
            "created_ms": self.clock.now_ms(),
            "expires_ms": None,
            "last_used_ms": None,
        }
        return ApiKey(**(values | changes))  # type: ignore[arg-type]


def sql(at: Setting, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Look at, or age, what is stored, behind the store's back. Values stand for question marks."""
    if isinstance(at.where, Path):
        with closing(sqlite3.connect(at.where, isolation_level=None)) as connection:
            return connection.execute(statement, values).fetchall()
    with psycopg.connect(at.where, autocommit=True) as server:
        cursor = server.execute(statement.replace("%", "%%").replace("?", "%s"), values)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description is not None else []


@asynccontextmanager
async def setting(where: Path | str | None = None, *, durable: bool = True) -> AsyncIterator[Setting]:
    folder = Path(tempfile.mkdtemp(prefix="hearth-store-", dir=SHM if SHM.is_dir() else None))
    clock = FakeClock()
    ids = ClockIds(clock)
    topics: list[str] = []
    try:
        where = where or folder / "hearth.db"
        store = await Store.open(where, durable=durable, clock=clock, ids=ids, publish=topics.append)
        try:
            yield Setting(store, clock, ids, where, topics)
        finally:
            await store.close()
    finally:
        shutil.rmtree(folder)
