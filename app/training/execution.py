"""How a training is executed: claim, read, supervise, finish. No Celery here."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
from sqlalchemy.orm import Session

from app import faults, tracing
from app.database import Database
from app.datasets import service as datasets
from app.errors import EngramError
from app.lstm.config import Request
from app.lstm.windows import Series
from app.registry import service as registry
from app.settings import Settings
from app.tables import Dataset, Model, Training
from app.telemetry import log
from app.training import claims, searches, service
from app.training.claims import Claim
from app.training.supervision import DATABASE_AWAY, LOOK_SECONDS, Outcome, describe_crash, supervise


@dataclass(frozen=True)
class Work:
    """What the child gets, and what is needed to place its answer: the series behind each position."""

    series: Series
    request: Request
    champion: bytes | None
    state: bytes | None
    series_ids: list[int]
    first_steps: np.ndarray
    data: dict[str, Any]
    warnings: list[str]
    is_trial: bool


class Executor:
    """One worker's way to execute trainings, from several threads. `stopping` is set when the worker shuts down; `ring` is
    called with the id and device of each training that was queued here."""

    ring: Callable[[str, str], None]

    def __init__(self, database: Database, settings: Settings, name: str, devices: tuple[str, ...]) -> None:
        self.stopping = threading.Event()
        self._database = database
        self._settings = settings
        self.name = name
        self._devices = devices
        self.ring = lambda training_id, device: None

    def execute(self) -> str | None:
        """Executes the training that is first in line; its id, or None when none waits."""
        if self.stopping.is_set():
            return None
        for training_id, device in searches.advance(self._database, self._settings):
            self.ring(training_id, device)
        began_ns = time.time_ns()
        with self._database.write() as session:
            claim = claims.claim(session, self._settings, self.name, self._devices)
            faults.reach("claim.taken")
            session.commit()
        if claim is None:
            return None
        faults.reach("claim.committed")
        names = {"training_id": claim.public_id, "request_id": claim.request_id}
        with (
            structlog.contextvars.bound_contextvars(**names),
            tracing.follow("training", claim.traceparent, attempt=claim.attempt, **names),
        ):
            tracing.record("claim", began_ns)
            log.info("training started", attempt=claim.attempt)
            try:
                status = self._execute(claim)
            except DATABASE_AWAY as error:
                log.warning("training put down: the database is away; the lease will run out", error=str(error))
            except Exception as error:  # noqa: BLE001 - whatever it was, the training must not wait for its lease to run out
                log.exception("training failed unexpectedly", exc_info=error)
                self._finish(claim, None, Outcome("failed", describe_crash(error)), [])
            else:
                tracing.note(status=status)
                log.info("training ended", status=status)
        return claim.public_id

    def find_left_for_cuda(self) -> str | None:
        """The training that waits, and that this worker leaves to one with CUDA; None when there is none."""
        with self._database.read() as session:
            return claims.find_left_for_cuda(session, self._devices)

    def _execute(self, claim: Claim) -> str:
        progress: list[dict[str, Any]] = []
        work = None
        try:
            with tracing.span("read"), self._database.read() as session:
                work = self._read(session, claim)
            order = (work.series, work.request, work.champion, work.state, self._settings.checkpoint_seconds)
            with tracing.span("fit"):
                judge = searches.is_hopeless if work.is_trial else None
                outcome, progress = supervise(
                    self._database, self._settings, self.stopping, claim, order, {"data": work.data}, judge
                )
        except EngramError as error:
            outcome = Outcome("failed", error.to_problem())
        if outcome.kind == "failed":
            log.warning("training failed", problem=outcome.content)
        if outcome.kind == "killed":
            log.warning("training's process was killed", attempt=claim.attempt)
        with tracing.span("finish"):
            return self._finish(claim, work, outcome, progress)

    def _read(self, session: Session, claim: Claim) -> Work:
        """Everything the child needs, up to the frozen cutoff, as arrays."""
        training = session.get_one(Training, claim.training_id)
        dataset = session.get_one(Dataset, training.dataset_id)
        wanted, warnings = searches.resolve(session, training)
        is_trial = training.parent_id is not None
        if wanted["device"] == "auto" and "cuda" not in self._devices:
            wanted = {**wanted, "device": "cpu"}  # this worker was told to leave the machine's CUDA alone
        rows = datasets.select_series(session, dataset.id, wanted["series"], wanted["series_prefix"])
        values = datasets.read_for_training(session, [row.id for row in rows], training.cutoff_step)
        champion = None
        if wanted["promote"] == "if_better":
            serving = registry.find_alias(session, session.get_one(Model, training.model_id), registry.CHAMPION)
            champion = registry.read_artifact(session, serving.id) if serving is not None else None
        data = {
            "series": len(values.series_ids),
            "observations": int(np.count_nonzero(~np.isnan(values.values))),
            "cutoff": datasets.grid_of(dataset).to_labels(np.array([training.cutoff_step]))[0],
            "fingerprint": values.fingerprint,
        }
        state = service.find_state(session, claim.training_id, values.fingerprint) if claim.attempt > 1 else None
        if state is not None:
            log.info("training goes on from a checkpoint", step=state.step, left_by_attempt=state.attempt)
        return Work(
            series=Series(values.values, values.offsets),
            request=service.to_workshop_request(
                wanted, dataset, threads=self._settings.training_threads, backtest_only=is_trial
            ),
            champion=champion,
            state=state.data if state is not None else None,
            series_ids=values.series_ids,
            first_steps=values.first_steps,
            data=data,
            warnings=warnings,
            is_trial=is_trial,
        )

    def _finish(self, claim: Claim, work: Work | None, outcome: Outcome, progress: list[dict[str, Any]]) -> str:
        """Writes the outcome, all or nothing, and only while the lease is ours. Waits for a database that is away."""
        patience = time.monotonic() + self._settings.lease_seconds
        while outcome.kind != "lost":
            try:
                with self._database.write() as session:
                    ended = self._write_outcome(session, claim, work, outcome, progress)
                    faults.reach("finish.flushed")
                    session.commit()
                    faults.reach("finish.committed")
                    return ended
            except DATABASE_AWAY:
                if time.monotonic() > patience:
                    raise
                time.sleep(LOOK_SECONDS)
        return "lost"

    def _write_outcome(
        self, session: Session, claim: Claim, work: Work | None, outcome: Outcome, progress: list[dict[str, Any]]
    ) -> str:
        training = claims.lock(session, claim)
        if training is None:
            return "lost"
        service.append_events(session, training.id, training.workspace_id, "progress", progress)
        if outcome.kind == "stopped":
            if outcome.content:
                service.keep_state(session, training.id, training.workspace_id, claim.attempt, outcome.content)
            claims.hand_back(session, claim)
            return "queued"
        if outcome.kind == "killed":
            claims.put_back(session, self._settings, training)
            return training.status
        _end(session, training, work, outcome, progress)
        return training.status


def _end(session: Session, training: Training, work: Work | None, outcome: Outcome, progress: list[dict[str, Any]]) -> None:
    if outcome.kind == "cancelled" or training.cancel_requested:
        service.end(session, training, "cancelled")
    elif outcome.kind == "dropped":
        service.end(session, training, "cancelled", problem=searches.describe_drop())
    elif work is not None and outcome.kind == "done":
        if progress:
            training.progress = service.summarise(progress[-1], seconds=0.0)
        _register(session, training, work, outcome.content)
    else:
        service.end(session, training, "failed", problem=outcome.content)


def _register(session: Session, training: Training, work: Work, learned: dict[str, Any]) -> None:
    """The version and the training's end, in the transaction of the caller. A trial leaves its scores alone."""
    config, metrics, warnings = learned["config"], learned["metrics"], [*work.warnings, *learned["warnings"]]
    version = (
        None
        if work.is_trial
        else registry.register_version(
            session,
            training,
            artifact=learned["artifact"],
            result={"config": config, "data": work.data, "metrics": metrics, "warnings": warnings},
            windows=_place_windows(work, learned["backtest"]),
            promote=training.request["promote"],
        )
    )
    faults.reach("finish.registered")
    service.end(
        session,
        training,
        "succeeded",
        version_number=None if version is None else version.number,
        progress={**(training.progress or service.NO_PROGRESS), "fraction": 1.0, "eta_seconds": 0.0},
        device=config["device"],
        config=config,
        data=work.data,
        metrics=metrics,
        warnings=warnings,
    )


def _place_windows(work: Work, backtest: dict[str, np.ndarray] | None) -> list[registry.KeptWindow]:
    """The workshop counts series by position and cutoffs by observations seen; rows want ids and steps."""
    if backtest is None:
        return []
    return [
        registry.KeptWindow(
            series_id=work.series_ids[position],
            cutoff_step=int(work.first_steps[position]) + int(backtest["cutoff"][index]) - 1,
            actual=backtest["actual"][index],
            quantiles=backtest["quantiles"][index],
        )
        for index, position in enumerate(backtest["series"].tolist())
    ]
