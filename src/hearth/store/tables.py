"""The tables. The migrations make them; a test holds both against each other.

Times are milliseconds since the epoch (``*_ms``). Every row that belongs to a namespace says so, also where
it could be joined, so that deleting, counting and authorising never need to look elsewhere.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
Serial = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER PRIMARY KEY counts by itself in SQLite


def _id(name: str = "id", *, primary_key: bool = True) -> Column[str]:
    return Column(name, String(40), primary_key=primary_key)


def _ref(name: str, target: str, *, nullable: bool = False, primary_key: bool = False) -> Column[str]:
    key = ForeignKey(target, ondelete="CASCADE")
    return Column(name, String(40), key, nullable=nullable, primary_key=primary_key)


def _ms(name: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable)


def _count(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default=text("0"))


# What the schema and the installation are: the root key's fingerprint, and whatever must be known before the rest.
meta = Table(
    "meta", metadata, Column("name", String(64), primary_key=True), Column("value", Text, nullable=False)
)

namespaces = Table(
    "namespaces",
    metadata,
    _id(),
    Column("name", String(30), nullable=False, unique=True),
    Column("kind", String(16), nullable=False, server_default="personal"),  # personal | project
    _ms("created_ms"),
)

users = Table(
    "users",
    metadata,
    _id(),
    Column("email", String(254), nullable=False, unique=True),
    Column("administrator", Boolean, nullable=False, server_default=false()),
    Column("disabled", Boolean, nullable=False, server_default=false()),
    Column(
        "namespace_id", String(40), ForeignKey("namespaces.id"), nullable=False
    ),  # no cascade: people stay
    _ms("created_ms"),
)

members = Table(
    "members",
    metadata,
    _ref("namespace_id", "namespaces.id", primary_key=True),
    _ref("user_id", "users.id", primary_key=True),
    Column("role", String(16), nullable=False),
    _ms("created_ms"),
    Index(None, "user_id"),
)

# Whatever proves who somebody is. `hash`: argon2id of a password, SHA-256 (hex) of a key; sessions have theirs in
# refresh_tokens, since a rotated one is remembered.
credentials = Table(
    "credentials",
    metadata,
    _id(),
    _ref("user_id", "users.id"),
    _ref("namespace_id", "namespaces.id", nullable=True),
    Column("function_id", String(40), ForeignKey("functions.id", ondelete="CASCADE")),
    Column("kind", String(16), nullable=False),
    Column("hash", Text),
    Column("scopes", JSON),
    Column("name", String(64)),
    Column("prefix", String(16)),
    _ms("created_ms"),
    _ms("expires_ms", nullable=True),
    _ms("last_used_ms", nullable=True),
    _ms("revoked_ms", nullable=True),
    CheckConstraint("kind IN ('password', 'session', 'key')", name="kind"),
    Index(None, "user_id", "kind"),
    Index(None, "hash"),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("hash", String(64), primary_key=True),
    _ref("session_id", "credentials.id"),
    _ms("created_ms"),
    _ms("rotated_ms", nullable=True),
    Index(None, "session_id"),
)

login_failures = Table(
    "login_failures",
    metadata,
    Column("subject", String(300), primary_key=True),  # account:EMAIL, address:IP
    _count("failures"),
    _ms("last_ms"),
    Index(None, "last_ms"),
)

functions = Table(
    "functions",
    metadata,
    _id(),
    _ref("namespace_id", "namespaces.id"),
    Column("name", String(31), nullable=False),
    Column("last_number", Integer, nullable=False, server_default=text("0")),  # numbers are never given twice
    _ms("created_ms"),
    UniqueConstraint("namespace_id", "name"),
)

versions = Table(
    "versions",
    metadata,
    _id(),
    _ref("namespace_id", "namespaces.id"),
    _ref("function_id", "functions.id"),
    Column("number", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("config", JSON, nullable=False),
    Column("source", String(80), nullable=False),
    Column("artifact", String(80)),
    Column("toolchain", String(80)),
    Column("handler", Text),
    Column("failure", JSON(none_as_null=True)),
    _id("created_by", primary_key=False),
    _ms("created_ms"),
    _ms("ready_ms", nullable=True),
    Column(
        "replaced", Integer
    ),  # number of the version that was live when this one went live: where rollback goes
    Column("size", BigInteger),  # bytes of its artifact
    _count("attempts"),
    _count("lease_token"),  # grows with every claim: the fence against who lost it
    Column("lease_owner", String(40)),
    _ms("lease_until_ms", nullable=True),
    UniqueConstraint("function_id", "number"),
    Index(None, "state", "created_ms"),
)

aliases = Table(
    "aliases",
    metadata,
    _id(),
    _ref("namespace_id", "namespaces.id"),
    _ref("function_id", "functions.id"),
    Column("name", String(31), nullable=False),
    _ms("created_ms"),
    _ms("updated_ms"),
    UniqueConstraint("function_id", "name"),
)

alias_targets = Table(
    "alias_targets",
    metadata,
    _ref("alias_id", "aliases.id", primary_key=True),
    _ref("version_id", "versions.id", primary_key=True),
    Column("weight", Integer, nullable=False),
    CheckConstraint("weight > 0", name="weight"),
    Index(None, "version_id"),
)

# Values that only functions read, sealed by `security.vault`; a namespace's have no function. Of one name there is one each.
secrets = Table(
    "secrets",
    metadata,
    _id(),
    _ref("namespace_id", "namespaces.id"),
    _ref("function_id", "functions.id", nullable=True),
    Column("name", String(64), nullable=False),
    Column("key_id", String(16), nullable=False),  # which key of the vault sealed it
    Column("sealed", LargeBinary, nullable=False),
    Column("size", Integer, nullable=False),  # bytes of the value
    Column("text", Boolean, nullable=False),  # may stand in an environment: UTF-8 without NUL
    _id("updated_by", primary_key=False),
    _ms("created_ms"),
    _ms("updated_ms"),
    Index(
        "uq_secrets_namespace_id_name",
        "namespace_id",
        "name",
        unique=True,
        sqlite_where=text("function_id IS NULL"),
        postgresql_where=text("function_id IS NULL"),
    ),
    Index(
        "uq_secrets_function_id_name",
        "function_id",
        "name",
        unique=True,
        sqlite_where=text("function_id IS NOT NULL"),
        postgresql_where=text("function_id IS NOT NULL"),
    ),
)

# What an equal build made before: the key covers source, settings, exact toolchain and whatever else the builder put in.
artifacts = Table(
    "artifacts",
    metadata,
    Column("build_key", String(80), primary_key=True),
    Column("artifact", String(80), nullable=False),
    _ms("created_ms"),
)

# Processes, and what they made. No foreign keys from here on: these rows come late and in batches, and the death of a
# function must not lose its history nor refuse a batch.
owners = Table(
    "owners",
    metadata,
    _id(),  # the boot id of one process
    Column("node", String(80), nullable=False),
    Column("kind", String(16), nullable=False),  # control | shard
    _ms("started_ms"),
    _ms("heartbeat_ms"),
    _ms("ended_ms", nullable=True),
    Index(None, "node"),
)

sandboxes = Table(
    "sandboxes",
    metadata,
    _id(),
    Column("owner", String(40), nullable=False),
    Column("namespace_id", String(40)),
    Column("version_id", String(40)),
    Column("driver", String(16), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("handle", Text),
    Column("artifact", String(80)),  # digest of what it runs from, known also when its version is gone
    _ms("created_ms"),
    _ms("updated_ms"),
    Index(None, "owner", "state"),
    Index(None, "state", "updated_ms"),
)

# Work that one process of the platform does at a time. Judged by the database's clock.
leases = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("owner", String(40), nullable=False),
    Column("token", Integer, nullable=False),  # grows with every new holder
    _ms("until_ms"),
)

# The outbox: what changed, in order, for hints and audit.
events = Table(
    "events",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("kind", String(16), nullable=False),
    Column("subject", String(40), nullable=False),
    Column("namespace_id", String(40)),
    Column("actor", String(40)),
    _ms("at_ms"),
    Column("details", JSON, nullable=False),
    sqlite_autoincrement=True,  # a number is never used twice, not even after old events were removed
)

invocations = Table(
    "invocations",
    metadata,
    _id(),
    Column("namespace_id", String(40), nullable=False),
    Column("function_id", String(40), nullable=False),
    Column("version_id", String(40)),  # an asynchronous call has none until it runs
    Column("mode", String(8), nullable=False),
    Column("status", String(16), nullable=False),
    Column("http_status", Integer, nullable=False, server_default=text("0")),
    Column("error", String(64)),
    Column("cold", Boolean, nullable=False, server_default=false()),
    _ms("started_ms"),
    Column("queue_ms", Float, nullable=False, server_default=text("0")),
    Column("cold_ms", Float, nullable=False, server_default=text("0")),
    Column("function_ms", Float, nullable=False, server_default=text("0")),
    Column("request_id", String(128), nullable=False),
    # asynchronous calls
    Column("request", JSON(none_as_null=True)),  # method, path, headers, caller
    Column("payload", String(80)),  # digest of the body
    Column("result", JSON(none_as_null=True)),  # status, headers
    Column("result_payload", String(80)),
    _ms("accepted_ms", nullable=True),
    _ms("finished_ms", nullable=True),
    _ms("next_at_ms", nullable=True),
    _ms("expires_ms", nullable=True),
    _count("attempts"),
    _count("lease_token"),
    Column("lease_owner", String(40)),
    _ms("lease_until_ms", nullable=True),
    Index(None, "function_id", "started_ms"),
    Index(None, "status", "next_at_ms"),
    Index(None, "namespace_id", "started_ms"),
)
