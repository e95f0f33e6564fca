"""Stays with the child of one training: starts it, takes its messages, beats for its lease, and stops it when it has to end."""

import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal

import sqlalchemy.exc

from app.database import Database
from app.errors import OutOfMemory, TimeLimitReached, TrainingFailed
from app.settings import Settings
from app.telemetry import log
from app.training import child, claims, service
from app.training.claims import Claim

LOOK_SECONDS = 1.0
"""Between two looks at cancel, shut-down and the lease: cancel works within two of them."""
PRELOADED = ["torch", "app.lstm.learning", "app.training.child"]
DATABASE_AWAY = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)


@dataclass(frozen=True)
class Outcome:
    """How a supervised child ended. `lost`: the training is no longer ours, and nothing may be written."""

    kind: Literal["done", "failed", "cancelled", "stopped", "lost"]
    content: dict[str, Any] = field(default_factory=dict)


def supervise(
    database: Database, settings: Settings, stopping: threading.Event, claim: Claim, order: object, fields: dict[str, Any]
) -> tuple[Outcome, list[dict[str, Any]]]:
    """Has a fresh child carry out `order`; the outcome, and the progress that is not yet written.

    `fields` are written to the training's row with the first heartbeat. No transaction is open while the child learns.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(PRELOADED)
    ours, theirs = processes.Pipe()
    process = processes.Process(target=child.run, args=(theirs,), daemon=True)
    with _beating(database, settings, claim):
        process.start()
    theirs.close()
    threading.Thread(target=_send, args=(ours, order), daemon=True).start()  # a child that hangs must not hang us
    watch = _Watch(database, settings, stopping, claim, fields)
    try:
        return watch.run(ours, process), watch.unwritten
    finally:
        process.kill()
        process.join()
        ours.close()


@contextmanager
def _beating(database: Database, settings: Settings, claim: Claim) -> Iterator[None]:
    """Keeps the lease while a worker's first child waits for the forkserver: torch from a cold disk may take longer than a lease."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(LOOK_SECONDS):
            with suppress(*DATABASE_AWAY), database.write() as session:
                claims.beat(session, settings, claim)
                session.commit()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class _Watch:
    """Takes the child's messages, and once a second writes progress, renews the lease and looks for a reason to stop."""

    def __init__(
        self, database: Database, settings: Settings, stopping: threading.Event, claim: Claim, fields: dict[str, Any]
    ) -> None:
        self.unwritten: list[dict[str, Any]] = []
        self._database = database
        self._settings = settings
        self._stopping = stopping
        self._claim = claim
        self._fields = fields
        self._started = time.monotonic()
        self._leased_until = self._started + settings.lease_seconds

    def run(self, connection: Connection, process: BaseProcess) -> Outcome:
        next_look = 0.0
        while True:
            if connection.poll(max(0.0, min(LOOK_SECONDS, next_look - time.monotonic()))):
                try:
                    kind, content = connection.recv()
                except (EOFError, OSError):
                    return Outcome("failed", _describe_death(process))
                if kind == "progress":
                    self.unwritten.append({**content, "attempt": self._claim.attempt})
                elif kind == "crashed":
                    log.error("training crashed", traceback=content)
                    return Outcome("failed", describe_crash(content.strip().splitlines()[-1]))
                else:
                    return Outcome(kind, content)
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + LOOK_SECONDS
                if (outcome := self._look()) is not None:
                    return outcome

    def _look(self) -> Outcome | None:
        now = time.monotonic()
        if self._stopping.is_set():
            return Outcome("stopped")
        if now - self._started > self._settings.max_training_seconds:
            return Outcome("failed", _describe_limit(self._settings.max_training_seconds))
        try:
            cancel = self._write_progress(now)
        except DATABASE_AWAY as error:
            log.warning("heartbeat missed: the database is away", error=str(error))
            return Outcome("lost") if now > self._leased_until else None
        if cancel is None:
            return Outcome("lost")
        self._leased_until = now + self._settings.lease_seconds
        self.unwritten = []
        return Outcome("cancelled") if cancel else None

    def _write_progress(self, now: float) -> bool | None:
        if self.unwritten:
            self._fields["progress"] = service.summarise(self.unwritten[-1], seconds=now - self._started)
        with self._database.write() as session:
            cancel = claims.beat(session, self._settings, self._claim, **self._fields)
            if cancel is not None:
                claim = self._claim
                service.append_events(session, claim.training_id, claim.workspace_id, "progress", self.unwritten)
            session.commit()
        return cancel


def _send(connection: Connection, order: object) -> None:
    try:
        connection.send(order)
    except OSError:
        log.debug("the child ended before it had read its order")


def _describe_death(process: BaseProcess) -> dict[str, Any]:
    process.join(LOOK_SECONDS)
    if process.exitcode == -9:
        return OutOfMemory(
            "the training's process was killed, most likely because the machine ran out of memory; "
            "train on fewer series, with a smaller batch_size or hidden_size, or on a larger machine"
        ).to_problem()
    return TrainingFailed(
        f"the training's process ended with exit code {process.exitcode} and no word; the worker's log may say more; train again"
    ).to_problem()


def describe_crash(error: object) -> dict[str, Any]:
    """The problem of a training that met an error nobody foresaw."""
    return TrainingFailed(
        f"an unexpected error in the training: {error}; the worker's log has it whole under this training_id"
    ).to_problem()


def _describe_limit(seconds: float) -> dict[str, Any]:
    return TimeLimitReached(
        f"the training reached the limit of {seconds:g} s of wall time (ENGRAM_MAX_TRAINING_SECONDS); "
        "give it a smaller budget (fit.max_seconds, fit.max_steps) or raise the limit",
        max_training_seconds=seconds,
    ).to_problem()
