"""What replaced what, how large it is, what an instance runs from, and who cleans up."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column as C

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("versions", C("replaced", sa.Integer()))
    op.add_column("versions", C("size", sa.BigInteger()))
    op.add_column("sandboxes", C("artifact", sa.String(length=80)))
    op.create_index("ix_sandboxes_state_updated_ms", "sandboxes", ["state", "updated_ms"])
    op.create_table(
        "leases",
        C("name", sa.String(length=64), nullable=False),
        C("owner", sa.String(length=40), nullable=False),
        C("token", sa.Integer(), nullable=False),
        C("until_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
