"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column as C

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Id = sa.String(length=40)
Ms = sa.BigInteger()
Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def fk(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [target], name=f"fk_{table}_{column}", ondelete="CASCADE")


def upgrade() -> None:
    op.create_table(
        "artifacts",
        C("build_key", sa.String(length=80), nullable=False),
        C("artifact", sa.String(length=80), nullable=False),
        C("created_ms", Ms, nullable=False),
        sa.PrimaryKeyConstraint("build_key", name="pk_artifacts"),
    )
    op.create_table(
        "events",
        C("seq", Serial, autoincrement=True, nullable=False),
        C("kind", sa.String(length=16), nullable=False),
        C("subject", Id, nullable=False),
        C("namespace_id", Id),
        C("actor", Id),
        C("at_ms", Ms, nullable=False),
        C("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "invocations",
        C("id", Id, nullable=False),
        C("namespace_id", Id, nullable=False),
        C("function_id", Id, nullable=False),
        C("version_id", Id),
        C("mode", sa.String(length=8), nullable=False),
        C("status", sa.String(length=16), nullable=False),
        C("http_status", sa.Integer(), server_default=sa.text("0"), nullable=False),
        C("error", sa.String(length=64)),
        C("cold", sa.Boolean(), server_default=sa.false(), nullable=False),
        C("started_ms", Ms, nullable=False),
        C("queue_ms", sa.Float(), server_default=sa.text("0"), nullable=False),
        C("cold_ms", sa.Float(), server_default=sa.text("0"), nullable=False),
        C("function_ms", sa.Float(), server_default=sa.text("0"), nullable=False),
        C("request_id", sa.String(length=128), nullable=False),
        C("request", sa.JSON(none_as_null=True)),
        C("payload", sa.String(length=80)),
        C("result", sa.JSON(none_as_null=True)),
        C("result_payload", sa.String(length=80)),
        C("accepted_ms", Ms),
        C("finished_ms", Ms),
        C("next_at_ms", Ms),
        C("expires_ms", Ms),
        C("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        C("lease_token", sa.Integer(), server_default=sa.text("0"), nullable=False),
        C("lease_owner", Id),
        C("lease_until_ms", Ms),
        sa.PrimaryKeyConstraint("id", name="pk_invocations"),
    )
    op.create_index("ix_invocations_function_id_started_ms", "invocations", ["function_id", "started_ms"])
    op.create_index("ix_invocations_namespace_id_started_ms", "invocations", ["namespace_id", "started_ms"])
    op.create_index("ix_invocations_status_next_at_ms", "invocations", ["status", "next_at_ms"])
    op.create_table(
        "login_failures",
        C("subject", sa.String(length=300), nullable=False),
        C("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        C("last_ms", Ms, nullable=False),
        sa.PrimaryKeyConstraint("subject", name="pk_login_failures"),
    )
    op.create_index("ix_login_failures_last_ms", "login_failures", ["last_ms"])
    op.create_table(
        "meta",
        C("name", sa.String(length=64), nullable=False),
        C("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_meta"),
    )
    op.create_table(
        "namespaces",
        C("id", Id, nullable=False),
        C("name", sa.String(length=30), nullable=False),
        C("kind", sa.String(length=16), server_default="personal", nullable=False),
        C("created_ms", Ms, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_namespaces"),
        sa.UniqueConstraint("name", name="uq_namespaces_name"),
    )
    op.create_table(
        "owners",
        C("id", Id, nullable=False),
        C("node", sa.String(length=80), nullable=False),
        C("kind", sa.String(length=16), nullable=False),
        C("started_ms", Ms, nullable=False),
        C("heartbeat_ms", Ms, nullable=False),
        C("ended_ms", Ms),
        sa.PrimaryKeyConstraint("id", name="pk_owners"),
    )
    op.create_index("ix_owners_node", "owners", ["node"])
    op.create_table(
        "sandboxes",
        C("id", Id, nullable=False),
        C("owner", Id, nullable=False),
        C("namespace_id", Id),
        C("version_id", Id),
        C("driver", sa.String(length=16), nullable=False),
        C("kind", sa.String(length=16), nullable=False),
        C("state", sa.String(length=16), nullable=False),
        C("handle", sa.Text()),
        C("created_ms", Ms, nullable=False),
        C("updated_ms", Ms, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sandboxes"),
    )
    op.create_index("ix_sandboxes_owner_state", "sandboxes", ["owner", "state"])
    op.create_table(
        "functions",
        C("id", Id, nullable=False),
        C("namespace_id", Id, nullable=False),
        C("name", sa.String(length=31), nullable=False),
        C("last_number", sa.Integer(), server_default=sa.text("0"), nullable=False),
        C("created_ms", Ms, nullable=False),
        fk("functions", "namespace_id", "namespaces.id"),
        sa.PrimaryKeyConstraint("id", name="pk_functions"),
        sa.UniqueConstraint("namespace_id", "name", name="uq_functions_namespace_id_name"),
    )
    op.create_table(
        "users",
        C("id", Id, nullable=False),
        C("email", sa.String(length=254), nullable=False),
        C("administrator", sa.Boolean(), server_default=sa.false(), nullable=False),
        C("disabled", sa.Boolean(), server_default=sa.false(), nullable=False),
        C("namespace_id", Id, nullable=False),
        C("created_ms", Ms, nullable=False),
        sa.ForeignKeyConstraint(["namespace_id"], ["namespaces.id"], name="fk_users_namespace_id"),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("email", name="uq_users_email"),
    )
    op.create_table(
        "aliases",
        C("id", Id, nullable=False),
        C("namespace_id", Id, nullable=False),
        C("function_id", Id, nullable=False),
        C("name", sa.String(length=31), nullable=False),
        C("created_ms", Ms, nullable=False),
        C("updated_ms", Ms, nullable=False),
        fk("aliases", "function_id", "functions.id"),
        fk("aliases", "namespace_id", "namespaces.id"),
        sa.PrimaryKeyConstraint("id", name="pk_aliases"),
        sa.UniqueConstraint("function_id", "name", name="uq_aliases_function_id_name"),
    )
    op.create_table(
        "credentials",
        C("id", Id, nullable=False),
        C("user_id", Id, nullable=False),
        C("namespace_id", Id),
        C("function_id", Id),
        C("kind", sa.String(length=16), nullable=False),
        C("hash", sa.Text()),
        C("scopes", sa.JSON()),
        C("name", sa.String(length=64)),
        C("prefix", sa.String(length=16)),
        C("created_ms", Ms, nullable=False),
        C("expires_ms", Ms),
        C("last_used_ms", Ms),
        C("revoked_ms", Ms),
        sa.CheckConstraint("kind IN ('password', 'session', 'key')", name="ck_credentials_kind"),
        fk("credentials", "function_id", "functions.id"),
        fk("credentials", "namespace_id", "namespaces.id"),
        fk("credentials", "user_id", "users.id"),
        sa.PrimaryKeyConstraint("id", name="pk_credentials"),
    )
    op.create_index("ix_credentials_hash", "credentials", ["hash"])
    op.create_index("ix_credentials_user_id_kind", "credentials", ["user_id", "kind"])
    op.create_table(
        "members",
        C("namespace_id", Id, nullable=False),
        C("user_id", Id, nullable=False),
        C("role", sa.String(length=16), nullable=False),
        C("created_ms", Ms, nullable=False),
        fk("members", "namespace_id", "namespaces.id"),
        fk("members", "user_id", "users.id"),
        sa.PrimaryKeyConstraint("namespace_id", "user_id", name="pk_members"),
    )
    op.create_index("ix_members_user_id", "members", ["user_id"])
    op.create_table(
        "versions",
        C("id", Id, nullable=False),
        C("namespace_id", Id, nullable=False),
        C("function_id", Id, nullable=False),
        C("number", sa.Integer(), nullable=False),
        C("state", sa.String(length=16), nullable=False),
        C("config", sa.JSON(), nullable=False),
        C("source", sa.String(length=80), nullable=False),
        C("artifact", sa.String(length=80)),
        C("toolchain", sa.String(length=80)),
        C("handler", sa.Text()),
        C("failure", sa.JSON(none_as_null=True)),
        C("created_by", Id),
        C("created_ms", Ms, nullable=False),
        C("ready_ms", Ms),
        C("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        C("lease_token", sa.Integer(), server_default=sa.text("0"), nullable=False),
        C("lease_owner", Id),
        C("lease_until_ms", Ms),
        fk("versions", "function_id", "functions.id"),
        fk("versions", "namespace_id", "namespaces.id"),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
        sa.UniqueConstraint("function_id", "number", name="uq_versions_function_id_number"),
    )
    op.create_index("ix_versions_state_created_ms", "versions", ["state", "created_ms"])
    op.create_table(
        "alias_targets",
        C("alias_id", Id, nullable=False),
        C("version_id", Id, nullable=False),
        C("weight", sa.Integer(), nullable=False),
        sa.CheckConstraint("weight > 0", name="ck_alias_targets_weight"),
        fk("alias_targets", "alias_id", "aliases.id"),
        fk("alias_targets", "version_id", "versions.id"),
        sa.PrimaryKeyConstraint("alias_id", "version_id", name="pk_alias_targets"),
    )
    op.create_index("ix_alias_targets_version_id", "alias_targets", ["version_id"])
    op.create_table(
        "refresh_tokens",
        C("hash", sa.String(length=64), nullable=False),
        C("session_id", Id, nullable=False),
        C("created_ms", Ms, nullable=False),
        C("rotated_ms", Ms),
        fk("refresh_tokens", "session_id", "credentials.id"),
        sa.PrimaryKeyConstraint("hash", name="pk_refresh_tokens"),
    )
    op.create_index("ix_refresh_tokens_session_id", "refresh_tokens", ["session_id"])
