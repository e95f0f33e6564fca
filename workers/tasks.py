"""The one task, and the sweep: whoever hears a hint executes what is first in line, and what was lost is brought back."""

from celery import Celery

from app.database import Database
from app.queue import TRAIN_TASK, Queue
from app.settings import Settings
from app.telemetry import log
from app.training import claims
from app.training.execution import Executor


def register(celery: Celery, executor: Executor) -> None:
    """Gives the task its name in this process."""

    @celery.task(name=TRAIN_TASK)
    def train(training_id: str) -> None:
        log.debug("hint heard", training_id=training_id)
        while executor.execute():
            log.debug("looking for the next in line")


def sweep(database: Database, settings: Settings, queue: Queue) -> None:
    """Requeues trainings whose lease ran out, and sends hints that are due (again)."""
    with database.write() as session:
        claims.sweep(session, settings)
        hints = claims.take_stale_hints(session, settings)
        session.commit()
    for training_id, device in hints:
        queue.send(training_id, device)
