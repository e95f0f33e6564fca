"""The revision of the data that a training was requested on, and the states that trainings under way leave behind.

Revision ID: 0005_since_0001
Revises: 0004_since_0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0005_since_0001"
down_revision = "0004_since_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("trainings", sa.Column("data_revision", sa.String(length=64), nullable=True))
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "training_states",
        sa.Column("id", number, nullable=False),
        sa.Column("workspace_id", number, nullable=False),
        sa.Column("training_id", number, nullable=False),
        sa.Column("attempt", number, nullable=False),
        sa.Column("step", number, nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("code_version", sa.String(length=32), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", number, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["training_id"], ["trainings.id"], name=op.f("fk_training_states_training_id_trainings"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("fk_training_states_workspace_id_workspaces"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_training_states")),
        sa.UniqueConstraint("training_id", name=op.f("uq_training_states_training_id")),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    op.drop_table("training_states")
    with op.batch_alter_table("trainings", schema=None) as batch_op:
        batch_op.drop_column("data_revision")
