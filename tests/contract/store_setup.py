"""A store on a file of its own on tmpfs, and short ways to put things into it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hearth.core.function import FunctionConfig
from hearth.core.permissions import Action, KeyScope
from hearth.core.records import ApiKey, FunctionRow, User, VersionJob, VersionRow
from hearth.store.store import Store
from hearth.testing.clock import ClockIds, FakeClock

SHM = Path("/dev/shm")


@dataclass
class Setting:
    store: Store
    clock: FakeClock
    ids: ClockIds
    path: Path
    topics: list[str] = field(default_factory=list)

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


@asynccontextmanager
async def setting(path: Path | None = None, *, durable: bool = True) -> AsyncIterator[Setting]:
    folder = Path(tempfile.mkdtemp(prefix="hearth-store-", dir=SHM if SHM.is_dir() else None))
    clock = FakeClock()
    ids = ClockIds(clock)
    topics: list[str] = []
    try:
        where = path or folder / "hearth.db"
        store = await Store.open(where, durable=durable, clock=clock, ids=ids, publish=topics.append)
        try:
            yield Setting(store, clock, ids, where, topics)
        finally:
            await store.close()
    finally:
        shutil.rmtree(folder)
