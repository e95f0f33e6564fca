"""What the database knows of how the service does: the queue, the workers, the trainings that ended, the models that serve.

Every API process gives the same numbers, since rows are the truth; a worker has no port, what it does stands in its rows. Each query
is bounded by what waits, runs or is alive, or by a limit, never by how much was ever trained.
"""

import math
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
import sqlalchemy.exc
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString
from sqlalchemy.orm import Session

from app.database import Database, database_now
from app.queue import QUEUES
from app.registry.service import CHAMPION
from app.settings import Settings
from app.tables import (
    ENDED_STATUSES,
    TRAINING_STATUSES,
    Alias,
    Housekeeping,
    Model,
    Training,
    TrainingTotal,
    Version,
    Worker,
    Workspace,
)
from app.training import presence
from app.training.service import TOTAL_SECONDS

PATIENCE_SECONDS = 3.0
"""How long a scrape waits for the database before it says that it is away. Prometheus itself gives up after 10."""
LISTED_SECONDS = 900.0
"""How long a worker that died is still listed, so that an alert can name it."""
KEPT_TIMES = 20
"""So counting what ended takes at most a twentieth of a connection, however much there is and however often somebody asks."""
OPEN_STATUSES = tuple(sorted(set(TRAINING_STATUSES) - set(ENDED_STATUSES)))
MAX_WORKERS = 500
MAX_MODELS = 200
"""How many models are listed with their scores: those whose champion was set last."""


@dataclass(frozen=True)
class WorkerState:
    """A worker's row, the trainings it runs now, and the seconds since it was seen, by the database's clock."""

    row: Worker
    trainings: int
    seen_seconds: float


def read_queue(session: Session) -> dict[str, tuple[int, float]]:
    """{device: (how many trainings wait for it, seconds since the oldest was requested)}; 0 and 0 where none waits."""
    now = database_now(session)
    query = sa.select(Training.device_wanted, sa.func.count(), sa.func.min(Training.created_at))
    rows = session.execute(query.where(Training.status == "queued").group_by(Training.device_wanted))
    found = {device: (count, _seconds(now, oldest)) for device, count, oldest in rows}
    return {**dict.fromkeys(QUEUES, (0, 0.0)), **found}


def read_workers(session: Session, within_seconds: float) -> Sequence[WorkerState]:
    """The workers seen within so many seconds, by name."""
    now = database_now(session)
    running = sa.select(Training.owner, sa.func.count()).where(Training.status == "running").group_by(Training.owner)
    trainings = dict(session.execute(running).all())
    query = sa.select(Worker).where(Worker.seen_at > now - timedelta(seconds=within_seconds)).order_by(Worker.name)
    return [
        WorkerState(row, trainings.get(row.owner, 0) if row.owner else 0, _seconds(now, row.seen_at))
        for row in session.scalars(query.limit(MAX_WORKERS))
    ]


def read_alive_workers(session: Session, settings: Settings) -> Sequence[WorkerState]:
    return read_workers(session, settings.sweep_seconds * presence.SEEN_PAUSES)


def count_expired(session: Session) -> int:
    """Trainings that nobody renews the lease of and nobody brought back: 0 as long as a worker sweeps."""
    query = sa.select(sa.func.count()).select_from(Training)
    return session.execute(
        query.where(Training.status == "running", Training.lease_expires_at < database_now(session))
    ).scalar_one()


class DatabaseNumbers:
    """Reads them at each scrape, in a thread that the scrape does not wait for for ever; scrapes at the same time share one reading.

    Whoever asks about the trainings that ended is told what was counted a moment ago where counting takes long: it passes over all
    that ever were.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._lock = threading.Lock()
        self._readings: dict[int, Future[list[Metric]]] = {}
        self._ended: dict[int, tuple[float, dict[str, int]]] = {}

    def count_trainings(self, session: Session, workspace_id: int) -> dict[str, int]:
        """The workspace's trainings by status. What waits and runs is of now, what ended at most KEPT_TIMES as old as it took to count."""
        query = (
            sa.select(Training.status, sa.func.count()).where(Training.workspace_id == workspace_id).group_by(Training.status)
        )
        open_now = dict(session.execute(query.where(Training.status.in_(OPEN_STATUSES))).all())
        good_until, ended = self._ended.get(workspace_id, (0.0, {}))
        if (begin := time.monotonic()) >= good_until:
            ended = dict(session.execute(query.where(Training.status.in_(ENDED_STATUSES))).all())
            end = time.monotonic()
            self._ended[workspace_id] = end + KEPT_TIMES * (end - begin), ended
        return {**dict.fromkeys(TRAINING_STATUSES, 0), **ended, **open_now}

    def collect(self, workspace_id: int) -> list[Metric]:
        """The numbers of the whole service, and the scores of this workspace's models. Only `engram_database_up 0` if it is away."""
        up = GaugeMetricFamily("engram_database_up", "Whether the database answers: all below is missing if it does not.")
        try:
            metrics = self._read_once(workspace_id).result(PATIENCE_SECONDS)
        except (sqlalchemy.exc.SQLAlchemyError, TimeoutError):
            metrics = []
        up.add_metric([], 1 if metrics else 0)
        return [up, *metrics]

    def _read_once(self, workspace_id: int) -> "Future[list[Metric]]":
        with self._lock:
            reading = self._readings.get(workspace_id)
            if reading is None or reading.done():
                reading = self._readings[workspace_id] = Future()
                threading.Thread(target=self._read, args=(workspace_id, reading), name="scrape", daemon=True).start()
            return reading

    def _read(self, workspace_id: int, reading: "Future[list[Metric]]") -> None:
        try:
            with self._database.read() as session:
                metrics = list(collect(session, self._settings, workspace_id))
        except Exception as error:  # noqa: BLE001 - it is raised where the result is waited for
            reading.set_exception(error)
        else:
            reading.set_result(metrics)


def collect(session: Session, settings: Settings, workspace_id: int) -> Iterator[Metric]:
    """Everything, as Prometheus' families."""
    yield from _collect_queue(session)
    yield from _collect_workers(session, settings)
    yield _collect_ends(session)
    yield from _collect_models(session, workspace_id)


def _collect_queue(session: Session) -> Iterator[Metric]:
    depth = GaugeMetricFamily("engram_queue_depth", "Trainings that wait.", labels=["device"])
    oldest = GaugeMetricFamily("engram_queue_oldest_seconds", "Seconds that the oldest of them has waited.", labels=["device"])
    for device, (count, seconds) in read_queue(session).items():
        depth.add_metric([device], count)
        oldest.add_metric([device], seconds)
    yield depth
    yield oldest
    text = "Running trainings whose lease ran out and that nobody brought back yet."
    yield GaugeMetricFamily("engram_expired_leases", text, value=count_expired(session))


def _collect_workers(session: Session, settings: Settings) -> Iterator[Metric]:
    alive = GaugeMetricFamily("engram_workers", "Workers that are alive.", labels=["device"])
    seen = GaugeMetricFamily("engram_worker_seen_seconds", "Seconds since the worker was seen.", labels=["worker"])
    trainings = GaugeMetricFamily("engram_worker_trainings", "Trainings that the worker runs now.", labels=["worker"])
    info = GaugeMetricFamily("engram_worker_info", "1; what the worker is.", labels=["worker", "version", "devices"])
    states = read_workers(session, LISTED_SECONDS)
    for device in QUEUES[1:]:
        devices = [one.row.devices for one in states if one.seen_seconds < settings.sweep_seconds * presence.SEEN_PAUSES]
        alive.add_metric([device], sum(device in one for one in devices))
    for one in states:
        seen.add_metric([one.row.name], one.seen_seconds)
        trainings.add_metric([one.row.name], one.trainings)
        info.add_metric([one.row.name, one.row.code_version or "", ",".join(one.row.devices)], 1)
    yield from (alive, seen, trainings, info)
    schedulers = len(presence.list_schedulers(session, settings.sweep_seconds))
    yield GaugeMetricFamily("engram_schedulers", "Schedulers that are alive; workers do their work as well.", value=schedulers)
    kept = session.get(Housekeeping, 1)
    finished = kept.finished_at.timestamp() if kept is not None and kept.finished_at is not None else math.nan
    text = "When the last housekeeping ended, or NaN if it has not."
    yield GaugeMetricFamily("engram_housekeeping_timestamp_seconds", text, value=finished)


def _collect_ends(session: Session) -> Metric:
    """Counted where trainings end, in the same transaction, so that it is right whoever is asked and whatever was deleted."""
    text = "Seconds from a training's first claim to its end."
    family = HistogramMetricFamily("engram_training_seconds", text, labels=["status"])
    rows = {(row.status, row.at_most_seconds): row for row in session.scalars(sa.select(TrainingTotal))}
    for status in ENDED_STATUSES:
        count, seconds, buckets = 0, 0.0, []
        for bound in sorted({*TOTAL_SECONDS, *(found for found_status, found in rows if found_status == status)}):
            if (row := rows.get((status, bound))) is not None:
                count, seconds = count + row.count, seconds + row.seconds
            buckets.append((floatToGoString(bound), count))
        family.add_metric([status], buckets, seconds)
    return family


def _collect_models(session: Session, workspace_id: int) -> Iterator[Metric]:
    names = ["workspace", "model"]
    number = GaugeMetricFamily("engram_model_version", "Number of the version that serves.", labels=names)
    created = GaugeMetricFamily("engram_model_created_timestamp_seconds", "When that version was learned.", labels=names)
    skill = GaugeMetricFamily(
        "engram_model_skill", "1 - MASE / MASE of seasonal naive, in that version's backtest; 0 is no better.", labels=names
    )
    coverage = GaugeMetricFamily(
        "engram_model_coverage", "Share of its backtest's values inside the central interval.", labels=[*names, "level"]
    )
    for workspace, model, version, metrics, at in _read_champions(session, workspace_id):
        number.add_metric([workspace, model], version)
        created.add_metric([workspace, model], at.timestamp())
        skill.add_metric([workspace, model], _number(metrics.get("skill")))
        for level, share in ((metrics.get("backtest") or {}).get("coverage") or {}).items():
            coverage.add_metric([workspace, model, level], _number(share))
    yield from (number, created, skill, coverage)


def _read_champions(session: Session, workspace_id: int) -> Sequence[sa.Row[str, str, int, dict[str, Any], datetime]]:
    newest = (
        sa.select(Alias.model_id, Alias.version_id)
        .where(Alias.name == CHAMPION, Alias.workspace_id == workspace_id)
        .order_by(Alias.updated_at.desc())
        .limit(MAX_MODELS)
        .subquery()
    )
    query = (
        sa.select(Workspace.name, Model.name, Version.number, Version.metrics, Version.created_at)
        .select_from(newest)
        .join(Model, Model.id == newest.c.model_id)
        .join(Version, Version.id == newest.c.version_id)
        .join(Workspace, Workspace.id == Model.workspace_id)
    )
    return session.execute(query.order_by(Model.name)).all()


def _seconds(now: datetime, then: datetime) -> float:
    return max(0.0, (now - then).total_seconds())


def _number(value: object) -> float:
    """NaN, as Prometheus writes what is not known, where a backtest could not be made."""
    return float(value) if isinstance(value, (int, float)) else math.nan
