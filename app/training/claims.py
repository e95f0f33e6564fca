"""Who may work on a training: claim, heartbeat, hand back, sweep. The row is the truth; each statement is fenced by owner and attempt."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.database import database_now
from app.errors import WorkerLost
from app.processes import is_running
from app.settings import Settings
from app.tables import Training, Workspace
from app.training import presence, service
from app.training.turns import list_turns

JUMP_SWEEPS = 6
JUMP_SECONDS = 5.0
"""How long the holder of a lease that a clock's jump has ended, or made endless, gets to renew it."""


@dataclass(frozen=True)
class Claim:
    """A training that is ours until the lease ends. A write that misses this owner and attempt must change nothing.

    `traceparent` is the request's place in its trace, if it had one.
    """

    training_id: int
    workspace_id: int
    public_id: str
    request_id: str | None
    traceparent: str | None
    owner: str
    attempt: int

    def fence(self) -> sa.ColumnElement[bool]:
        return sa.and_(
            Training.id == self.training_id,
            Training.owner == self.owner,
            Training.attempt == self.attempt,
            Training.status == "running",
        )


def claim(session: Session, settings: Settings, owner: str, devices: Sequence[str]) -> Claim | None:
    """Takes the oldest training that waits for one of `devices` of the workspace whose turn it is; None when nothing waits.

    One for `auto` is left to a CUDA worker as long as one is alive that could take it now.
    """
    sweep(session, settings)
    now = database_now(session)
    takes_auto = "cuda" in devices or not _is_cuda_free(session, settings)
    waits = (
        Training.status == "queued",
        Training.searching.is_(False),
        Training.device_wanted.in_(["auto", *devices] if takes_auto else devices),
    )
    for workspace_id in list_turns(session, settings, waits):
        taken = _take(session, settings, owner, now, [*waits, Training.workspace_id == workspace_id])
        if taken is not None:
            session.execute(sa.update(Workspace).where(Workspace.id == workspace_id).values(claimed_at=now))
            return taken
    return None


def _take(
    session: Session, settings: Settings, owner: str, now: datetime, waits: Sequence[sa.ColumnElement[bool]]
) -> Claim | None:
    """The oldest training for which all of `waits` is true and that nobody else takes at this moment."""
    oldest = (
        sa.select(Training.id).where(*waits).order_by(Training.id).limit(1).with_for_update(skip_locked=True).scalar_subquery()
    )
    taken = session.execute(
        sa.update(Training)
        .where(Training.id == oldest, Training.status == "queued")
        .values(
            status="running",
            attempt=Training.attempt + 1,
            owner=owner,
            lease_expires_at=now + timedelta(seconds=settings.lease_seconds),
            started_at=sa.func.coalesce(Training.started_at, now),
            progress=None,
        )
        .returning(
            Training.id,
            Training.workspace_id,
            Training.public_id,
            Training.request_id,
            Training.traceparent,
            Training.attempt,
        )
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if taken is None:
        return None
    return Claim(taken.id, taken.workspace_id, taken.public_id, taken.request_id, taken.traceparent, owner, taken.attempt)


def find_left_for_cuda(session: Session, devices: Sequence[str]) -> str | None:
    """The training that a claim for these devices has just left to a CUDA worker: its public id, if there is one."""
    if "cuda" in devices:
        return None
    query = sa.select(Training.public_id).where(
        Training.status == "queued", Training.searching.is_(False), Training.device_wanted == "auto"
    )
    return session.scalar(query.order_by(Training.id).limit(1))


def find_waiting(session: Session, devices: Sequence[str]) -> tuple[str, str] | None:
    """(public id, device) of the oldest training that waits for one of these devices or for any; None when there is none."""
    query = sa.select(Training.public_id, Training.device_wanted).where(
        Training.status == "queued", Training.searching.is_(False), Training.device_wanted.in_(["auto", *devices])
    )
    row = session.execute(query.order_by(Training.id).limit(1)).one_or_none()
    return None if row is None else (row.public_id, row.device_wanted)


def beat(session: Session, settings: Settings, claim: Claim, **fields: Any) -> bool | None:
    """Renews the lease and writes `fields`. True: cancel was asked for; False: go on; None: the training is no longer ours."""
    lease = database_now(session) + timedelta(seconds=settings.lease_seconds)
    return session.execute(
        sa.update(Training)
        .where(claim.fence())
        .values(lease_expires_at=lease, **fields)
        .returning(Training.cancel_requested)
        .execution_options(synchronize_session=False)
    ).scalar_one_or_none()


def lock(session: Session, claim: Claim) -> Training | None:
    """The training for its last change, locked; None when it is no longer ours."""
    return session.scalar(sa.select(Training).where(claim.fence()).with_for_update())


def hand_back(session: Session, claim: Claim) -> None:
    """To the queue, as if never started: the worker stops, not the training."""
    session.execute(
        sa.update(Training)
        .where(claim.fence())
        .values(status="queued", owner=None, lease_expires_at=None, hinted_at=None)
        .execution_options(synchronize_session=False)
    )


def sweep(session: Session, settings: Settings) -> None:
    """Trainings whose lease ran out, or whose worker on this machine is gone, go back to the queue; one lost too often fails, so that
    a poison pill does not loop."""
    now = database_now(session)
    query = (  # in an order that makes two sweeps at once touch the totals (status, then longest first) in the same one
        sa.select(Training)
        .where(Training.status == "running", Training.searching.is_(False))
        .order_by(Training.cancel_requested.desc(), Training.started_at)
        .with_for_update(skip_locked=True)
    )
    for training in session.scalars(query).all():
        if _renew_across_jump(settings, training, now):
            continue
        is_leased = training.lease_expires_at is not None and training.lease_expires_at > now
        if is_leased and (training.owner is None or is_running(training.owner) is not False):
            continue  # its process is there, or cannot be seen from here
        put_back(session, settings, training)
    session.flush()


def _renew_across_jump(settings: Settings, training: Training, now: datetime) -> bool:
    """Whether the lease makes no sense by this clock, which must have been set meanwhile; it then gets an end that does.

    Leases are renewed each second and swept every few: one that is over for much longer, or longer than any is given, says nothing of
    its holder. Held by somebody, the new one is renewed in time; by nobody, it runs out. A dead process is seen without a clock.
    """
    ends = training.lease_expires_at
    if ends is None or (training.owner is not None and is_running(training.owner) is False):
        return False
    patience = timedelta(seconds=JUMP_SWEEPS * settings.sweep_seconds)
    if now - patience <= ends <= now + timedelta(seconds=settings.lease_seconds) + patience:
        return False
    training.lease_expires_at = now + timedelta(seconds=min(JUMP_SECONDS, settings.lease_seconds))
    return True


def put_back(session: Session, settings: Settings, training: Training) -> None:
    """Its attempt was lost: back to the queue, unless it was lost too often, or to be cancelled anyway."""
    training.lost_attempts += 1
    training.owner = None
    if training.cancel_requested:
        service.end(session, training, "cancelled")
    elif training.lost_attempts >= settings.max_attempts:
        service.end(session, training, "failed", problem=_lost(training).to_problem())
    else:
        training.status, training.lease_expires_at, training.hinted_at = "queued", None, None


def take_stale_hints(session: Session, settings: Settings) -> list[tuple[str, str]]:
    """(public id, device) of queued trainings and of searches whose hint is due again; they count as hinted from now on."""
    now: datetime = database_now(session)
    stale, ahead = (
        now + sign * timedelta(seconds=settings.hint_seconds) for sign in (-1, 1)
    )  # further ahead: the clock was set back
    rows = session.execute(
        sa.update(Training)
        .where(
            sa.or_(Training.status == "queued", sa.and_(Training.status == "running", Training.searching)),
            sa.or_(Training.hinted_at.is_(None), ~Training.hinted_at.between(stale, ahead)),
        )
        .values(hinted_at=now)
        .returning(Training.public_id, Training.device_wanted)
        .execution_options(synchronize_session=False)
    )
    return [(public_id, device) for public_id, device in rows]


def _is_cuda_free(session: Session, settings: Settings) -> bool:
    """Whether a worker with CUDA is alive and holds fewer trainings than it could."""
    workers = [
        worker
        for worker in presence.list_workers(session, settings.sweep_seconds)
        if "cuda" in worker.devices and worker.owner and is_running(worker.owner) is not False
    ]
    if not workers:
        return False
    query = sa.select(Training.owner, sa.func.count()).where(Training.status == "running").group_by(Training.owner)
    held = dict(session.execute(query).all())
    return any(worker.slots > held.get(worker.owner, 0) for worker in workers)


def _lost(training: Training) -> WorkerLost:
    return WorkerLost(
        f"{training.lost_attempts} workers were lost while they ran this training (killed, out of memory, or cut off); "
        "see the workers' logs for this training_id, then train again, with fewer series or a smaller network if memory was short",
        attempts=training.lost_attempts,
    )
