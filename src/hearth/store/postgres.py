"""PostgreSQL, by psycopg: what its URL says, how it is connected to, and how long anybody waits for it.

The URL goes to libpq as it is, so that all that PostgreSQL's own programs understand works here: several hosts,
``target_session_attrs``, TLS, a password file (https://www.postgresql.org/docs/current/libpq-connect.html). Nothing of it but user,
host and name is ever shown. Imported where there is such a URL: it weighs some megabytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from sqlalchemy import Engine, NullPool, QueuePool, create_engine, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError

from hearth.core.errors import InvalidInput
from hearth.store import migrate, tables

T = TypeVar("T")
HINT = "write postgresql://USER:PASSWORD@HOST:5432/NAME"
CONNECT = 5  # seconds for one try to connect, of each host that the URL names
STATEMENT = 10.0  # seconds; then the server gives a statement up
LOCK = 5.0  # seconds that the server lets a statement wait for others'
# Seconds without an answer; then we give the connection up: the server is frozen, or out of reach.
SILENT = 12.0
IDLE = 30.0  # seconds between two statements of a transaction; then the server ends it: its process is frozen, and holds locks
WAIT = 15.0  # seconds that anybody waits for what he asked, queueing included
RECYCLE = 1800  # seconds after which a connection is made anew, with the host's name looked up again


class GaveUp(psycopg.OperationalError):
    """We did not wait any longer."""

    gave_up = True  # see `errors.is_lost`: asking once more would only wait as long again


class Patient(psycopg.Connection[TupleRow]):
    """A connection that is given up when its server says nothing for `SILENT` seconds.

    The server's own limits don't help where it is stopped, and TCP's don't where its machine lives on.
    """

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        try:
            return super().wait(gen, interval, SILENT if timeout is None else timeout)
        except psycopg.OperationalError as error:
            busy = psycopg.pq.TransactionStatus.ACTIVE
            if self.pgconn.status == psycopg.pq.ConnStatus.OK and self.pgconn.transaction_status == busy:
                self.close()  # in the middle of a statement: nobody knows where it stands
                raise GaveUp("the server said nothing for too long") from error
            raise


def engine(url: str, size: int, *, durable: bool = True, readonly: bool = False) -> Engine:
    """An engine of at most `size` connections.

    Args:
        durable: False may lose the last commits when the server's machine fails, but never the database
            (https://www.postgresql.org/docs/current/wal-async-commit.html).
        readonly: its transactions can't write, and each sees one state of everything (REPEATABLE READ).

    Raises InvalidInput: the URL is none.
    """
    conninfo = _conninfo(
        url,
        {
            "statement_timeout": f"{STATEMENT:.0f}s",
            "lock_timeout": f"{LOCK:.0f}s",
            "idle_in_transaction_session_timeout": f"{IDLE:.0f}s",
            "synchronous_commit": "on" if durable else "off",
        },
    )

    def connect() -> Patient:
        # No prepared statements: what pools connections between us and the server need not follow them.
        made = Patient.connect(conninfo, prepare_threshold=None)
        if readonly:
            made.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            made.read_only = True
        return made

    return create_engine(
        "postgresql+psycopg://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=0,
        pool_timeout=WAIT,
        pool_recycle=RECYCLE,
        use_native_hstore=False,
        hide_parameters=True,
    )


def _migrating(url: str) -> Engine:
    """An engine whose statements take as long as they take, but for waiting for others."""
    conninfo = _conninfo(url, {"statement_timeout": "0", "lock_timeout": f"{migrate.LOCK_WAIT * 1000:.0f}"})
    return create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(conninfo, prepare_threshold=None),
        poolclass=NullPool,
        use_native_hstore=False,
        hide_parameters=True,
    )


def migrated(url: str) -> str | None:
    """Bring a database to this program's schema; returns the one that it had, None: it was empty. Blocks. Raises StartupFailed, InvalidInput."""
    engine = _migrating(url)
    try:
        return migrate.migrate_server(engine, shown(url))
    finally:
        engine.dispose()


@dataclass(frozen=True, slots=True)
class Seen:
    """What is in a database: its server's version, the schema (None: none of ours), whether it has no table at all, and `meta`."""

    version: str
    schema: str | None
    empty: bool
    values: dict[str, str]


def peek(url: str) -> Seen:
    """Look at a database without a change. Blocks. Raises StartupFailed, InvalidInput."""
    engine = _migrating(url)
    try:
        with engine.begin() as connection:
            connection.execute(text("SET TRANSACTION READ ONLY"))
            version = str(connection.execute(text("SHOW server_version")).scalar_one()).split()[0]
            names = inspect(connection).get_table_names()
            schema = migrate.stored(connection)
            values = (
                {str(row.name): str(row.value) for row in connection.execute(select(tables.meta))}
                if schema is not None and "meta" in names
                else {}
            )
            return Seen(version, schema, not names, values)
    except SQLAlchemyError as error:
        raise migrate.failed(error, "be opened", shown(url)) from error
    finally:
        engine.dispose()


def shown(url: str) -> str:
    """A database's URL as people may see it: user, hosts, ports, name. Raises InvalidInput."""
    parts = _parts(url)
    if any("@" in str(parts.get(name) or "") for name in ("user", "host", "dbname")):
        return "postgresql://…"  # an @ or a / in the password that is not written as %40 or %2F: the rest of it stands there
    hosts = str(parts.get("host") or parts.get("hostaddr") or "").split(",")
    ports = str(parts.get("port") or "").split(",")
    places = []
    for number, host in enumerate(hosts):
        port = ports[number] if len(ports) == len(hosts) else ports[0]
        places.append(f"{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}")
    user = f"{parts['user']}@" if parts.get("user") else ""
    return f"postgresql://{user}{','.join(places)}/{parts.get('dbname') or parts.get('user') or ''}"


def _parts(url: str) -> dict[str, Any]:
    try:
        return dict(conninfo_to_dict(url))
    except psycopg.Error:  # its text may hold a part of the password
        raise InvalidInput("the database URL is not understood", hint=HINT) from None


def _conninfo(url: str, server: Mapping[str, str]) -> str:
    """The URL with what it does not say: patience, a name for `pg_stat_activity`, settings of the session. Its own words win."""
    ours = {
        "connect_timeout": CONNECT,
        "application_name": "hearth",
        "gssencmode": "disable",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": int(SILENT * 1000),
    }
    parts = {**ours, **{name: value for name, value in _parts(url).items() if value is not None}}
    options = " ".join(f"-c {name}={value}" for name, value in server.items())
    parts["options"] = f"{options} {parts.get('options', '')}".strip()
    return make_conninfo("", **parts)
