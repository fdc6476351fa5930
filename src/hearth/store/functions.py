"""Functions, their versions, and what of the blobs they need."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, select

from hearth.core.errors import NotFound
from hearth.core.function import FunctionConfig, config_to_json
from hearth.core.records import FunctionRow, FunctionSummary, VersionRow
from hearth.core.version import VersionState
from hearth.store import tables as t
from hearth.store.database import Database
from hearth.store.dialect import upsert
from hearth.store.rows import emit, functions, to_function, to_version
from hearth.store.writer import Tx


class Functions:
    """`FunctionStore`."""

    _db: Database

    async def find_namespace(self, name: str) -> str | None:
        def read(connection: Connection) -> str | None:
            query = select(t.namespaces.c.id).where(t.namespaces.c.name == name)
            return connection.execute(query).scalar_one_or_none()

        return await self._db.read(read)

    async def find_function(self, namespace: str, name: str) -> FunctionRow | None:
        def read(connection: Connection) -> FunctionRow | None:
            query = functions().where(t.namespaces.c.name == namespace, t.functions.c.name == name)
            row = connection.execute(query).mappings().first()
            return None if row is None else to_function(row)

        return await self._db.read(read)

    async def add_version(
        self,
        *,
        namespace_id: str,
        function_id: str,
        version_id: str,
        name: str,
        config: FunctionConfig,
        source: str,
        user_id: str,
    ) -> tuple[FunctionRow, VersionRow]:
        def write(tx: Tx) -> tuple[FunctionRow, VersionRow]:
            run = tx.connection.execute
            f = t.functions.c
            new = {
                "id": function_id,
                "namespace_id": namespace_id,
                "name": name,
                "last_number": 1,
                "created_ms": tx.now_ms,
            }
            # In one statement, which also keeps the row from going: two may deploy what is new, a third may delete it.
            run(
                upsert(tx.connection, t.functions)
                .values(new)
                .on_conflict_do_update(
                    index_elements=[f.namespace_id, f.name], set_={"last_number": f.last_number + 1}
                )
            )
            find = functions().where(f.namespace_id == namespace_id, f.name == name)
            function = to_function(run(find).mappings().one())
            number = run(select(f.last_number).where(f.id == function.id)).scalar_one()
            run(
                t.versions.insert().values(
                    id=version_id,
                    namespace_id=namespace_id,
                    function_id=function.id,
                    number=number,
                    state=VersionState.PENDING.value,
                    config=config_to_json(config),
                    source=source,
                    created_by=user_id,
                    created_ms=tx.now_ms,
                )
            )
            emit(tx, "version", function.id, namespace_id, version=number, did="deployed", user=user_id)
            row = run(select(t.versions).where(t.versions.c.id == version_id)).mappings().one()
            return function, to_version(row)

        return await self._db.write(write)

    async def list_functions(
        self, namespace_ids: Sequence[str], after: str | None, limit: int
    ) -> list[FunctionSummary]:
        def read(connection: Connection) -> list[FunctionSummary]:
            query = functions().where(t.functions.c.namespace_id.in_(namespace_ids))
            query = query.where(t.functions.c.id > (after or "")).order_by(t.functions.c.id).limit(limit)
            found = [to_function(row) for row in connection.execute(query).mappings()]
            return _summaries(connection, found)

        return await self._db.read(read)

    async def summary(self, function_id: str) -> FunctionSummary | None:
        def read(connection: Connection) -> FunctionSummary | None:
            query = functions().where(t.functions.c.id == function_id)
            row = connection.execute(query).mappings().first()
            return None if row is None else _summaries(connection, [to_function(row)])[0]

        return await self._db.read(read)

    async def find_version(self, function_id: str, number: int) -> VersionRow | None:
        def read(connection: Connection) -> VersionRow | None:
            v = t.versions.c
            query = select(t.versions).where(v.function_id == function_id, v.number == number)
            row = connection.execute(query).mappings().first()
            return None if row is None else to_version(row)

        return await self._db.read(read)

    async def function_ids(self) -> set[str]:
        def read(connection: Connection) -> set[str]:
            return set(connection.execute(select(t.functions.c.id)).scalars())

        return await self._db.read(read)

    async def delete_function(self, function_id: str) -> None:
        def write(tx: Tx) -> None:
            run, f = tx.connection.execute, t.functions.c
            namespace_id = run(select(f.namespace_id).where(f.id == function_id)).scalar_one_or_none()
            if namespace_id is None:
                raise NotFound("there is no such function", hint="list them with: hearth list")
            run(delete(t.functions).where(f.id == function_id))  # all that hangs on it goes by cascade
            emit(tx, "route", function_id, namespace_id, did="deleted")

        await self._db.write(write)


def _summaries(connection: Connection, found: list[FunctionRow]) -> list[FunctionSummary]:
    """Functions with what is live and what is newest, in two more queries whatever their number."""
    ids, v = [function.id for function in found], t.versions.c
    newest = (
        select(v.function_id, func.max(v.number).label("number"))
        .where(v.function_id.in_(ids))
        .group_by(v.function_id)
        .subquery()
    )
    latest_query = select(t.versions).join(
        newest, (v.function_id == newest.c.function_id) & (v.number == newest.c.number)
    )
    latest = {row["function_id"]: to_version(row) for row in connection.execute(latest_query).mappings()}
    live_query = (
        select(t.versions)
        .join(t.alias_targets, t.alias_targets.c.version_id == v.id)
        .join(t.aliases, t.aliases.c.id == t.alias_targets.c.alias_id)
        .where(t.aliases.c.name == "live", t.aliases.c.function_id.in_(ids))
        .order_by(t.alias_targets.c.weight, v.number)  # of several the heaviest one is kept
    )
    live = {row["function_id"]: to_version(row) for row in connection.execute(live_query).mappings()}
    return [FunctionSummary(function, live.get(function.id), latest.get(function.id)) for function in found]
