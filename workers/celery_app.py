"""Boots a worker: logging, devices, tasks, and the thread that says it is alive. The process never imports torch."""

import argparse
import os
import platform
import threading
import warnings
from pathlib import Path
from typing import Any

import sqlalchemy.exc
from celery import signals
from celery.exceptions import SecurityWarning

from app import queue
from app.database import Database
from app.lifeline import end_with_parent
from app.processes import name_process
from app.queue import Queue, make_celery
from app.settings import Settings
from app.telemetry import configure_logging, log
from app.tracing import configure_tracing
from app.training import claims
from app.training.execution import Executor
from workers import tasks


def main() -> None:
    """`python -m workers [--queues cpu,cuda] [--concurrency N] [--lifeline]`, which `engram worker` turns into."""
    parser = argparse.ArgumentParser(prog="engram worker")
    parser.add_argument("--queues", default=",".join(find_devices()))
    parser.add_argument("--concurrency", type=int)
    parser.add_argument("--lifeline", action="store_true")
    arguments = parser.parse_args()
    if arguments.lifeline:
        end_with_parent()
    run(Settings(), tuple(arguments.queues.split(",")), arguments.concurrency)


def run(settings: Settings, devices: tuple[str, ...], concurrency: int | None) -> None:
    """Works until SIGTERM; trainings under way are then handed back to the queue."""
    configure_logging(settings, "worker")
    configure_tracing("worker")
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.training_threads))  # for the children: read when torch loads
    name = f"{platform.node()}-{os.getpid()}"
    database = Database(settings.database_url)
    hints = Queue(settings)
    executor = Executor(database, settings, name_process(), devices)
    celery = make_celery(settings)
    tasks.register(celery, executor)

    @signals.setup_logging.connect(weak=False)
    def keep_our_logging(**_: Any) -> None:
        """Celery configures none when somebody listens here."""

    @signals.worker_ready.connect(weak=False)
    def begin(**_: Any) -> None:
        log.info("worker ready", worker=name, devices=devices)
        threading.Thread(target=_beat, args=(database, settings, hints, executor, name, devices), daemon=True).start()

    @signals.worker_shutting_down.connect(weak=False)
    def stop(**_: Any) -> None:
        """Celery would wait for ever for its threads: the supervisors put their trainings down."""
        executor.stopping.set()

    warnings.filterwarnings("ignore", category=SecurityWarning)  # of root's: nothing here unpickles what the broker sends
    celery.worker_main(
        [
            "--quiet",
            "worker",
            f"--concurrency={concurrency or settings.worker_concurrency}",
            f"--queues={','.join(['auto', *devices])}",
            f"--hostname={name}",
            *queue.WORKER_ARGUMENTS,
        ]
    )
    hints.close()
    database.close()


def find_devices() -> tuple[str, ...]:
    """What this machine can train on. The driver's device node is looked for: asking torch would load it here."""
    return ("cuda", "cpu") if Path("/dev/nvidiactl").exists() else ("cpu",)


def _beat(
    database: Database, settings: Settings, hints: Queue, executor: Executor, name: str, devices: tuple[str, ...]
) -> None:
    """Says that the worker is alive, and sweeps: each worker does, so that none has to be the one; twice does no harm."""
    while True:
        try:
            with database.write() as session:
                claims.register_worker(session, name, devices, executor.name)
                session.commit()
            tasks.sweep(database, settings, hints)
        except sqlalchemy.exc.SQLAlchemyError as error:
            log.warning("sweep missed: the database is away", error=str(error))
        if executor.stopping.wait(settings.sweep_seconds):
            return
