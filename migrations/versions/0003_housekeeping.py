"""Schedulers, how many trainings a worker can hold, and the row of the last housekeeping.

Revision ID: 0003_since_0001
Revises: 0002_since_0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0003_since_0001"
down_revision = "0002_since_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "schedulers",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedulers")),
        sa.UniqueConstraint("name", name=op.f("uq_schedulers_name")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_schedulers_seen_at"), "schedulers", ["seen_at"], unique=False)
    op.create_table(
        "housekeeping",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("removed", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_housekeeping")),
        sqlite_autoincrement=True,
    )
    op.execute("INSERT INTO housekeeping (id) VALUES (1)")
    op.add_column(
        "workers",
        sa.Column("slots", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, server_default="1"),
    )


def downgrade() -> None:
    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.drop_column("slots")
    op.drop_table("housekeeping")
    op.drop_table("schedulers")
