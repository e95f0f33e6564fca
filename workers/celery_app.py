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
from app.lifeline import end_at_once_on_signal, end_with_parent, on_stop
from app.processes import name_process
from app.queue import Queue, make_celery
from app.settings import Settings, read_settings
from app.tables import Worker
from app.telemetry import configure_logging, log
from app.tracing import configure_tracing
from app.training import presence
from app.training.execution import Executor
from workers import tasks

DEVICES = ("cpu", "cuda")
STOP_SECONDS = 2.0
"""How long a sweep or a step of the housekeeping under way is waited for."""


def main() -> None:
    """`python -m workers [--queues cpu,cuda] [--concurrency N] [--lifeline]`, which `engram worker` turns into."""
    parser = argparse.ArgumentParser(prog="engram worker")
    parser.add_argument("--queues", type=parse_devices, default=find_devices())
    parser.add_argument("--concurrency", type=int)
    parser.add_argument("--lifeline", action="store_true")
    arguments = parser.parse_args()
    if arguments.lifeline:
        end_with_parent()
    settings = read_settings()
    run(settings, arguments.queues, arguments.concurrency or settings.worker_concurrency)


def run(settings: Settings, devices: tuple[str, ...], slots: int) -> None:
    """Works until SIGTERM, on up to `slots` trainings at once; those under way are then handed back to the queue."""
    configure_logging(settings, "worker")
    configure_tracing("worker")
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.training_threads))  # for the children: read when torch loads
    name = f"{platform.node()}-{os.getpid()}"
    database = Database(settings.database_url)
    waiting = threading.Event()
    on_stop(waiting.set)
    if not tasks.wait_for_schema(database, waiting):
        return
    hints = Queue(settings)
    executor = Executor(database, settings, name_process(), devices)
    celery = make_celery(settings)
    tasks.register(celery, executor, hints)
    threads = [
        threading.Thread(target=_beat, args=(database, settings, hints, executor, name, devices, slots), daemon=True),
        threading.Thread(target=_keep_house, args=(database, settings, executor), daemon=True),
    ]

    @signals.setup_logging.connect(weak=False)
    def keep_our_logging(**_: Any) -> None:
        """Celery configures none when somebody listens here."""

    @signals.worker_ready.connect(weak=False)
    def begin(**_: Any) -> None:
        log.info("worker ready", worker=name, devices=devices, slots=slots)
        for thread in threads:
            thread.start()

    @signals.worker_shutting_down.connect(weak=False)
    def stop(**_: Any) -> None:
        """Celery would wait for ever for its threads: the supervisors put their trainings down."""
        end_at_once_on_signal()
        executor.stopping.set()

    warnings.filterwarnings("ignore", category=SecurityWarning)  # of root's: nothing here unpickles what the broker sends
    celery.Worker(hostname=name, concurrency=slots, queues=["auto", *devices], **queue.WORKER_OPTIONS).start()
    for thread in threads:
        if thread.ident is not None:
            thread.join(STOP_SECONDS)
    tasks.leave(database, Worker, name)
    hints.close()
    database.close()
    log.info("worker stopped", worker=name)


def parse_devices(text: str) -> tuple[str, ...]:
    """Of `--queues`: the queue of each device, and `auto` beside them, which every worker hears."""
    devices = tuple(dict.fromkeys(text.split(",")))
    unknown = [name for name in devices if name not in DEVICES]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"expected cpu, cuda or both (cpu,cuda), found {unknown[0]!r}; `auto` is heard by every worker"
        )
    return devices


def find_devices() -> tuple[str, ...]:
    """What this machine can train on. The driver's device node is looked for: asking torch would load it here."""
    return ("cuda", "cpu") if Path("/dev/nvidiactl").exists() else ("cpu",)


def _beat(
    database: Database, settings: Settings, hints: Queue, executor: Executor, name: str, devices: tuple[str, ...], slots: int
) -> None:
    """Says that the worker is alive, and sweeps: each worker does, so that none has to be the one; twice does no harm."""
    has_rung = False
    while True:
        try:
            if not has_rung:
                tasks.ring_first(database, hints, devices)
                has_rung = True
            with database.write() as session:
                presence.register_worker(session, name, devices, executor.name, slots)
                session.commit()
            tasks.sweep(database, settings, hints)
        except sqlalchemy.exc.SQLAlchemyError as error:
            log.warning("sweep missed: the database is away", error=str(error))
        if executor.stopping.wait(settings.sweep_seconds):
            return


def _keep_house(database: Database, settings: Settings, executor: Executor) -> None:
    while not executor.stopping.is_set():
        tasks.keep_house(database, settings, executor.name, executor.stopping)
        executor.stopping.wait(tasks.HOUSEKEEPING_LOOK_SECONDS)
