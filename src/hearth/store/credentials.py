"""Sessions with their rotating refresh tokens, and API keys."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, delete, or_, select, update

from hearth.core.errors import NotFound
from hearth.core.limits import REFRESH_TOKEN_TTL
from hearth.core.records import ApiKey, Session, User
from hearth.store import tables as t
from hearth.store.database import Database
from hearth.store.rows import emit, keys, to_key, to_user, users
from hearth.store.writer import Tx

_KEPT_MS = 86_400_000  # a session that has ended is remembered a day, so that a stolen token's reuse is seen
_LIFE_MS = int(REFRESH_TOKEN_TTL * 1000)  # no refresh token works for longer


class Credentials:
    """The part of `AccountStore` that is about proofs of who somebody is."""

    _db: Database

    async def add_session(
        self, session_id: str, user_id: str, refresh_hash: bytes, expires_ms: int, *, label: str
    ) -> None:
        def write(tx: Tx) -> None:
            c = t.credentials.c
            over = or_(c.expires_ms < tx.now_ms - _KEPT_MS, c.revoked_ms < tx.now_ms - _KEPT_MS)
            tx.connection.execute(
                delete(t.credentials).where(c.user_id == user_id, c.kind == "session", over)
            )
            tx.connection.execute(
                t.credentials.insert().values(
                    id=session_id,
                    user_id=user_id,
                    kind="session",
                    name=label,
                    created_ms=tx.now_ms,
                    last_used_ms=tx.now_ms,
                    expires_ms=expires_ms,
                )
            )
            _add_token(tx, session_id, refresh_hash)
            emit(tx, "login", user_id, actor=user_id, did="login", session=session_id, label=label)

        await self._db.write(write)

    async def rotate_session(
        self, old_hash: bytes, new_hash: bytes, expires_ms: int, overlap_ms: int
    ) -> tuple[str, User] | None:
        def write(tx: Tx) -> tuple[str, User] | None:
            tokens, run = t.refresh_tokens, tx.connection.execute
            mine = select(tokens).where(tokens.c.hash == old_hash.hex()).with_for_update()
            token = run(mine).mappings().first()
            if token is None:
                return None
            session_id = token["session_id"]
            row = run(_live_session(session_id, tx.now_ms)).mappings().first()
            if row is None:
                return None
            rotated = token["rotated_ms"]
            if rotated is not None and tx.now_ms - rotated > overlap_ms:
                # Somebody kept a copy: the session is nobody's any more.
                _revoke(tx, session_id, row["id"], "reused", None)
                return None
            if rotated is None:
                # Also the twins that an overlap made: from here on the session has one line again.
                run(
                    update(tokens)
                    .where(tokens.c.session_id == session_id, tokens.c.rotated_ms.is_(None))
                    .values(rotated_ms=tx.now_ms)
                )
            _add_token(tx, session_id, new_hash)
            run(
                delete(tokens).where(
                    tokens.c.session_id == session_id, tokens.c.created_ms < tx.now_ms - _LIFE_MS
                )
            )
            run(
                update(t.credentials)
                .where(t.credentials.c.id == session_id)
                .values(expires_ms=expires_ms, last_used_ms=tx.now_ms)
            )
            return session_id, to_user(row)

        return await self._db.write(write)

    async def session_live(self, session_id: str) -> User | None:
        now = self._db.clock.now_ms()

        def read(connection: Connection) -> User | None:
            row = connection.execute(_live_session(session_id, now)).mappings().first()
            return None if row is None else to_user(row)

        return await self._db.read(read)

    async def session_of(self, refresh_hash: bytes) -> str | None:
        def read(connection: Connection) -> str | None:
            tokens = t.refresh_tokens.c
            query = select(tokens.session_id).where(tokens.hash == refresh_hash.hex())
            return connection.execute(query).scalar_one_or_none()

        return await self._db.read(read)

    async def revoke_session(self, session_id: str) -> None:
        def write(tx: Tx) -> None:
            c = t.credentials.c
            user = tx.connection.execute(select(c.user_id).where(c.id == session_id)).scalar_one_or_none()
            if user is not None:
                _revoke(tx, session_id, user, "logout", user)

        await self._db.write(write)

    async def list_sessions(self, user_id: str) -> list[Session]:
        now = self._db.clock.now_ms()

        def read(connection: Connection) -> list[Session]:
            c = t.credentials.c
            live = and_(c.user_id == user_id, c.kind == "session", c.revoked_ms.is_(None), _unexpired(now))
            query = select(t.credentials).where(live).order_by(c.last_used_ms.desc(), c.id.desc())
            return [
                Session(
                    row["id"], row["name"] or "", row["created_ms"], row["last_used_ms"], row["expires_ms"]
                )
                for row in connection.execute(query).mappings()
            ]

        return await self._db.read(read)

    async def revoke_sessions(
        self, user_id: str, *, session_id: str | None = None, keep: str | None = None
    ) -> int:
        def write(tx: Tx) -> int:
            c = t.credentials.c
            live = and_(
                c.user_id == user_id, c.kind == "session", c.revoked_ms.is_(None), _unexpired(tx.now_ms)
            )
            chosen = c.id != (keep or "") if session_id is None else c.id == session_id
            ids = tx.connection.execute(select(c.id).where(live, chosen)).scalars().all()
            if session_id is not None and not ids:
                raise NotFound("you have no such session", hint="list them with: hearth sessions list")
            for each in ids:
                _revoke(tx, each, user_id, "revoked", user_id)
            return len(ids)

        return await self._db.write(write)

    async def note_refused_login(self, user_id: str | None, label: str) -> None:
        await self._db.write(lambda tx: emit(tx, "login", user_id or "unknown", did="refused", label=label))

    async def add_key(self, key: ApiKey, secret_hash: bytes) -> None:
        def write(tx: Tx) -> None:
            tx.connection.execute(
                t.credentials.insert().values(
                    id=key.id,
                    user_id=key.user_id,
                    namespace_id=key.scope.namespace_id,
                    function_id=key.scope.function_id,
                    kind="key",
                    hash=secret_hash.hex(),
                    scopes=sorted(action.value for action in key.scope.actions),
                    name=key.name,
                    prefix=key.prefix,
                    created_ms=key.created_ms,
                    expires_ms=key.expires_ms,
                )
            )
            emit(
                tx,
                "credential",
                key.id,
                key.scope.namespace_id,
                actor=key.user_id,
                did="created",
                name=key.name,
                actions=sorted(action.value for action in key.scope.actions),
                function=key.scope.function_id,
            )

        await self._db.write(write)

    async def find_key(self, secret_hash: bytes) -> tuple[ApiKey, User] | None:
        now = self._db.clock.now_ms()

        def read(connection: Connection) -> tuple[ApiKey, User] | None:
            c = t.credentials.c
            query = keys().where(c.hash == secret_hash.hex(), _unexpired(now))
            row = connection.execute(query).mappings().first()
            if row is None:
                return None
            owner = users().where(t.users.c.id == row["user_id"], t.users.c.disabled.is_(False))
            user = connection.execute(owner).mappings().first()
            return None if user is None else (to_key(row), to_user(user))

        return await self._db.read(read)

    async def list_keys(self, user_id: str) -> list[ApiKey]:
        def read(connection: Connection) -> list[ApiKey]:
            query = keys().where(t.credentials.c.user_id == user_id).order_by(t.credentials.c.id.desc())
            return [to_key(row) for row in connection.execute(query).mappings()]

        return await self._db.read(read)

    async def revoke_key(self, user_id: str, key_id: str) -> None:
        def write(tx: Tx) -> None:
            c = t.credentials.c
            changed = tx.connection.execute(
                update(t.credentials)
                .where(c.id == key_id, c.user_id == user_id, c.kind == "key", c.revoked_ms.is_(None))
                .values(revoked_ms=tx.now_ms)
            )
            if changed.rowcount == 0:
                raise NotFound("you have no such key", hint="list them with: hearth keys list")
            namespace = select(c.namespace_id).where(c.id == key_id)
            namespace_id = tx.connection.execute(namespace).scalar_one()
            emit(tx, "credential", key_id, namespace_id, actor=user_id, did="revoked")

        await self._db.write(write)

    async def touch_keys(self, used: dict[str, int]) -> None:
        def write(tx: Tx) -> None:
            c = t.credentials.c
            later = or_(c.last_used_ms.is_(None), c.last_used_ms < bindparam("at"))
            statement = update(t.credentials).where(c.id == bindparam("key"), c.kind == "key", later)
            tx.connection.execute(
                statement.values(last_used_ms=bindparam("at")),
                # In one order: no two wait for each other.
                [{"key": key, "at": at} for key, at in sorted(used.items())],
            )

        if used:
            await self._db.write(write)


def _unexpired(now_ms: int) -> ColumnElement[bool]:
    return or_(t.credentials.c.expires_ms.is_(None), t.credentials.c.expires_ms > now_ms)


def _live_session(session_id: str, now_ms: int) -> Select[Any]:
    c = t.credentials.c
    live = and_(c.id == session_id, c.kind == "session", c.revoked_ms.is_(None), _unexpired(now_ms))
    return users().join(t.credentials, c.user_id == t.users.c.id).where(live, t.users.c.disabled.is_(False))


def _add_token(tx: Tx, session_id: str, refresh_hash: bytes) -> None:
    tx.connection.execute(
        t.refresh_tokens.insert().values(hash=refresh_hash.hex(), session_id=session_id, created_ms=tx.now_ms)
    )


def _revoke(tx: Tx, session_id: str, user_id: str, why: str, actor: str | None) -> None:
    c = t.credentials.c
    changed = tx.connection.execute(
        update(t.credentials)
        .where(c.id == session_id, c.kind == "session", c.revoked_ms.is_(None))
        .values(revoked_ms=tx.now_ms)
    )
    if changed.rowcount:
        emit(tx, "credential", session_id, actor=actor, did=why, user=user_id)
