"""How much a workspace may take: limits of the settings, or its own where it has some, and what is counted against them.

What refuses, does so in the transaction that would do the thing, under the lock of the workspace's row: two requests at once do not
get through where one may. Where there is no limit, nothing is locked and nothing is counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, time, timedelta
from math import ceil
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from app.database import add_or_sum, database_now
from app.errors import QuotaUsedUp, WorkspaceFull
from app.settings import Settings
from app.statements import Statement
from app.tables import Dataset, Series, Training, Workspace, WorkspaceDay

TRAINING_RETRY_SECONDS = 30
"""After which to ask again for a training, where too many of the workspace wait or run."""


@dataclass(frozen=True)
class Limits:
    """Of one workspace; 0 is no limit. The names are those of the settings `max_workspace_...`, and the keys of `workspaces.limits`."""

    requests_per_minute: int
    observations: int
    series: int
    bytes_per_day: int
    trainings: int
    running_trainings: int
    training_seconds_per_day: int


NAMES = tuple(field.name for field in fields(Limits))


def find_limits(settings: Settings, own: Mapping[str, Any] | None) -> Limits:
    """The settings' limits, with those in their place that the workspace has of its own."""
    return Limits(**{name: int((own or {}).get(name, getattr(settings, f"max_workspace_{name}"))) for name in NAMES})


def charge_observations(session: Session, settings: Settings, workspace_id: int, body_bytes: int) -> None:
    """Refuses what was just stored, and not yet committed, if the workspace now holds or has sent too much."""
    limits = _read_limits(session, settings, workspace_id)
    if not (limits.observations or limits.series or limits.bytes_per_day):
        return
    session.execute(sa.select(Workspace.id).where(Workspace.id == workspace_id).with_for_update(key_share=True)).all()
    if limits.observations or limits.series:
        _check_stock(session, limits, workspace_id)
    if limits.bytes_per_day:
        now = database_now(session)
        add_or_sum(session, WorkspaceDay, {"workspace_id": workspace_id, "day": now.date()}, {"body_bytes": body_bytes})
        used = read_day(session, workspace_id, now).body_bytes
        if used > limits.bytes_per_day:
            raise _used_up(
                f"the workspace may send {limits.bytes_per_day} bytes of observations in a day (UTC), and with these it would be {used}",
                _seconds_to_midnight(now),
                quota="bytes_per_day",
                limit=limits.bytes_per_day,
            )


def check_training(session: Session, settings: Settings, training: Training) -> None:
    """Refuses a new training, not yet committed, where too many others wait or run, or today's seconds are used up. A search is one
    training, whatever its trials."""
    workspace_id = training.workspace_id
    limits = _read_limits(session, settings, workspace_id)
    if not (limits.trainings or limits.training_seconds_per_day):
        return
    session.execute(sa.select(Workspace.id).where(Workspace.id == workspace_id).with_for_update(key_share=True)).all()
    if limits.trainings:
        at_work = sa.and_(Training.workspace_id == workspace_id, Training.status.in_(("queued", "running")))
        others = sa.and_(at_work, Training.parent_id.is_(None), Training.id != training.id)
        count = session.execute(sa.select(sa.func.count()).select_from(Training).where(others)).scalar_one()
        if count >= limits.trainings:
            raise _used_up(
                f"{count} trainings of the workspace wait or run, and {limits.trainings} may; wait for one, or cancel one",
                TRAINING_RETRY_SECONDS,
                quota="trainings",
                limit=limits.trainings,
            )
    now = database_now(session)
    if limits.training_seconds_per_day and read_training_seconds(session, workspace_id, now) >= limits.training_seconds_per_day:
        raise _used_up(
            f"the workspace's trainings may run for {limits.training_seconds_per_day} s in a day (UTC), and have",
            _seconds_to_midnight(now),
            quota="training_seconds_per_day",
            limit=limits.training_seconds_per_day,
        )


def may_run_another(session: Session, settings: Settings, workspace: Workspace, running: int) -> bool:
    """Whether one more training of the workspace, `running` of which run, may begin now; otherwise it waits."""
    limits = find_limits(settings, workspace.limits)
    if limits.running_trainings and running >= limits.running_trainings:
        return False
    seconds = limits.training_seconds_per_day
    return not seconds or read_training_seconds(session, workspace.id, database_now(session)) < seconds


def measure_training(session: Session, training: Training) -> float:
    """Seconds that a training which has ended ran; of a search only what came after its trials, which count themselves."""
    began, ended = training.started_at, training.finished_at
    if began is None or ended is None or training.searching:
        return 0.0
    last = session.scalar(sa.select(sa.func.max(Training.finished_at)).where(Training.parent_id == training.id))
    return max(0.0, (ended - max(began, last or began)).total_seconds())


def charge_training(session: Session, workspace_id: int, ended_at: datetime, seconds: float) -> None:
    """Counts a training that has ended to the day it ended on."""
    add_or_sum(session, WorkspaceDay, {"workspace_id": workspace_id, "day": ended_at.date()}, {"training_seconds": seconds})


def read_day(session: Session, workspace_id: int, now: datetime) -> WorkspaceDay:
    """What the workspace has used up today."""
    query = sa.select(WorkspaceDay).where(WorkspaceDay.workspace_id == workspace_id, WorkspaceDay.day == now.date())
    found = session.scalar(query.execution_options(populate_existing=True))
    return found or WorkspaceDay(workspace_id=workspace_id, day=now.date(), body_bytes=0, training_seconds=0.0)


def read_training_seconds(session: Session, workspace_id: int, now: datetime) -> float:
    """Seconds that the workspace's trainings have run today: those that ended, and so far those that run."""
    trial = aliased(Training)
    last = sa.select(sa.func.max(trial.finished_at)).where(trial.parent_id == Training.id).scalar_subquery()
    query = sa.select(Training.started_at, last).where(
        Training.workspace_id == workspace_id, Training.status == "running", Training.searching.is_(False)
    )
    running = sum((now - max(began, ended or began)).total_seconds() for began, ended in session.execute(query) if began)
    return read_day(session, workspace_id, now).training_seconds + running


def _read_limits(session: Session, settings: Settings, workspace_id: int) -> Limits:
    found = _OWN_LIMITS.rows(session, workspace_id=workspace_id)
    return find_limits(settings, found[0][0] if found else None)


_OWN_LIMITS = Statement(lambda _: sa.select(Workspace.limits).where(Workspace.id == sa.bindparam("workspace_id")))


def _check_stock(session: Session, limits: Limits, workspace_id: int) -> None:
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(Series.count), 0)).where(
        Series.dataset_id.in_(sa.select(Dataset.id).where(Dataset.workspace_id == workspace_id)), Series.count > 0
    )
    series, observations = session.execute(query).one()
    for name, found, most in (("series", series, limits.series), ("observations", int(observations), limits.observations)):
        if most and found > most:
            raise WorkspaceFull(
                f"the workspace may store {most} {name}, and with these it would be {found}; delete some, or ask whoever runs the service "
                "for more",
                quota=name,
                limit=most,
                found=found,
            )


def _used_up(detail: str, retry_after: int, **facts: Any) -> QuotaUsedUp:
    return QuotaUsedUp(f"{detail}; whoever runs the service can raise it", retry_after=retry_after, **facts)


def _seconds_to_midnight(now: datetime) -> int:
    tomorrow = datetime.combine(now.date() + timedelta(days=1), time(), UTC)
    return max(1, ceil((tomorrow - now).total_seconds()))
