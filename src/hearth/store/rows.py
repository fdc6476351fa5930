"""Rows of the database as the plain data of `core.records`."""

from __future__ import annotations

import dataclasses
from typing import Any

from sqlalchemy import RowMapping, Select, select

from hearth.core.function import config_from_json
from hearth.core.permissions import Action, KeyScope
from hearth.core.records import ApiKey, Event, Failure, FunctionRow, User, VersionRow
from hearth.core.version import VersionState
from hearth.store import tables as t
from hearth.store.writer import Tx

_TOPICS = {
    "route": "routes",
    "secret": "routes",
    "version": "versions",
    "credential": "credentials",
    "member": "credentials",
}
# An event of another kind (``login``) is for the record only: nobody is hinted.


def users() -> Select[Any]:
    """A user and his namespace's name, for `to_user`."""
    return select(t.users, t.namespaces.c.name.label("namespace")).join_from(
        t.users, t.namespaces, t.users.c.namespace_id == t.namespaces.c.id
    )


def to_user(row: RowMapping) -> User:
    return User(
        id=row["id"],
        email=row["email"],
        administrator=bool(row["administrator"]),
        disabled=bool(row["disabled"]),
        namespace=row["namespace"],
        namespace_id=row["namespace_id"],
        created_ms=row["created_ms"],
    )


def keys() -> Select[Any]:
    """A key with the names of what it reaches, for `to_key`."""
    return (
        select(
            t.credentials,
            t.namespaces.c.name.label("namespace"),
            t.functions.c.name.label("function"),
        )
        .outerjoin_from(t.credentials, t.namespaces, t.credentials.c.namespace_id == t.namespaces.c.id)
        .outerjoin(t.functions, t.credentials.c.function_id == t.functions.c.id)
        .where(t.credentials.c.kind == "key", t.credentials.c.revoked_ms.is_(None))
    )


def to_key(row: RowMapping) -> ApiKey:
    return ApiKey(
        id=row["id"],
        user_id=row["user_id"],
        name=row["name"],
        scope=KeyScope(row["namespace_id"], row["function_id"], frozenset(Action(a) for a in row["scopes"])),
        namespace=row["namespace"],
        function=row["function"],
        prefix=row["prefix"],
        created_ms=row["created_ms"],
        expires_ms=row["expires_ms"],
        last_used_ms=row["last_used_ms"],
    )


def functions() -> Select[Any]:
    """A function and its namespace's name, for `to_function`."""
    return select(t.functions, t.namespaces.c.name.label("namespace")).join_from(
        t.functions, t.namespaces, t.functions.c.namespace_id == t.namespaces.c.id
    )


def hold_function(tx: Tx, function_id: str) -> str | None:
    """Its namespace's id, None where there is no such function. Until the end of the transaction no other one moves its traffic.

    Whoever does that, or removes what traffic may go to, begins with it. Rows that refer to the function can be written meanwhile.
    """
    f = t.functions.c
    query = select(f.namespace_id).where(f.id == function_id).with_for_update(key_share=True)
    found: str | None = tx.connection.execute(query).scalar_one_or_none()
    return found


def to_function(row: RowMapping) -> FunctionRow:
    return FunctionRow(row["id"], row["namespace_id"], row["namespace"], row["name"], row["created_ms"])


def to_version(row: RowMapping) -> VersionRow:
    return VersionRow(
        id=row["id"],
        function_id=row["function_id"],
        number=row["number"],
        state=VersionState(row["state"]),
        config=config_from_json(row["config"]),
        source=row["source"],
        artifact=row["artifact"],
        toolchain=row["toolchain"],
        handler=row["handler"],
        failure=None if row["failure"] is None else Failure(**row["failure"]),
        created_by=row["created_by"],
        created_ms=row["created_ms"],
        ready_ms=row["ready_ms"],
    )


def failure_to_json(failure: Failure) -> dict[str, Any]:
    return dataclasses.asdict(failure)


def to_event(row: RowMapping) -> Event:
    return Event(row["seq"], row["kind"], row["subject"], row["at_ms"], row["details"])


def emit(
    tx: Tx,
    kind: str,
    subject: str,
    namespace_id: str | None = None,
    *,
    actor: str | None = None,
    **details: Any,
) -> None:
    """Write a line of the outbox, in the transaction of what it tells; its topic is hinted after the commit.

    `actor` is the id of the user who did it, or ``host``: who did it on the machine itself, past the API.
    """
    tx.events.append(
        {
            "kind": kind,
            "subject": subject,
            "namespace_id": namespace_id,
            "actor": actor,
            "at_ms": tx.now_ms,
            "details": details,
        }
    )
    if kind in _TOPICS:
        tx.topics.add(_TOPICS[kind])
