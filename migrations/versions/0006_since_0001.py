"""Limits of a workspace, what it used up in a day, when it last had its turn, and the audit log.

Revision ID: 0006_since_0001
Revises: 0005_since_0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0006_since_0001"
down_revision = "0005_since_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workspaces", sa.Column("limits", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("workspaces", sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "workspace_days",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("workspace_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("body_bytes", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, server_default="0"),
        sa.Column("training_seconds", sa.Double(), nullable=False, server_default="0"),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_workspace_days_workspace_id_workspaces"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workspace_days")),
        sa.UniqueConstraint("workspace_id", "day", name=op.f("uq_workspace_days_workspace_id_day")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "audit_entries",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("workspace_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("actor", sa.String(length=255), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("target", sa.String(length=1024), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_audit_entries_workspace_id_workspaces"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_entries")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_audit_entries_workspace_id"), "audit_entries", ["workspace_id"], unique=False)
    op.create_index(op.f("ix_audit_entries_created_at"), "audit_entries", ["created_at"], unique=False)


def downgrade() -> None:
    op.drop_table("audit_entries")
    op.drop_table("workspace_days")
    with op.batch_alter_table("workspaces", schema=None) as batch_op:
        batch_op.drop_column("claimed_at")
        batch_op.drop_column("limits")
