"""Users, namespaces and memberships; failed logins."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, exists, func, select, update

from hearth.core.errors import Conflict, NotFound, RegistrationClosed
from hearth.core.limits import LOGIN_FORGET, LOGIN_FREE, LOGIN_WAIT_MAX
from hearth.core.names import NAMESPACE_MAX, check_namespace, namespace_from_email
from hearth.core.permissions import Role
from hearth.core.records import Membership, User
from hearth.store import tables as t
from hearth.store.database import Database
from hearth.store.dialect import Alone, alone, upsert
from hearth.store.rows import emit, to_user, users
from hearth.store.writer import Tx

_TRIES = 1000  # namespaces made of one name: jo, jo-2 … jo-1000


class Accounts:
    """The part of `AccountStore` that is about people."""

    _db: Database

    async def count_users(self) -> int:
        def read(connection: Connection) -> int:
            return connection.execute(select(func.count()).select_from(t.users)).scalar_one()

        return await self._db.read(read)

    async def add_user(
        self,
        user_id: str,
        namespace_id: str,
        email: str,
        password_hash: str,
        namespace: str | None,
        *,
        first_only: bool,
        actor: str | None = None,
    ) -> User:
        password_id = self._db.ids.new("password")

        def write(tx: Tx) -> User:
            run = tx.connection.execute
            alone(tx.connection, Alone.ACCOUNTS)
            first = not run(select(exists(select(t.users.c.id)))).scalar_one()
            if first_only and not first:
                raise RegistrationClosed(
                    "registration is closed on this server",
                    hint="ask its administrator for an account: hearth users add",
                )
            if run(select(t.users.c.id).where(t.users.c.email == email)).first() is not None:
                raise Conflict(f"{email} is registered already", hint=f"log in: hearth login --email {email}")
            name = _free_namespace(tx.connection, email, namespace)
            now = tx.now_ms
            run(t.namespaces.insert().values(id=namespace_id, name=name, kind="personal", created_ms=now))
            run(
                t.users.insert().values(
                    id=user_id, email=email, administrator=first, namespace_id=namespace_id, created_ms=now
                )
            )
            run(
                t.members.insert().values(
                    namespace_id=namespace_id, user_id=user_id, role=Role.OWNER.value, created_ms=now
                )
            )
            run(
                t.credentials.insert().values(
                    id=password_id, user_id=user_id, kind="password", hash=password_hash, created_ms=now
                )
            )
            did = "registered" if actor is None else "added"
            emit(tx, "member", user_id, namespace_id, actor=actor or user_id, did=did, email=email)
            return User(user_id, email, first, False, name, namespace_id, now)

        return await self._db.write(write)

    async def find_user(
        self, *, email: str | None = None, user_id: str | None = None
    ) -> tuple[User, str] | None:
        def read(connection: Connection) -> tuple[User, str] | None:
            query = users().add_columns(t.credentials.c.hash.label("password_hash"))
            query = query.join(t.credentials, t.credentials.c.user_id == t.users.c.id)
            query = query.where(t.credentials.c.kind == "password")
            query = query.where(t.users.c.email == email if user_id is None else t.users.c.id == user_id)
            row = connection.execute(query).mappings().first()
            return None if row is None else (to_user(row), row["password_hash"])

        return await self._db.read(read)

    async def list_users(self, after: str | None, limit: int) -> list[User]:
        def read(connection: Connection) -> list[User]:
            query = users().where(t.users.c.id > (after or "")).order_by(t.users.c.id).limit(limit)
            return [to_user(row) for row in connection.execute(query).mappings()]

        return await self._db.read(read)

    async def set_password(
        self, user_id: str, password_hash: str, *, actor: str, keep: str | None = None
    ) -> None:
        def write(tx: Tx) -> None:
            changed = tx.connection.execute(
                update(t.credentials)
                .where(t.credentials.c.user_id == user_id, t.credentials.c.kind == "password")
                .values(hash=password_hash, created_ms=tx.now_ms)
            )
            if changed.rowcount == 0:
                raise NotFound("there is no such user", hint="list them with: hearth users list")
            _end_sessions(tx, user_id, "password", actor, keep)

        await self._db.write(write)

    async def set_disabled(self, user_id: str, disabled: bool, *, actor: str) -> None:
        def write(tx: Tx) -> None:
            changed = tx.connection.execute(
                update(t.users).where(t.users.c.id == user_id).values(disabled=disabled)
            )
            if changed.rowcount == 0:
                raise NotFound("there is no such user", hint="list them with: hearth users list")
            _end_sessions(tx, user_id, "disabled" if disabled else "enabled", actor)

        await self._db.write(write)

    async def memberships(self, user_id: str) -> list[Membership]:
        def read(connection: Connection) -> list[Membership]:
            query = (
                select(t.members.c.namespace_id, t.namespaces.c.name, t.members.c.role)
                .join_from(t.members, t.namespaces, t.members.c.namespace_id == t.namespaces.c.id)
                .where(t.members.c.user_id == user_id)
                .order_by(t.namespaces.c.name)
            )
            return [Membership(ns, name, Role(role)) for ns, name, role in connection.execute(query)]

        return await self._db.read(read)

    async def begin_login(self, subjects: Sequence[str]) -> float:
        def write(tx: Tx) -> float:
            alone(tx.connection, Alone.LOGINS)
            now = tx.database_ms()
            wait = _wait(tx.connection, subjects, now)
            if wait == 0:
                _count(tx.connection, subjects, now)
            return wait

        return await self._db.write(write)

    async def login_delay(self, subjects: Sequence[str]) -> float:
        def write(tx: Tx) -> float:
            return _wait(tx.connection, subjects, tx.database_ms())

        return await self._db.write(write)

    async def note_login(self, subjects: Sequence[str], success: bool) -> None:
        def write(tx: Tx) -> None:
            if not success:
                _count(tx.connection, subjects, tx.database_ms())
                return
            failures = t.login_failures
            accounts = [subject for subject in subjects if subject.startswith("account:")]
            tx.connection.execute(delete(failures).where(failures.c.subject.in_(accounts)))
            tx.connection.execute(
                update(failures)
                .where(failures.c.subject.in_(subjects), failures.c.failures > 0)
                .values(failures=failures.c.failures - 1)
            )

        await self._db.write(write)


def _free_namespace(connection: Connection, email: str, wanted: str | None) -> str:
    """A name that nobody has. Raises Conflict when just the wanted one is taken."""
    if wanted is not None:
        if connection.execute(select(t.namespaces.c.id).where(t.namespaces.c.name == wanted)).first():
            raise Conflict(f"the namespace {wanted!r} is taken", hint="choose another with --namespace")
        return check_namespace(wanted)
    name = namespace_from_email(email)
    near = select(t.namespaces.c.name).where(t.namespaces.c.name.startswith(name, autoescape=True))
    taken = set(connection.execute(near).scalars())
    for number in range(1, _TRIES):
        candidate = name if number == 1 else f"{name[: NAMESPACE_MAX - 4].rstrip('-')}-{number}"
        if candidate not in taken:
            return check_namespace(candidate)
    raise Conflict(f"every name like {name!r} is taken", hint="choose one with --namespace")


def _end_sessions(tx: Tx, user_id: str, why: str, actor: str, keep: str | None = None) -> None:
    tx.connection.execute(
        update(t.credentials)
        .where(
            t.credentials.c.user_id == user_id,
            t.credentials.c.kind == "session",
            t.credentials.c.revoked_ms.is_(None),
            t.credentials.c.id != (keep or ""),
        )
        .values(revoked_ms=tx.now_ms)
    )
    emit(tx, "credential", user_id, actor=actor, did=why)


def _wait(connection: Connection, subjects: Sequence[str], now: int) -> float:
    """Seconds that the strictest of the subjects still has to wait: doubling with each failure beyond the free ones."""
    longest = 0.0
    query = select(t.login_failures).where(t.login_failures.c.subject.in_(subjects))
    for row in connection.execute(query).mappings():
        kind = row["subject"].partition(":")[0]
        beyond = row["failures"] - LOGIN_FREE[kind]
        if beyond < 0 or now - row["last_ms"] > LOGIN_FORGET * 1000:
            continue
        wait = min(LOGIN_WAIT_MAX[kind], 2.0 ** min(beyond, 20))
        longest = max(longest, wait - (now - row["last_ms"]) / 1000)
    return longest


def _count(connection: Connection, subjects: Sequence[str], now: int) -> None:
    failures = t.login_failures
    forgotten = now - int(LOGIN_FORGET * 1000)
    connection.execute(delete(failures).where(failures.c.last_ms < forgotten))
    for subject in subjects:
        statement = upsert(connection, failures).values(subject=subject, failures=1, last_ms=now)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=[failures.c.subject],
                set_={"failures": failures.c.failures + 1, "last_ms": now},
            )
        )
