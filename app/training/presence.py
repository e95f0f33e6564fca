"""Who is there: workers and schedulers as rows, each seen again with every sweep of its own."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app import __version__
from app.database import database_now, utc_now
from app.tables import Scheduler, Worker

SEEN_PAUSES = 6
"""A part is alive if it was seen within this many of its own pauses."""


def register_worker(session: Session, name: str, devices: Sequence[str], owner: str, slots: int = 1) -> None:
    """Says that this worker is alive now; `owner` is what its claims carry, `slots` how many it can hold at once."""
    fields = {"owner": owner, "slots": slots, "code_version": __version__, "clock_at": utc_now()}
    _see(session, Worker, name, devices=list(devices), **fields)


def register_scheduler(session: Session, name: str) -> None:
    """Says that this scheduler is alive now."""
    _see(session, Scheduler, name)


def unregister(session: Session, part: type[Worker] | type[Scheduler], name: str) -> None:
    """Says that it has stopped, so that nobody waits until it has not been seen for long."""
    session.execute(sa.delete(part).where(part.name == name))


def list_workers(session: Session, pause_seconds: float) -> Sequence[Worker]:
    """The workers that are alive, by name."""
    return session.scalars(sa.select(Worker).where(Worker.seen_at > _since(session, pause_seconds)).order_by(Worker.name)).all()


def list_schedulers(session: Session, pause_seconds: float) -> Sequence[Scheduler]:
    """The schedulers that are alive, by name."""
    query = sa.select(Scheduler).where(Scheduler.seen_at > _since(session, pause_seconds))
    return session.scalars(query.order_by(Scheduler.name)).all()


def _since(session: Session, pause_seconds: float) -> datetime:
    return database_now(session) - timedelta(seconds=pause_seconds * SEEN_PAUSES)


def _see(session: Session, part: type[Worker] | type[Scheduler], name: str, **fields: Any) -> None:
    now = database_now(session)
    seen = sa.update(part).where(part.name == name).values(seen_at=now, **fields).returning(part.id)
    if session.scalar(seen.execution_options(synchronize_session=False)) is None:
        session.add(part(name=name, started_at=now, seen_at=now, **fields))
    session.flush()
