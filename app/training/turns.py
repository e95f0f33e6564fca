"""Whose turn it is: workspaces take turns, so that one with a thousand trainings makes another with one wait for a single training."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app import quotas
from app.settings import Settings
from app.tables import Training, Workspace


def list_turns(session: Session, settings: Settings, waits: Sequence[sa.ColumnElement[bool]]) -> list[int]:
    """The workspaces that have a training for which all of `waits` is true, and may run another: first the one with the fewest running,
    among those the one that has waited longest for its turn, and then the one whose first training was asked for first."""
    heads = session.execute(
        sa.select(Training.workspace_id, sa.func.min(Training.id)).where(*waits).group_by(Training.workspace_id)
    )
    first: dict[int, int] = dict(heads.all())
    if not first:
        return []
    query = sa.select(Training.workspace_id, sa.func.count()).where(
        Training.status == "running",
        Training.searching.is_(False),  # a search runs by its trials, and would take their turn
    )
    running: dict[int, int] = dict(session.execute(query.group_by(Training.workspace_id)).all())
    workspaces = session.scalars(
        sa.select(Workspace).where(Workspace.id.in_(first)).execution_options(populate_existing=True)
    ).all()
    allowed = [one for one in workspaces if quotas.may_run_another(session, settings, one, running.get(one.id, 0))]

    def turn(workspace: Workspace) -> tuple[int, float, int]:
        claimed = workspace.claimed_at.timestamp() if workspace.claimed_at else 0.0
        return running.get(workspace.id, 0), claimed, first[workspace.id]

    return [workspace.id for workspace in sorted(allowed, key=turn)]
