"""Stays with the child of one training: starts it, takes its messages, beats for its lease, and stops it when it has to end."""

import math
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import sqlalchemy.exc
from sqlalchemy.orm import Session

from app import faults
from app.database import Database
from app.errors import OutOfMemory, TimeLimitReached, TrainingFailed
from app.settings import Settings
from app.telemetry import log
from app.training import child, claims, service
from app.training.claims import Claim

LOOK_SECONDS = 1.0
"""Between two looks at cancel, shut-down and the lease: cancel works within two of them."""
STATE_SHARE = 0.25
"""Of the grace time: how long a child is waited for that is to say where it stands before its worker stops."""
PRELOADED = ["app.training.preloaded"]
FORKSERVER_LOST = 255
"""What multiprocessing takes for a child's exit code where the forkserver, which would know, was killed."""
KERNEL_COUNTS = Path("/proc/vmstat")
DATABASE_AWAY = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)

Judge = Callable[[Session, int], bool]
"""Whether the training of this id is not worth its end."""


@dataclass(frozen=True)
class Outcome:
    """How a supervised child ended. `dropped`: it is not worth its end; `lost`: the training is no longer ours, and nothing may be
    written. `killed`: by somebody, for no reason of its own. `stopped`: with its worker; the content is its state, if it had one to give."""

    kind: Literal["done", "failed", "cancelled", "dropped", "stopped", "killed", "lost"]
    content: dict[str, Any] = field(default_factory=dict)


def supervise(
    database: Database,
    settings: Settings,
    stopping: threading.Event,
    claim: Claim,
    order: object,
    fields: dict[str, Any],
    judge: Judge | None = None,
) -> tuple[Outcome, list[dict[str, Any]]]:
    """Has a fresh child carry out `order`; the outcome, and the progress that is not yet written.

    `fields` are written to the training's row with the first heartbeat; `judge` is asked after each validation loss. No transaction is open while the child learns.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(PRELOADED)
    ours, theirs = processes.Pipe()
    process = processes.Process(target=child.run, args=(theirs, settings.max_training_bytes), daemon=True)
    try:
        with _beating(database, settings, claim):
            process.start()
    except (OSError, EOFError) as error:
        log.warning("the training's process did not start: the forkserver was killed; it is tried again", error=str(error))
        return Outcome("killed"), []
    theirs.close()
    sender = threading.Thread(target=_send, args=(ours, order), daemon=True)  # a child that hangs must not hang us
    sender.start()
    watch = _Watch(database, settings, stopping, claim, fields, judge)
    try:
        return watch.run(ours, process, sender), watch.unwritten
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
        self,
        database: Database,
        settings: Settings,
        stopping: threading.Event,
        claim: Claim,
        fields: dict[str, Any],
        judge: Judge | None,
    ) -> None:
        self._judge = judge
        self.unwritten: list[dict[str, Any]] = []
        self._database = database
        self._settings = settings
        self._stopping = stopping
        self._claim = claim
        self._fields = fields
        self._state: dict[str, Any] | None = None
        self._kills = count_memory_kills()
        self._peak_bytes = 0
        self._stop_at = math.inf
        self._started = time.monotonic()
        self._leased_until = self._started + settings.lease_seconds

    def run(self, connection: Connection, process: BaseProcess, sender: threading.Thread) -> Outcome:
        next_look = 0.0
        while True:
            if connection.poll(max(0.0, min(LOOK_SECONDS, next_look - time.monotonic()))):
                try:
                    kind, content = connection.recv()
                except (EOFError, OSError):
                    return self._judge_death(process)
                if kind == "state":
                    if self._stop_at < math.inf:
                        return Outcome("stopped", content)
                    self._state = content
                elif kind == "progress":
                    self.unwritten.append({**content, "attempt": self._claim.attempt})
                elif kind == "crashed":
                    log.error("training crashed", traceback=content)
                    return Outcome("failed", describe_crash(content.strip().splitlines()[-1]))
                else:
                    return Outcome(kind, content)
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + LOOK_SECONDS
                if self._stopping.is_set() and self._stop_at == math.inf:
                    self._stop_at = time.monotonic() + self._settings.grace_seconds * STATE_SHARE
                    if not sender.is_alive():
                        _send(connection, "where do you stand?")
                if (outcome := self._look(process)) is not None:
                    return outcome

    def _look(self, process: BaseProcess) -> Outcome | None:
        now = time.monotonic()
        if now >= self._stop_at:
            return Outcome("stopped", self._state or {})
        self._peak_bytes = max(self._peak_bytes, read_peak_bytes(process.pid))
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
        written, self.unwritten, self._state = self.unwritten, [], None
        if cancel:
            return Outcome("cancelled")
        return Outcome("dropped") if self._is_hopeless(written) else None

    def _is_hopeless(self, written: list[dict[str, Any]]) -> bool:
        if self._judge is None or all(one["validation_loss"] is None for one in written):
            return False
        try:
            with self._database.read() as session:
                return self._judge(session, self._claim.training_id)
        except DATABASE_AWAY:
            return False

    def _judge_death(self, process: BaseProcess) -> Outcome:
        """The kernel's kills for want of memory are the training's own fault, and would come again; others are nobody's."""
        process.join(LOOK_SECONDS)
        if process.exitcode not in (-signal.SIGKILL, FORKSERVER_LOST):
            detail = f"the training's process ended with exit code {process.exitcode} and no word; the worker's log may say more; train again"
            return Outcome("failed", TrainingFailed(detail).to_problem())
        if self._kills is not None and count_memory_kills() == self._kills:
            return Outcome("killed")
        problem = OutOfMemory(
            f"the training's process was killed because memory ran out, with {self._peak_bytes / 2**20:.0f} MiB in use when it was "
            "looked at last; train on fewer series, with a smaller batch_size or hidden_size, or on a larger machine",
            peak_bytes=self._peak_bytes,
        )
        return Outcome("failed", problem.to_problem())

    def _write_progress(self, now: float) -> bool | None:
        if self.unwritten:
            self._fields["progress"] = service.summarise(self.unwritten[-1], seconds=now - self._started)
        with self._database.write() as session:
            cancel = claims.beat(session, self._settings, self._claim, **self._fields)
            if cancel is not None:
                claim = self._claim
                service.append_events(session, claim.training_id, claim.workspace_id, "progress", self.unwritten)
                if self._state is not None:
                    service.keep_state(session, claim.training_id, claim.workspace_id, claim.attempt, self._state)
            faults.reach("beat.written")
            session.commit()
        return cancel


def _send(connection: Connection, order: object) -> None:
    try:
        connection.send(order)
    except OSError:
        log.debug("the child ended before it had read its order")


def count_memory_kills() -> int | None:
    """How many processes the kernel has killed for want of memory since it started; None where it does not say."""
    with suppress(OSError, StopIteration, ValueError):
        lines = KERNEL_COUNTS.read_text().splitlines()
        return int(next(line for line in lines if line.startswith("oom_kill ")).split()[1])
    return None


def read_peak_bytes(pid: int | None) -> int:
    """The most memory that the process has had at once; 0 where nothing says so."""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    return 0


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
