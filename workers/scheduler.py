"""The scheduler: Celery's beat. It sweeps and keeps house where no worker is there to do so, as when they are scaled to nothing."""

import logging
import os
import platform
import threading
from typing import Any

import sqlalchemy.exc
from celery import beat

from app.database import Database
from app.lifeline import on_stop
from app.processes import name_process
from app.queue import Queue, make_celery
from app.settings import Settings, read_settings
from app.tables import Scheduler
from app.telemetry import configure_logging, log
from app.training import presence
from workers import tasks

SWEEP_TASK = "engram.sweep"
HOUSEKEEPING_TASK = "engram.housekeeping"
TICK_SECONDS = 1.0
"""The longest that a stop is not heard."""


class Beat(beat.Scheduler):
    """Does what is due in this process, each task in a thread of its own and never twice at once.

    Messages would wait behind trainings, and for a broker, which neither task needs (docs/decisions/0011).
    """

    producer = None  # Celery's connects to the broker

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._running: dict[str, threading.Thread] = {}
        super().__init__(*args, **kwargs)

    def apply_async(self, entry: Any, producer: object = None, advance: bool = True, **_: object) -> None:
        running = self._running.get(entry.task)
        if running is None or not running.is_alive():
            self._running[entry.task] = threading.Thread(target=self.app.tasks[entry.task], name=entry.task, daemon=True)
            self._running[entry.task].start()

    def close(self) -> None:
        """What is under way hears of the stop between two steps."""
        for thread in self._running.values():
            thread.join(self.app.conf.engram_grace_seconds)
        super().close()


def main() -> None:
    """`python -m workers --scheduler`, which `engram scheduler` turns into."""
    run(read_settings())


def run(settings: Settings) -> None:
    """Works until SIGTERM. Any number of schedulers may run: sweeps are fenced by rows, and housekeeping is claimed in one."""
    configure_logging(settings, "scheduler")
    logging.getLogger("celery.beat").setLevel(logging.WARNING)  # it has a line for every sweep
    name, owner, stopping = f"{platform.node()}-{os.getpid()}", name_process(), threading.Event()
    database = Database(settings.database_url)
    on_stop(stopping.set)
    if not tasks.wait_for_schema(database, stopping):
        return
    hints = Queue(settings)
    celery = make_celery(settings)
    celery.conf.engram_grace_seconds = settings.grace_seconds / 2

    @celery.task(name=SWEEP_TASK)
    def sweep() -> None:
        try:
            with database.write() as session:
                presence.register_scheduler(session, name)
                session.commit()
            tasks.sweep(database, settings, hints)
        except sqlalchemy.exc.SQLAlchemyError as error:
            log.warning("sweep missed: the database is away", error=str(error))

    @celery.task(name=HOUSEKEEPING_TASK)
    def keep_house() -> None:
        tasks.keep_house(database, settings, owner, stopping)

    celery.conf.beat_schedule = {
        "sweep": {"task": SWEEP_TASK, "schedule": settings.sweep_seconds},
        "housekeeping": {"task": HOUSEKEEPING_TASK, "schedule": tasks.HOUSEKEEPING_LOOK_SECONDS},
    }
    service = beat.Service(celery, max_interval=TICK_SECONDS, scheduler_cls=Beat)

    def stop() -> None:
        stopping.set()
        service.stop()

    on_stop(stop)
    sweep()  # beat waits one pause before the first
    log.info("scheduler ready", scheduler=name)
    keep_house()
    if not stopping.is_set():
        service.start()
    tasks.leave(database, Scheduler, name)
    hints.close()
    database.close()
    log.info("scheduler stopped")
