"""What processes write of themselves and of what they ran, in relaxed batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Table, func, select, update

from hearth.core.records import InvocationRow, SandboxRow
from hearth.store import tables as t
from hearth.store.database import Database
from hearth.store.dialect import upsert
from hearth.store.rows import emit
from hearth.store.writer import Tx

_OF_VERSION = ("namespace_id", "artifact")  # what a sandbox's row takes over from its version


class Processes:
    """`ProcessStore`."""

    _db: Database

    async def start_owner(self, owner: str, node: str, kind: str) -> None:
        def write(tx: Tx) -> None:
            now = tx.database_ms()
            row = {
                "id": owner,
                "node": node,
                "kind": kind,
                "started_ms": now,
                "heartbeat_ms": now,
                "ended_ms": None,
            }
            _upsert(tx, t.owners, [row])

        await self._db.write(write)

    async def heartbeat(self, owner: str) -> None:
        def write(tx: Tx) -> None:
            o = t.owners.c
            now = tx.database_ms()
            tx.connection.execute(update(t.owners).where(o.id == owner).values(heartbeat_ms=now))

        await self._db.write(write)

    async def end_owner(self, owner: str) -> None:
        def write(tx: Tx) -> None:
            _mark_gone(tx, [owner])

        await self._db.write(write)

    async def save_sandboxes(self, rows: Sequence[SandboxRow]) -> None:
        def write(tx: Tx) -> None:
            # A version that is deleted meanwhile leaves its sandbox without a namespace; nothing is refused for it.
            v = t.versions.c
            wanted = {row.version_id for row in rows if row.version_id is not None}
            found = tx.connection.execute(select(v.id, v.namespace_id, v.artifact).where(v.id.in_(wanted)))
            versions = {row.id: (row.namespace_id, row.artifact) for row in found}
            values = [
                dataclasses.asdict(row)
                | dict(zip(_OF_VERSION, versions.get(row.version_id or "", (None, None)), strict=True))
                | {"updated_ms": tx.now_ms}
                for row in rows
            ]
            _upsert(tx, t.sandboxes, values, keep=_OF_VERSION)

        if rows:
            await self._db.write(write)

    async def save_invocations(self, rows: Sequence[InvocationRow]) -> None:
        values = [dataclasses.asdict(row) for row in rows]
        if rows:
            await self._db.write(lambda tx: _upsert(tx, t.invocations, values))

    async def clear_owners(self, node: str) -> int:
        def write(tx: Tx) -> int:
            o = t.owners.c
            live = select(o.id).where(o.node == node, o.ended_ms.is_(None))
            return _mark_gone(tx, list(tx.connection.execute(live).scalars()))

        return await self._db.write(write)


def _mark_gone(tx: Tx, owners: list[str]) -> int:
    """End processes and all that they had; returns how many sandboxes that were."""
    s, o = t.sandboxes.c, t.owners.c
    gone = tx.connection.execute(
        update(t.sandboxes)
        .where(s.owner.in_(owners), s.state != "gone")
        .values(state="gone", updated_ms=tx.now_ms)
    )
    tx.connection.execute(update(t.owners).where(o.id.in_(owners)).values(ended_ms=tx.database_ms()))
    v = t.versions.c
    held = select(v.id, v.function_id, v.namespace_id, v.number).where(v.lease_owner.in_(owners))
    held = held.order_by(v.id).with_for_update()  # what is given back or claimed anew meanwhile is not freed
    for row in tx.connection.execute(
        held
    ).all():  # free for the next who asks, without waiting for the lease's end
        tx.connection.execute(update(t.versions).where(v.id == row.id).values(lease_until_ms=0))
        emit(tx, "version", row.function_id, row.namespace_id, version=row.number, did="released")
    return gone.rowcount


def _upsert(tx: Tx, table: Table, rows: list[dict[str, Any]], keep: Collection[str] = ()) -> None:
    """Insert rows, or replace what is given of those that are there; of `keep` a null replaces nothing."""
    statement = upsert(tx.connection, table)
    names = [name for name in rows[0] if name != "id"]
    new = {
        name: func.coalesce(statement.excluded[name], table.c[name])
        if name in keep
        else statement.excluded[name]
        for name in names
    }
    statement = statement.on_conflict_do_update(index_elements=[table.c.id], set_=new)
    tx.connection.execute(statement, rows)
