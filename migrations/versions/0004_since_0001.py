"""Trainings that are trials of a search.

Revision ID: 0004_since_0001
Revises: 0003_since_0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0004_since_0001"
down_revision = "0003_since_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("trainings", sa.Column("parent_id", number, nullable=True))
    op.add_column("trainings", sa.Column("trial_number", number, nullable=True))
    op.add_column("trainings", sa.Column("searching", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index("ix_trainings_parent_id_trial_number", "trainings", ["parent_id", "trial_number"], unique=True)


def downgrade() -> None:
    op.execute("DELETE FROM trainings WHERE parent_id IS NOT NULL OR searching")
    op.drop_index("ix_trainings_parent_id_trial_number", "trainings")
    for name in ("searching", "trial_number", "parent_id"):
        op.drop_column("trainings", name)
