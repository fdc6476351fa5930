"""Aliases: where traffic goes, and which versions it may go to."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, select, update

from hearth.core.errors import Conflict, NotFound
from hearth.core.limits import ALIASES_MAX
from hearth.core.traffic import AliasRow, Share, VersionUse
from hearth.core.version import VersionState
from hearth.store import tables as t
from hearth.store.database import Database
from hearth.store.rows import emit, hold_function, to_version
from hearth.store.writer import Tx


class Traffic:
    """`TrafficStore`, but for what `work.Work` does."""

    _db: Database

    async def version_uses(self, function_id: str, after: int | None, limit: int) -> list[VersionUse]:
        return await self._db.read(lambda connection: _uses(connection, function_id, after, None, limit))

    async def version_use(self, function_id: str, number: int) -> VersionUse | None:
        found = await self._db.read(lambda connection: _uses(connection, function_id, None, number, 1))
        return found[0] if found else None

    async def aliases(self, function_id: str) -> list[AliasRow]:
        return await self._db.read(lambda connection: _aliases(connection, function_id, None))

    async def point_alias(
        self, function_id: str, alias_id: str, name: str, shares: Sequence[Share], user_id: str
    ) -> AliasRow:
        def write(tx: Tx) -> AliasRow:
            run, a = tx.connection.execute, t.aliases.c
            namespace_id = _namespace_of(tx, function_id)
            targets = _ready(tx, function_id, shares)
            alias = run(select(a.id).where(a.function_id == function_id, a.name == name)).scalar_one_or_none()
            if alias is None:
                count = run(select(func.count()).where(a.function_id == function_id)).scalar_one()
                if count >= ALIASES_MAX:
                    raise Conflict(
                        f"a function has {ALIASES_MAX} aliases at most",
                        hint="delete one that nobody uses: hearth alias delete NAME ALIAS",
                    )
                alias = alias_id
                run(
                    t.aliases.insert().values(
                        id=alias,
                        namespace_id=namespace_id,
                        function_id=function_id,
                        name=name,
                        created_ms=tx.now_ms,
                        updated_ms=tx.now_ms,
                    )
                )
            else:
                run(update(t.aliases).where(a.id == alias).values(updated_ms=tx.now_ms))
                run(delete(t.alias_targets).where(t.alias_targets.c.alias_id == alias))
            run(
                t.alias_targets.insert(),
                [
                    {"alias_id": alias, "version_id": targets[share.version], "weight": share.weight}
                    for share in shares
                ],
            )
            to = {str(share.version): share.weight for share in shares}
            emit(tx, "route", function_id, namespace_id, actor=user_id, did="alias", alias=name, to=to)
            return _aliases(tx.connection, function_id, name)[0]

        return await self._db.write(write)

    async def remove_alias(self, function_id: str, name: str, user_id: str) -> None:
        def write(tx: Tx) -> None:
            namespace_id, a = _namespace_of(tx, function_id), t.aliases.c
            gone = tx.connection.execute(
                delete(t.aliases).where(a.function_id == function_id, a.name == name)
            )
            if gone.rowcount == 0:
                raise NotFound(
                    f"there is no alias {name!r}", hint="they are listed by: hearth alias list NAME"
                )
            emit(tx, "route", function_id, namespace_id, actor=user_id, did="alias removed", alias=name)

        await self._db.write(write)


def _namespace_of(tx: Tx, function_id: str) -> str:
    """Also holds it, see `hold_function`. Raises NotFound."""
    found = hold_function(tx, function_id)
    if found is None:
        raise NotFound("there is no such function", hint="list them with: hearth list")
    return found


def _ready(tx: Tx, function_id: str, shares: Sequence[Share]) -> dict[int, str]:
    """Ids of the versions that are to get traffic, by number; judged in the transaction that sends it there."""
    v = t.versions.c
    numbers = [share.version for share in shares]
    query = select(v.number, v.id, v.state).where(v.function_id == function_id, v.number.in_(numbers))
    found = {row.number: (row.id, row.state) for row in tx.connection.execute(query)}
    for number in numbers:
        if number not in found:
            raise NotFound(
                f"there is no version {number}, or it is not kept any more",
                hint="those that can be chosen are listed by: hearth versions NAME",
            )
        state = found[number][1]
        if state != VersionState.READY.value:
            raise Conflict(
                f"version {number} is {state}, not ready",
                hint="choose one that is ready: hearth versions NAME",
            )
    return {number: version_id for number, (version_id, _) in found.items()}


def _aliases(connection: Connection, function_id: str, name: str | None) -> list[AliasRow]:
    a, target, v = t.aliases.c, t.alias_targets.c, t.versions.c
    query = (
        select(a.name, a.updated_ms, v.number, target.weight)
        .join_from(t.aliases, t.alias_targets, target.alias_id == a.id)
        .join(t.versions, v.id == target.version_id)
        .where(a.function_id == function_id)
        .order_by(a.name, v.number)
    )
    if name is not None:
        query = query.where(a.name == name)
    found: dict[str, AliasRow] = {}
    for row in connection.execute(query):
        before = found[row.name].shares if row.name in found else ()
        found[row.name] = AliasRow(row.name, (*before, Share(row.number, row.weight)), row.updated_ms)
    return list(found.values())


def _uses(
    connection: Connection, function_id: str, after: int | None, number: int | None, limit: int
) -> list[VersionUse]:
    v, target = t.versions.c, t.alias_targets.c
    query = (
        select(t.versions, t.users.c.email)
        .outerjoin(t.users, t.users.c.id == v.created_by)
        .where(v.function_id == function_id)
        .order_by(v.number.desc())
        .limit(limit)
    )
    if after is not None:
        query = query.where(v.number < after)
    if number is not None:
        query = query.where(v.number == number)
    rows = connection.execute(query).mappings().all()
    pointing = (
        select(target.version_id, t.aliases.c.name, target.weight)
        .join(t.aliases, t.aliases.c.id == target.alias_id)
        .where(t.aliases.c.function_id == function_id)
        .order_by(t.aliases.c.name)
    )
    aliases: dict[str, tuple[tuple[str, int], ...]] = {}
    for row in connection.execute(pointing):
        aliases[row.version_id] = (*aliases.get(row.version_id, ()), (row.name, row.weight))
    return [
        VersionUse(
            version=to_version(row),
            made_by=row["email"] or "",
            size=row["size"],
            replaced=row["replaced"],
            aliases=aliases.get(row["id"], ()),
        )
        for row in rows
    ]
