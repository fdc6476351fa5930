"""Secrets, sealed as they come. Whoever changes one tells the shards, in the same transaction, which functions it reaches."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, Text, and_, cast, delete, exists, func, or_, select

from hearth.core.errors import Conflict, NotFound, TooLarge
from hearth.core.function import config_from_json
from hearth.core.limits import SECRETS_BYTES_MAX, SECRETS_KEPT_MAX, format_size
from hearth.core.records import FunctionRow, SealedSecret, SecretRow
from hearth.core.version import VersionState
from hearth.store import tables as t
from hearth.store.database import Database
from hearth.store.dialect import upsert
from hearth.store.rows import emit, functions, to_function
from hearth.store.writer import Tx

_WORKING = {state.value for state in VersionState} - {VersionState.READY.value, VersionState.FAILED.value}
_s = t.secrets.c


class Secrets:
    """`SecretStore`."""

    _db: Database

    async def ensure_function(
        self, namespace_id: str, function_id: str, name: str
    ) -> tuple[FunctionRow, bool]:
        def write(tx: Tx) -> tuple[FunctionRow, bool]:
            run = tx.connection.execute
            f = t.functions.c
            find = functions().where(f.namespace_id == namespace_id, f.name == name)
            found = run(find).mappings().first()
            if found is not None:
                return to_function(found), False
            new = {"id": function_id, "namespace_id": namespace_id, "name": name, "created_ms": tx.now_ms}
            # Another may have made it this moment; "updated", it can't go before it is read.
            make = upsert(tx.connection, t.functions).values(new)
            run(make.on_conflict_do_update(index_elements=[f.namespace_id, f.name], set_={"name": name}))
            function = to_function(run(find).mappings().one())
            return function, function.id == function_id

        return await self._db.write(write)

    async def put_secret(self, secret_id: str, secret: SealedSecret, user_id: str) -> SecretRow:
        def write(tx: Tx) -> SecretRow:
            run, where = tx.connection.execute, _is(secret.namespace_id, secret.function_id, secret.name)
            _hold_namespace(tx, secret.namespace_id)
            values = {
                "key_id": secret.key_id,
                "sealed": secret.sealed,
                "size": secret.size,
                "text": secret.text,
                "updated_by": user_id,
                "updated_ms": tx.now_ms,
            }
            if run(t.secrets.update().where(where).values(**values)).rowcount == 0:
                _demand_room(tx, secret)
                identity = {
                    "id": secret_id,
                    "namespace_id": secret.namespace_id,
                    "function_id": secret.function_id,
                    "name": secret.name,
                    "created_ms": tx.now_ms,
                }
                run(t.secrets.insert().values(**identity, **values))
            naming = _naming(tx.connection, secret.namespace_id, secret.function_id, secret.name)
            _demand_small(tx.connection, naming)
            _tell(tx, secret.namespace_id, secret.function_id, secret.name, naming, "set", user_id)
            return _to_row(run(_rows().where(where)).mappings().one())

        return await self._db.write(write)

    async def list_secrets(
        self, namespace_id: str, function_id: str | None, after: str | None, limit: int
    ) -> list[SecretRow]:
        def read(connection: Connection) -> list[SecretRow]:
            query = _rows().where(_s.namespace_id == namespace_id, _s.id > (after or ""))
            if function_id is not None:
                query = query.where(_reaches(namespace_id, function_id))
            query = query.order_by(_s.id).limit(limit)
            return [_to_row(row) for row in connection.execute(query).mappings()]

        return await self._db.read(read)

    async def delete_secret(
        self, namespace_id: str, function_id: str | None, name: str, user_id: str, *, force: bool
    ) -> list[str]:
        def write(tx: Tx) -> list[str]:
            _hold_namespace(tx, namespace_id)
            if (
                tx.connection.execute(delete(t.secrets).where(_is(namespace_id, function_id, name))).rowcount
                == 0
            ):
                raise NotFound(f"there is no secret {name}", hint="list them with: hearth secrets list")
            naming = _naming(tx.connection, namespace_id, function_id, name)
            lacking = _lacking(tx.connection, naming, name)
            if lacking and not force:
                raise Conflict(
                    f"{', '.join(lacking[:5])}{' and others' if len(lacking) > 5 else ''} can't run without {name}",
                    hint="take it out of function.yaml and deploy first; or delete it all the same with --force",
                    details={"functions": lacking},
                )
            _tell(tx, namespace_id, function_id, name, naming, "deleted", user_id)
            return lacking

        return await self._db.write(write)

    async def sealed_secrets(
        self, namespace_id: str, function_id: str | None, names: Collection[str]
    ) -> tuple[SealedSecret, ...]:
        if not names:
            return ()
        return await self._db.read(lambda connection: _sealed(connection, namespace_id, function_id, names))


def _hold_namespace(tx: Tx, namespace_id: str) -> None:
    """Until the end of the transaction no other one changes secrets of it: their number and sizes together are bounded."""
    n = t.namespaces.c
    tx.connection.execute(select(n.id).where(n.id == namespace_id).with_for_update(key_share=True))


def usable(
    connection: Connection, found: Iterable[tuple[FunctionRow, Collection[str]]]
) -> dict[str, tuple[SealedSecret, ...]]:
    """By function id: of the names that each function has, those that are set. Its own win over the namespace's."""
    return {
        function.id: _sealed(connection, function.namespace_id, function.id, names)
        for function, names in found
        if names
    }


def _sealed(
    connection: Connection, namespace_id: str, function_id: str | None, names: Collection[str]
) -> tuple[SealedSecret, ...]:
    query = select(t.secrets).where(_s.name.in_(list(names)), _reaches(namespace_id, function_id))
    return tuple(
        SealedSecret(
            row["name"],
            row["namespace_id"],
            row["function_id"],
            row["key_id"],
            row["sealed"],
            row["size"],
            bool(row["text"]),
        )
        for row in connection.execute(query.order_by(_s.name)).mappings()
    )


def _reaches(namespace_id: str, function_id: str | None) -> Any:
    """Which secrets a function is given: its own, and those of its namespace that it has no own of."""
    shared = and_(_s.namespace_id == namespace_id, _s.function_id.is_(None))
    if function_id is None:
        return shared
    own = t.secrets.alias()
    hidden = exists().where(own.c.function_id == function_id, own.c.name == _s.name)
    return or_(_s.function_id == function_id, and_(shared, ~hidden))


def _is(namespace_id: str, function_id: str | None, name: str) -> Any:
    owner = _s.function_id.is_(None) if function_id is None else _s.function_id == function_id
    return and_(_s.namespace_id == namespace_id, owner, _s.name == name)


def _rows() -> Select[Any]:
    return (
        select(t.secrets, t.namespaces.c.name.label("namespace"), t.functions.c.name.label("function"))
        .join_from(t.secrets, t.namespaces, _s.namespace_id == t.namespaces.c.id)
        .outerjoin(t.functions, _s.function_id == t.functions.c.id)
    )


def _to_row(row: RowMapping) -> SecretRow:
    return SecretRow(
        id=row["id"],
        name=row["name"],
        namespace_id=row["namespace_id"],
        namespace=row["namespace"],
        function_id=row["function_id"],
        function=row["function"],
        size=row["size"],
        text=bool(row["text"]),
        updated_by=row["updated_by"],
        created_ms=row["created_ms"],
        updated_ms=row["updated_ms"],
    )


def _naming(
    connection: Connection, namespace_id: str, function_id: str | None, name: str
) -> list[RowMapping]:
    """Versions whose settings name a secret, with their function's name and whether they take traffic."""
    v, f = t.versions.c, t.functions.c
    aliased = exists().where(t.alias_targets.c.version_id == v.id)
    query = (
        select(v.function_id, v.namespace_id, v.config, v.state, f.name, aliased.label("aliased"))
        .join(t.functions, f.id == v.function_id)
        .where(v.namespace_id == namespace_id, v.state != VersionState.FAILED.value)
        .where(cast(v.config, Text).contains(f'"{name}"', autoescape=True))  # spares reading all of them
    )
    if function_id is not None:
        query = query.where(v.function_id == function_id)
    rows = connection.execute(query).mappings()
    return [row for row in rows if name in config_from_json(row["config"]).secrets]


def _lacking(connection: Connection, naming: Sequence[RowMapping], name: str) -> list[str]:
    """Names of functions whose versions that take traffic, or are about to, name a secret that has no value (any more)."""
    lacking = set()
    for row in naming:
        needed = row["aliased"] or row["state"] in _WORKING
        if needed and not _sealed(connection, row["namespace_id"], row["function_id"], [name]):
            lacking.add(row["name"])
    return sorted(lacking)


def _demand_room(tx: Tx, secret: SealedSecret) -> None:
    owner = _s.function_id.is_(None) if secret.function_id is None else _s.function_id == secret.function_id
    query = select(func.count()).where(_s.namespace_id == secret.namespace_id, owner)
    if tx.connection.execute(query).scalar_one() >= SECRETS_KEPT_MAX:
        whose = "namespace" if secret.function_id is None else "function"
        raise TooLarge(
            f"a {whose} has at most {SECRETS_KEPT_MAX} secrets", hint="delete those that nothing names"
        )


def _demand_small(connection: Connection, naming: Sequence[RowMapping]) -> None:
    """A value may be too much for a function only together with its others. Raises TooLarge."""
    for row in (row for row in naming if row["aliased"]):
        names = config_from_json(row["config"]).secrets
        given = _sealed(connection, row["namespace_id"], row["function_id"], names)
        if sum(secret.size for secret in given) > SECRETS_BYTES_MAX:
            raise TooLarge(
                f"with it the secrets of {row['name']} are larger than {format_size(SECRETS_BYTES_MAX)} together",
                hint="keep large things in the function's files or in a store that it asks",
                details={"limit": SECRETS_BYTES_MAX},
            )


def _tell(
    tx: Tx,
    namespace_id: str,
    function_id: str | None,
    name: str,
    naming: Sequence[RowMapping],
    did: str,
    user_id: str,
) -> None:
    """Write who changed what (never a value), and have the shards read the functions' routes again."""
    emit(tx, "secret", function_id or namespace_id, namespace_id, actor=user_id, name=name, did=did)
    for affected in sorted({row["function_id"] for row in naming}):
        emit(tx, "route", affected, namespace_id, did="secrets")
