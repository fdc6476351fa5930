"""What shards route by: aliases with their weighted versions, and the outbox that tells them what changed."""

from __future__ import annotations

from itertools import groupby

from sqlalchemy import Connection, delete, func, select, update

from hearth.core.records import Event, FunctionRow, RouteRow, Target, VersionRow
from hearth.store import tables as t
from hearth.store.database import Database
from hearth.store.rows import emit, functions, to_event, to_function, to_version
from hearth.store.secrets import usable
from hearth.store.writer import Tx

LIVE = "live"
WHOLE = 100  # the weight of an alias's only version


class Routes:
    """`RouteStore`."""

    _db: Database

    async def routes(self, after: str | None, limit: int) -> list[RouteRow]:
        def read(connection: Connection) -> list[RouteRow]:
            has_alias = select(t.aliases.c.function_id)
            query = functions().where(t.functions.c.id.in_(has_alias), t.functions.c.id > (after or ""))
            query = query.order_by(t.functions.c.id).limit(limit)
            return _routes(connection, [to_function(row) for row in connection.execute(query).mappings()])

        return await self._db.read(read)

    async def route(self, function_id: str) -> RouteRow | None:
        def read(connection: Connection) -> RouteRow | None:
            query = functions().where(t.functions.c.id == function_id)
            found = [to_function(row) for row in connection.execute(query).mappings()]
            routes = [route for route in _routes(connection, found) if route.aliases]
            return routes[0] if routes else None

        return await self._db.read(read)

    async def last_event(self) -> int:
        def read(connection: Connection) -> int:
            newest: int | None = connection.execute(select(func.max(t.events.c.seq))).scalar_one()
            return newest or 0

        return await self._db.read(read)

    async def events_after(self, seq: int, limit: int) -> list[Event]:
        def read(connection: Connection) -> list[Event]:
            query = select(t.events).where(t.events.c.seq > seq).order_by(t.events.c.seq).limit(limit)
            return [to_event(row) for row in connection.execute(query).mappings()]

        return await self._db.read(read)

    async def find_version_by_id(self, version_id: str) -> VersionRow | None:
        def read(connection: Connection) -> VersionRow | None:
            query = select(t.versions).where(t.versions.c.id == version_id)
            row = connection.execute(query).mappings().first()
            return None if row is None else to_version(row)

        return await self._db.read(read)


def _routes(connection: Connection, found: list[FunctionRow]) -> list[RouteRow]:
    """Functions with their aliases, in one more query, and the secrets of those that name some. A version that is being built again is still routed to."""
    a, v = t.aliases.c, t.versions.c
    query = (
        select(t.versions, a.name.label("alias"), t.alias_targets.c.weight)
        .join(t.alias_targets, t.alias_targets.c.version_id == v.id)
        .join(t.aliases, a.id == t.alias_targets.c.alias_id)
        .where(a.function_id.in_([function.id for function in found]))
        .order_by(a.function_id, a.name, v.number)
    )
    aliases: dict[str, list[tuple[str, tuple[Target, ...]]]] = {}
    rows = connection.execute(query).mappings()
    for (function_id, alias), group in groupby(rows, key=lambda row: (row["function_id"], row["alias"])):
        targets = tuple(Target(to_version(row), row["weight"]) for row in group)
        aliases.setdefault(function_id, []).append((alias, targets))
    names = {
        function_id: {
            name for _, targets in of for target in targets for name in target.version.config.secrets
        }
        for function_id, of in aliases.items()
    }
    secrets = usable(connection, ((function, names.get(function.id, ())) for function in found))
    return [
        RouteRow(function, tuple(aliases.get(function.id, ())), secrets.get(function.id, ()))
        for function in found
    ]


def move_live(tx: Tx, version_id: str, alias_id: str, *, only_tell: bool) -> None:
    """Point alias ``live`` at a version, unless a later one was ready before; note which one it replaces.

    Args:
        alias_id: the alias's id, should it be new.
        only_tell: leave the alias as it is, but have shards read the function's route again.
    """
    run, v, a = tx.connection.execute, t.versions.c, t.aliases.c
    version = run(select(t.versions).where(v.id == version_id)).mappings().one()
    function_id, namespace_id = version["function_id"], version["namespace_id"]
    if only_tell:
        emit(tx, "route", function_id, namespace_id, version=version["number"], did="ready")
        return
    later = select(v.id).where(
        v.function_id == function_id, v.number > version["number"], v.ready_ms.is_not(None)
    )
    if run(later.limit(1)).first() is not None:
        # Also where a person has rolled back from that later one: what was older than it is nobody's wish any more.
        emit(tx, "route", function_id, namespace_id, version=version["number"], did="ready")
        return
    existing = run(select(a.id).where(a.function_id == function_id, a.name == LIVE)).scalar_one_or_none()
    if existing is None:
        run(
            t.aliases.insert().values(
                id=alias_id,
                namespace_id=namespace_id,
                function_id=function_id,
                name=LIVE,
                created_ms=tx.now_ms,
                updated_ms=tx.now_ms,
            )
        )
    else:
        alias_id = existing
        newest = (
            select(func.max(v.number))
            .join(t.alias_targets, t.alias_targets.c.version_id == v.id)
            .where(t.alias_targets.c.alias_id == alias_id)
        )
        run(update(t.versions).where(v.id == version_id).values(replaced=run(newest).scalar_one_or_none()))
        run(delete(t.alias_targets).where(t.alias_targets.c.alias_id == alias_id))
        run(update(t.aliases).where(a.id == alias_id).values(updated_ms=tx.now_ms))
    run(t.alias_targets.insert().values(alias_id=alias_id, version_id=version_id, weight=WHOLE))
    emit(tx, "route", function_id, namespace_id, version=version["number"], did="live")
