"""Secrets of namespaces and functions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column as C

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Id = sa.String(length=40)
Ms = sa.BigInteger()


def upgrade() -> None:
    op.create_table(
        "secrets",
        C("id", Id, nullable=False),
        C("namespace_id", Id, nullable=False),
        C("function_id", Id),
        C("name", sa.String(length=64), nullable=False),
        C("key_id", sa.String(length=16), nullable=False),
        C("sealed", sa.LargeBinary(), nullable=False),
        C("size", sa.Integer(), nullable=False),
        C("text", sa.Boolean(), nullable=False),
        C("updated_by", Id),
        C("created_ms", Ms, nullable=False),
        C("updated_ms", Ms, nullable=False),
        sa.ForeignKeyConstraint(
            ["function_id"], ["functions.id"], name="fk_secrets_function_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["namespace_id"], ["namespaces.id"], name="fk_secrets_namespace_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_secrets"),
    )
    for owner, where in (("namespace_id", "function_id IS NULL"), ("function_id", "function_id IS NOT NULL")):
        op.create_index(
            f"uq_secrets_{owner}_name",
            "secrets",
            [owner, "name"],
            unique=True,
            sqlite_where=sa.text(where),
            postgresql_where=sa.text(where),
        )
