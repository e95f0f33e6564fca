"""What is done again and again: a training when its bell rings, the sweep that brings back what was lost, the housekeeping."""

import threading
from collections.abc import Sequence

import sqlalchemy.exc
from celery import Celery

import migrations
from app import housekeeping
from app.database import Database
from app.queue import TRAIN_TASK, Queue
from app.settings import Settings
from app.tables import Scheduler, Worker
from app.telemetry import log
from app.training import claims, presence
from app.training.execution import Executor
from app.training.supervision import LOOK_SECONDS

SCHEMA_SECONDS = 2.0
HOUSEKEEPING_LOOK_SECONDS = 60.0
"""Between two looks whether housekeeping is due."""


def register(celery: Celery, executor: Executor, hints: Queue) -> None:
    """Gives the task its name in this process."""
    executor.ring = hints.send

    @celery.task(name=TRAIN_TASK)
    def train(training_id: str) -> None:
        log.debug("hint heard", training_id=training_id)
        left = None
        while not executor.stopping.is_set():
            if executor.execute() is not None:
                continue
            last, left = left, executor.find_left_for_cuda()
            if left is None:
                return
            if left != last:
                hints.send(left, "cuda")  # the bell that this worker heard was the only one
            executor.stopping.wait(LOOK_SECONDS)  # if no CUDA worker takes it after all, this one does


def sweep(database: Database, settings: Settings, queue: Queue) -> None:
    """Requeues trainings whose lease ran out, and sends hints that are due (again)."""
    with database.write() as session:
        claims.sweep(session, settings)
        hints = claims.take_stale_hints(session, settings)
        session.commit()
    for training_id, device in hints:
        queue.send(training_id, device, again=True)


def ring_first(database: Database, hints: Queue, devices: Sequence[str]) -> None:
    """A worker's own bell at its start: hints that were sent before may be lost, and are not due again for a while."""
    with database.read() as session:
        waiting = claims.find_waiting(session, devices)
    if waiting is not None:
        hints.send(*waiting, again=True)


def keep_house(database: Database, settings: Settings, owner: str, stopping: threading.Event) -> None:
    """Looks whether housekeeping is due, and does it. Every worker and scheduler looks, so that none has to be the one."""
    try:
        housekeeping.keep_house(database, settings, owner, stopping)
    except sqlalchemy.exc.SQLAlchemyError as error:
        log.warning("housekeeping broken off; it is done again when it is due", error=str(error))


def wait_for_schema(database: Database, stopping: threading.Event) -> bool:
    """Waits until the database is there and its schema is one that this code can work with. False: told to stop before."""
    while not stopping.is_set():
        try:
            if migrations.is_usable(database):
                return True
            reason = (
                f"its schema is at {migrations.current(database)}, this version's at {migrations.head()}: run `engram migrate`"
            )
        except sqlalchemy.exc.SQLAlchemyError as error:
            reason = str(error)
        log.warning("waiting for the database", reason=reason)
        stopping.wait(SCHEMA_SECONDS)
    return False


def leave(database: Database, part: type[Worker] | type[Scheduler], name: str) -> None:
    """Takes the row of a part that stops away, so that nobody counts on it until it has not been seen for long."""
    try:
        with database.write() as session:
            presence.unregister(session, part, name)
            session.commit()
    except sqlalchemy.exc.SQLAlchemyError as error:
        log.warning("stopped without a word: the database is away", error=str(error))
