"""Claims of versions by builders and provers: leases by the database's clock, fenced by a token.

Every move is a compare-and-set on the state and the token. Who lost his lease learns it by StaleLease, whatever
he wanted to say; what he made is then nobody's.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, and_, or_, select, update

from hearth.core.errors import StaleLease
from hearth.core.records import Failure, Lease, SealedSecret, VersionJob
from hearth.core.version import VersionState
from hearth.store import tables as t
from hearth.store.database import Database
from hearth.store.dialect import upsert
from hearth.store.routes import move_live
from hearth.store.rows import emit, failure_to_json, functions, hold_function, to_function, to_version
from hearth.store.secrets import usable
from hearth.store.writer import Tx

ATTEMPTS = 2  # a worker that died is replaced once; what kills two has a reason
_PENDING, _BUILDING, _BUILT = VersionState.PENDING, VersionState.BUILDING, VersionState.BUILT
_PROVING, _READY, _FAILED = VersionState.PROVING, VersionState.READY, VersionState.FAILED
_LOST = {
    _BUILDING: Failure(
        "build_failed", "the build's worker died twice", "look at the server's log and deploy again"
    ),
    _PROVING: Failure(
        "function_load_failed", "the process that tried the function died twice", "look at the server's log"
    ),
}
_UNOWNED = {"lease_owner": None, "lease_until_ms": None}


class Work:
    """`WorkStore`."""

    _db: Database

    async def claim_build(self, owner: str, lease_s: float) -> VersionJob | None:
        return await self._db.write(lambda tx: _claim(tx, _PENDING, _BUILDING, owner, lease_s))

    async def claim_proof(self, owner: str, lease_s: float) -> VersionJob | None:
        return await self._db.write(lambda tx: _claim(tx, _BUILT, _PROVING, owner, lease_s))

    async def renew(self, version_id: str, token: int, lease_s: float) -> None:
        def write(tx: Tx) -> None:
            until = tx.database_ms() + int(lease_s * 1000)
            _settle(tx, version_id, token, (_BUILDING, _PROVING), {"lease_until_ms": until})

        await self._db.write(write)

    async def built(
        self, version_id: str, token: int, artifact: str, toolchain: str, size: int | None = None
    ) -> None:
        def write(tx: Tx) -> None:
            values = {
                "state": _BUILT.value,
                "artifact": artifact,
                "toolchain": toolchain,
                "size": size,
                "attempts": 0,
            }
            _settle(tx, version_id, token, (_BUILDING,), values | _UNOWNED)
            _emit(tx, version_id, "built")

        await self._db.write(write)

    async def publish(self, version_id: str, token: int, handler: str) -> None:
        alias_id = self._db.ids.new("alias")

        def write(tx: Tx) -> None:
            values = {"state": _READY.value, "handler": handler, "ready_ms": tx.now_ms, "attempts": 0}
            run, v = tx.connection.execute, t.versions.c
            hold_function(tx, run(select(v.function_id).where(v.id == version_id)).scalar_one_or_none() or "")
            ready_before = run(select(v.ready_ms).where(v.id == version_id)).scalar_one_or_none()
            _settle(tx, version_id, token, (_PROVING,), values | _UNOWNED)
            # One that was built again takes no traffic from where a person has sent it since.
            move_live(tx, version_id, alias_id, only_tell=ready_before is not None)
            _emit(tx, version_id, "ready")

        await self._db.write(write)

    async def fail(self, version_id: str, token: int, failure: Failure) -> None:
        def write(tx: Tx) -> None:
            values = {"state": _FAILED.value, "failure": failure_to_json(failure)}
            _settle(tx, version_id, token, (_BUILDING, _PROVING), values | _UNOWNED)
            _emit(tx, version_id, "failed")

        await self._db.write(write)

    async def release(self, version_id: str, token: int) -> None:
        def write(tx: Tx) -> None:
            attempts = {"attempts": t.versions.c.attempts - 1} | _UNOWNED
            for before, after in ((_BUILDING, _PENDING), (_PROVING, _BUILT)):
                changed = tx.connection.execute(
                    update(t.versions)
                    .where(_held(version_id, token), t.versions.c.state == before.value)
                    .values(state=after.value, **attempts)
                )
                if changed.rowcount:
                    _emit(tx, version_id, "released")
                    return
            raise _stale()

        await self._db.write(write)

    async def rebuild(self, version_id: str) -> None:
        def write(tx: Tx) -> None:
            v = t.versions.c
            changed = tx.connection.execute(
                update(t.versions)
                .where(v.id == version_id, v.state.in_((_READY.value, _BUILT.value)))
                .values(state=_PENDING.value, attempts=0)
            )
            if changed.rowcount:  # else it is being built already, or gone: both are what was wanted
                _emit(tx, version_id, "rebuild")

        await self._db.write(write)

    async def cached_artifact(self, build_key: str) -> str | None:
        def read(connection: Connection) -> str | None:
            query = select(t.artifacts.c.artifact).where(t.artifacts.c.build_key == build_key)
            return connection.execute(query).scalar_one_or_none()

        return await self._db.read(read)

    async def remember_artifact(self, build_key: str, artifact: str) -> None:
        def write(tx: Tx) -> None:
            new = {"build_key": build_key, "artifact": artifact, "created_ms": tx.now_ms}
            put = upsert(tx.connection, t.artifacts).values(new)
            same = [t.artifacts.c.build_key]
            tx.connection.execute(put.on_conflict_do_update(index_elements=same, set_={"artifact": artifact}))

        await self._db.write(write)


def _claim(
    tx: Tx, before: VersionState, during: VersionState, owner: str, lease_s: float
) -> VersionJob | None:
    """Take the oldest version that waits or whose worker is gone; versions that were tried enough fail on the way."""
    v, run = t.versions.c, tx.connection.execute
    now = tx.database_ms()
    free = or_(v.state == before.value, and_(v.state == during.value, v.lease_until_ms < now))
    query = select(t.versions).where(free).order_by(v.created_ms, v.id).limit(1)
    # PostgreSQL: who comes second takes the next one, without waiting.
    query = query.with_for_update(skip_locked=True)
    while (row := run(query).mappings().first()) is not None:
        same = and_(v.id == row["id"], v.state == row["state"], v.lease_token == row["lease_token"])
        if row["attempts"] >= ATTEMPTS:
            failure = failure_to_json(_LOST[during])
            lost = update(t.versions).where(same).values(state=_FAILED.value, failure=failure, **_UNOWNED)
            if run(lost).rowcount:
                _emit(tx, row["id"], "failed")
            continue
        claim = (
            update(t.versions)
            .where(same)
            .values(
                state=during.value,
                attempts=v.attempts + 1,
                lease_token=v.lease_token + 1,
                lease_owner=owner,
                lease_until_ms=now + int(lease_s * 1000),
            )
        )
        if run(claim).rowcount == 0:
            continue  # another process was first (can't happen: SQLite has one writer, PostgreSQL's row is locked)
        _emit(tx, row["id"], during.value)
        claimed = run(select(t.versions).where(v.id == row["id"])).mappings().one()
        version = to_version(claimed)
        function = to_function(
            run(functions().where(t.functions.c.id == version.function_id)).mappings().one()
        )
        lease = Lease(claimed["lease_token"], owner, claimed["attempts"])
        secrets: tuple[SealedSecret, ...] = ()
        if during is _PROVING:  # a build is given none
            secrets = usable(tx.connection, [(function, version.config.secrets)]).get(function.id, ())
        return VersionJob(version, function, lease, secrets)
    return None


def _held(version_id: str, token: int) -> Any:
    v = t.versions.c
    return and_(v.id == version_id, v.lease_token == token, v.lease_owner.is_not(None))


def _settle(
    tx: Tx, version_id: str, token: int, states: tuple[VersionState, ...], values: dict[str, Any]
) -> None:
    """Move a version that this token holds. Raises StaleLease."""
    changed = tx.connection.execute(
        update(t.versions)
        .where(_held(version_id, token), t.versions.c.state.in_([state.value for state in states]))
        .values(**values)
    )
    if changed.rowcount == 0:
        raise _stale()


def _stale() -> StaleLease:
    return StaleLease("somebody else works on this version now, or it is gone")


def _emit(tx: Tx, version_id: str, did: str) -> None:
    v = t.versions.c
    row = tx.connection.execute(
        select(v.function_id, v.namespace_id, v.number).where(v.id == version_id)
    ).one()
    emit(tx, "version", row.function_id, row.namespace_id, version=row.number, did=did)
