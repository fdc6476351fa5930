"""What nobody needs any more, as the rows say; and its removal, a few rows at a time so that others' writes get in between."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import ColumnElement, Connection, Delete, and_, delete, func, or_, select, update

from hearth.core.ids import new_id
from hearth.core.records import VersionRow
from hearth.core.retention import Standing, expendable
from hearth.core.version import VersionState
from hearth.store import tables as t
from hearth.store.database import Database
from hearth.store.dialect import database_ms, upsert
from hearth.store.routes import LIVE
from hearth.store.rows import emit, hold_function, to_version
from hearth.store.writer import Tx

BATCH = 500  # rows removed in one transaction
SILENT_MS = 60_000  # a process that has said nothing for so long is dead: twelve heartbeats
_UNENDED = ("queued", "running", "dead")


class Retention:
    """`RetentionStore`."""

    _db: Database

    async def hold(self, name: str, owner: str, lease_s: float) -> bool:
        def write(tx: Tx) -> bool:
            run, lease, now = tx.connection.execute, t.leases.c, tx.database_ms()
            until = now + int(lease_s * 1000)
            row = run(select(t.leases).where(lease.name == name)).one_or_none()
            if row is None:
                new = {"name": name, "owner": owner, "token": 1, "until_ms": until}
                made = upsert(tx.connection, t.leases).values(new).on_conflict_do_nothing()
                return run(made.returning(lease.name)).first() is not None  # psycopg counts no inserts
            mine = row.owner == owner
            if not mine and row.until_ms >= now:
                return False
            token = row.token if mine else row.token + 1
            taken = run(
                update(t.leases)
                .where(lease.name == name, lease.token == row.token, lease.owner == row.owner)
                .values(owner=owner, token=token, until_ms=until)
            )
            return taken.rowcount == 1

        return await self._db.write(write)

    async def let_go(self, name: str, owner: str) -> None:
        def write(tx: Tx) -> None:
            lease = t.leases.c
            tx.connection.execute(
                update(t.leases).where(lease.name == name, lease.owner == owner).values(until_ms=0)
            )

        await self._db.write(write)

    # Versions.

    async def crowded(self, kept: int) -> list[str]:
        def read(connection: Connection) -> list[str]:
            v = t.versions.c
            query = select(v.function_id).group_by(v.function_id).having(func.count() > kept)
            return list(connection.execute(query).scalars())

        return await self._db.read(read)

    async def expendable_versions(self, function_id: str, kept: int) -> list[VersionRow]:
        def read(connection: Connection) -> list[VersionRow]:
            numbers = _expendable(connection, function_id, kept)
            v = t.versions.c
            query = select(t.versions).where(v.function_id == function_id, v.number.in_(numbers))
            return [to_version(row) for row in connection.execute(query.order_by(v.number)).mappings()]

        return await self._db.read(read)

    async def remove_versions(self, function_id: str, version_ids: Collection[str], kept: int) -> list[int]:
        def write(tx: Tx) -> list[int]:
            hold_function(tx, function_id)
            v = t.versions.c
            going = and_(
                v.function_id == function_id,
                v.id.in_(version_ids),
                v.number.in_(_expendable(tx.connection, function_id, kept)),
            )
            found = select(v.id, v.number, v.namespace_id).where(going).order_by(v.number)
            rows = tx.connection.execute(found).all()
            tx.connection.execute(delete(t.versions).where(v.id.in_([row.id for row in rows])))
            for row in rows:
                emit(tx, "route", function_id, row.namespace_id, version=row.number, did="removed")
            return [row.number for row in rows]

        return await self._db.write(write)

    # Sources, artifacts, builds.

    async def digests_in_use(self) -> tuple[set[str], set[str]]:
        def read(connection: Connection) -> tuple[set[str], set[str]]:
            v, s = t.versions.c, t.sandboxes.c
            sources = connection.execute(select(v.source).distinct()).scalars()
            built = select(v.artifact).where(v.artifact.is_not(None))
            runs = select(s.artifact).where(_alive(connection), s.artifact.is_not(None))
            artifacts = connection.execute(built.union(runs)).scalars()
            return set(sources), {artifact for artifact in artifacts if artifact is not None}

        return await self._db.read(read)

    async def forget_builds(self, artifacts: Collection[str]) -> None:
        gone = sorted(artifacts)
        for begin in range(0, len(gone), BATCH):
            some = gone[begin : begin + BATCH]
            await self._db.write(_run(delete(t.artifacts).where(t.artifacts.c.artifact.in_(some))))

    # Records.

    async def prune_invocations(self, before_ms: int, of_function: int, in_all: int) -> int:
        i = t.invocations.c
        ended = i.status.not_in(_UNENDED)
        # Ids sort by time, so age and total need no index of their own.
        gone = await self._sweep(
            i.id, and_(i.id < new_id("invocation", max(0, before_ms), bytes(10)), ended), i.id
        )
        for function_id in await self._db.read(lambda c: _prolific(c, of_function)):
            mine = i.function_id == function_id
            oldest = select(i.started_ms).where(mine).order_by(i.started_ms.desc()).offset(of_function)
            edge = await self._first(oldest.limit(1))
            if edge is not None:
                gone += await self._sweep(i.id, and_(mine, i.started_ms <= edge, ended), i.started_ms)
        last = await self._first(select(i.id).order_by(i.id.desc()).offset(in_all).limit(1))
        if last is not None:
            gone += await self._sweep(i.id, and_(i.id <= last, ended), i.id)
        return gone

    async def prune_events(self, before_ms: int, in_all: int) -> int:
        e = t.events.c
        newest = await self._first(select(func.max(e.seq)))
        gone = 0
        while True:  # from the oldest on: their times rise with their numbers

            def write(tx: Tx) -> int:
                oldest = select(e.seq).order_by(e.seq).limit(BATCH)
                old = or_(e.at_ms < before_ms, e.seq <= (newest or 0) - in_all)
                return tx.connection.execute(delete(t.events).where(e.seq.in_(oldest), old)).rowcount

            count = await self._db.write(write)
            gone += count
            if count < BATCH:
                return gone

    async def prune_processes(self, before_ms: int) -> int:
        def end(tx: Tx) -> None:
            dead = select(t.owners.c.id).where(_dead(before_ms))
            s = t.sandboxes.c
            tx.connection.execute(
                update(t.sandboxes)
                .where(s.state != "gone", s.owner.in_(dead))
                .values(state="gone", updated_ms=tx.now_ms)
            )

        await self._db.write(end)
        s, o = t.sandboxes.c, t.owners.c
        gone = await self._sweep(s.id, and_(s.state == "gone", s.updated_ms < before_ms), s.updated_ms)
        return gone + await self._sweep(o.id, func.coalesce(o.ended_ms, o.heartbeat_ms) < before_ms, o.id)

    async def _first(self, query: Any) -> Any:
        return await self._db.read(lambda connection: connection.execute(query).scalar_one_or_none())

    async def _sweep(self, key: Any, which: ColumnElement[bool], order: Any) -> int:
        """Remove rows in batches, the first by `order` first; returns how many."""
        gone = 0
        while True:
            some = select(key).where(which).order_by(order).limit(BATCH)
            count = await self._db.write(_run(delete(key.table).where(key.in_(some))))
            gone += count
            if count < BATCH:
                return gone


def _run(statement: Delete) -> Callable[[Tx], int]:
    return lambda tx: tx.connection.execute(statement).rowcount


def _prolific(connection: Connection, more_than: int) -> list[str]:
    i = t.invocations.c
    query = select(i.function_id).group_by(i.function_id).having(func.count() > more_than)
    return list(connection.execute(query).scalars())


def _dead(unheard_ms: int) -> ColumnElement[bool]:
    """Processes that have ended, or that nobody has heard of since."""
    o = t.owners.c
    return or_(o.ended_ms.is_not(None), o.heartbeat_ms < unheard_ms)


def _alive(connection: Connection) -> ColumnElement[bool]:
    """Sandboxes that have not ended, of processes that live."""
    s = t.sandboxes.c
    dead = select(t.owners.c.id).where(_dead(database_ms(connection) - SILENT_MS))
    return and_(s.state != "gone", s.owner.not_in(dead))


def _expendable(connection: Connection, function_id: str, kept: int) -> list[int]:
    v, target, s = t.versions.c, t.alias_targets.c, t.sandboxes.c
    aliases: dict[str, set[str]] = {}
    pointing = (
        select(target.version_id, t.aliases.c.name)
        .join(t.aliases, t.aliases.c.id == target.alias_id)
        .where(t.aliases.c.function_id == function_id)
    )
    for row in connection.execute(pointing):
        aliases.setdefault(row.version_id, set()).add(row.name)
    mine = select(v.id).where(v.function_id == function_id)
    runs = select(s.version_id).where(_alive(connection), s.version_id.in_(mine)).distinct()
    running = set(connection.execute(runs).scalars())

    def standing(row: Any) -> Standing:
        names = aliases.get(row.id, set())
        return Standing(
            number=row.number,
            state=VersionState(row.state),
            aliased=bool(names),
            live=LIVE in names,
            running=row.id in running,
            replaced=row.replaced,
        )

    rows = connection.execute(select(v.id, v.number, v.state, v.replaced).where(v.function_id == function_id))
    return expendable([standing(row) for row in rows], kept)
