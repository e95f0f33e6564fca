"""What the service says of itself: totals of trainings, what a worker is, and the trace that a training belongs to.

It only adds, and what it adds to a table may be null, so that code whose head is 0001 works on.

Revision ID: 0002_since_0001
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002_since_0001"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "training_totals",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("at_most_seconds", sa.Double(), nullable=False),
        sa.Column("count", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_training_totals")),
        sa.UniqueConstraint("status", "at_most_seconds", name=op.f("uq_training_totals_status_at_most_seconds")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_aliases_name_updated_at", "aliases", ["name", "updated_at"])
    op.add_column("trainings", sa.Column("traceparent", sa.String(length=64), nullable=True))
    op.add_column("workers", sa.Column("owner", sa.String(length=255), nullable=True))
    op.add_column("workers", sa.Column("code_version", sa.String(length=32), nullable=True))
    op.add_column("workers", sa.Column("clock_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    for name in ("clock_at", "code_version", "owner"):
        op.drop_column("workers", name)
    op.drop_column("trainings", "traceparent")
    op.drop_index("ix_aliases_name_updated_at", "aliases")
    op.drop_table("training_totals")
