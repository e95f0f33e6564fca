"""What grows for ever unless somebody removes it: old versions, events, keys and rows of parts that are gone; and free space in SQLite's files.

Whoever looks first when it is due does it, so that any number of workers and schedulers may look. Everything goes in small
transactions with a pause between them: nobody who writes meanwhile waits for long, and a stop is heard.
"""

import sqlite3
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app import audit, sqlite_broker
from app.contract import KEPT_KEYS
from app.database import Database, database_now, tidy_sqlite
from app.registry import service as registry
from app.settings import Settings
from app.tables import Housekeeping, IdempotencyKey, Scheduler, Worker
from app.telemetry import log
from app.training import service as training

ROWS_AT_ONCE = 500
VERSIONS_AT_ONCE = 10
"""Each takes its artifact along and its kept backtest, of up to 200 series a cutoff."""
PAUSE_SECONDS = 0.05
LATE = timedelta(minutes=1)
"""Who waited for the row of another that began meanwhile comes with a time before that one's: no clock was set back for it."""
KEPT_PARTS = timedelta(hours=24)
"""The row of a worker or scheduler that was killed: long enough to be asked about, and alerted on."""


def keep_house(database: Database, settings: Settings, owner: str, stopping: threading.Event) -> dict[str, int] | None:
    """Removes what is old, if that is due and nobody else is at it; how much of each, which its row then says too. None: not due."""
    started_at = _claim(database, settings, owner)
    if started_at is None:
        return None
    removed = {name: _repeat(database, settings, remove, stopping) for name, remove in STEPS.items()}
    removed["bytes"] = _tidy(database, settings)
    if stopping.is_set():
        return removed  # not finished: its row says so
    with database.write() as session:
        now = database_now(session)
        ours = sa.and_(Housekeeping.owner == owner, Housekeeping.started_at == started_at)
        session.execute(sa.update(Housekeeping).where(ours).values(finished_at=now, removed=removed))
        session.commit()
    log.info("house kept", seconds=round((now - started_at).total_seconds(), 3), **removed)
    return removed


def _claim(database: Database, settings: Settings, owner: str) -> datetime | None:
    """When our turn began; None if the last one began too recently. Looks before it asks for SQLite's write lock."""
    with database.read() as session:
        if session.scalar(sa.select(Housekeeping.id).where(_is_due(session, settings))) is None:
            return None
    with database.write() as session:
        now = database_now(session)
        taken = session.scalar(
            sa.update(Housekeeping)
            .where(_is_due(session, settings))  # in the statement itself: who had to wait for the row looks at it again
            .values(owner=owner, started_at=now, finished_at=None)
            .returning(Housekeeping.id)
            .execution_options(synchronize_session=False)
        )
        session.commit()
    return None if taken is None else now


def _is_due(session: Session, settings: Settings) -> sa.ColumnElement[bool]:
    now = database_now(session)
    before = now - timedelta(seconds=settings.housekeeping_seconds)
    is_ahead = Housekeeping.started_at > now + LATE  # the clock was set back since
    return sa.or_(Housekeeping.started_at.is_(None), Housekeeping.started_at < before, is_ahead)


def _repeat(
    database: Database, settings: Settings, remove: Callable[[Session, Settings], int], stopping: threading.Event
) -> int:
    """Batch after batch, each its own transaction, until one finds nothing."""
    total = 0
    while not stopping.is_set():
        with database.write() as session:
            count = remove(session, settings)
            session.commit()
        total += count
        if not count:
            break
        stopping.wait(PAUSE_SECONDS)
    return total


def _remove_versions(session: Session, settings: Settings) -> int:
    return registry.remove_old_versions(session, kept=settings.kept_versions, limit=VERSIONS_AT_ONCE)


def _remove_events(session: Session, settings: Settings) -> int:
    before = database_now(session) - timedelta(days=settings.kept_event_days)
    return training.remove_progress(session, finished_before=before, limit=ROWS_AT_ONCE)


def _remove_keys(session: Session, settings: Settings) -> int:
    old = sa.select(IdempotencyKey.id).where(IdempotencyKey.created_at < database_now(session) - KEPT_KEYS)
    return _delete(session, IdempotencyKey, old)


def _remove_workers(session: Session, settings: Settings) -> int:
    return _delete(session, Worker, sa.select(Worker.id).where(Worker.seen_at < database_now(session) - KEPT_PARTS))


def _remove_schedulers(session: Session, settings: Settings) -> int:
    return _delete(session, Scheduler, sa.select(Scheduler.id).where(Scheduler.seen_at < database_now(session) - KEPT_PARTS))


def _delete(session: Session, table: Any, old: sa.Select[int]) -> int:
    statement = sa.delete(table).where(table.id.in_(old.limit(ROWS_AT_ONCE))).returning(table.id)
    return len(session.scalars(statement.execution_options(synchronize_session=False)).all())


def _remove_audit(session: Session, settings: Settings) -> int:
    before = database_now(session) - timedelta(days=settings.kept_audit_days)
    return audit.remove_entries(session, written_before=before, limit=ROWS_AT_ONCE)


STEPS: dict[str, Callable[[Session, Settings], int]] = {
    "versions": _remove_versions,
    "events": _remove_events,
    "idempotency_keys": _remove_keys,
    "workers": _remove_workers,
    "schedulers": _remove_schedulers,
    "audit_entries": _remove_audit,
}


def _tidy(database: Database, settings: Settings) -> int:
    """The bytes that SQLite's files gave back. PostgreSQL looks after itself, and Redis has nothing of the kind."""
    paths = [database.sqlite_path, sqlite_broker.find_path(settings.broker_url) if settings.is_queue_embedded else None]
    freed = 0
    for path in paths:
        if path is not None and path.exists():
            try:
                freed += tidy_sqlite(path)
            except sqlite3.OperationalError as error:
                log.warning("a file is in use; it is tidied with the next housekeeping", path=str(path), error=str(error))
    return freed
