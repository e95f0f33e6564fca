"""What whoever runs the service asks: is it alive, is it ready, how does it do."""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

import sqlalchemy.exc
from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from pydantic import BaseModel

import migrations
from app import __version__
from app.dependencies import DatabaseNeeded, GateNeeded, ReadCaller, ReadSession, SettingsNeeded
from app.monitoring import DatabaseNumbers, read_alive_workers, read_queue
from app.problems import KEY_RESPONSES
from app.queue import broker_reachable
from app.tables import Housekeeping
from app.telemetry import collect_numbers
from app.training import presence

router = APIRouter(tags=["operation"])


def get_numbers(request: Request) -> DatabaseNumbers:
    numbers: DatabaseNumbers = request.app.state.numbers
    return numbers


NumbersNeeded = Annotated[DatabaseNumbers, Depends(get_numbers)]


class WorkerOutput(BaseModel):
    """`version` is null for a worker too old to say it; `trainings` are those that it runs now."""

    name: str
    devices: list[str]
    version: str | None
    trainings: int
    started_at: datetime
    seen_at: datetime


class QueueOutput(BaseModel):
    """How many trainings wait for this device (`auto`: for any), and since when the oldest does; 0 if none waits."""

    device: str
    depth: int
    oldest_seconds: float


class SchedulerOutput(BaseModel):
    name: str
    started_at: datetime
    seen_at: datetime


class HousekeepingOutput(BaseModel):
    """The last one: `finished_at` is null while it is at work, or if it was broken off; `removed` is of the last that finished."""

    started_at: datetime | None
    finished_at: datetime | None
    removed: dict[str, int] | None


class SystemOutput(BaseModel):
    version: str
    database: str
    broker: str
    revision: str | None
    devices: list[str]
    workers: list[WorkerOutput]
    schedulers: list[SchedulerOutput]
    housekeeping: HousekeepingOutput
    trainings: dict[str, int]
    queue_depth: int
    queues: list[QueueOutput]


@router.get("/openapi.json", include_in_schema=False)
def get_document(request: Request, gate: GateNeeded) -> JSONResponse:
    """What this very service takes: while it is open, a key may be left out. The database away, it says what holds with keys."""
    document = request.app.openapi()
    try:
        is_open = gate.is_open()
    except sqlalchemy.exc.SQLAlchemyError:
        is_open = False
    return JSONResponse(make_keys_optional(document) if is_open else document)


def make_keys_optional(document: dict[str, Any]) -> dict[str, Any]:
    """The same OpenAPI document with an empty requirement beside each operation's key, which is how it says that none is needed."""
    paths = {
        path: {
            method: {**operation, "security": [{}, *operation["security"]]} if "security" in operation else operation
            for method, operation in operations.items()
        }
        for path, operations in document["paths"].items()
    }
    return {**document, "paths": paths}


@router.get("/health/live")
def get_live() -> dict[str, str]:
    """The process answers."""
    return {"status": "live"}


@router.get("/health/ready", responses={503: {"description": "The database is away, or its schema is not this code's."}})
def get_ready(response: Response, database: DatabaseNeeded, settings: SettingsNeeded) -> dict[str, Any]:
    """The database is reachable and migrated; broker and workers are named, not required: without them trainings wait."""
    try:
        migrated = migrations.is_usable(database)
        with database.read() as session:
            workers = len(read_alive_workers(session, settings))
    except (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError, sqlalchemy.exc.ProgrammingError):
        migrated, workers = False, 0
    if not migrated:
        response.status_code = 503
        response.headers["Retry-After"] = "5"
    return {
        "status": "ready" if migrated else "not ready",
        "database": "ready" if migrated else "away, or not migrated: run `engram migrate`",
        "broker": "reachable" if broker_reachable(settings) else "away: trainings wait",
        "workers": workers,
    }


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **KEY_RESPONSES})
def get_metrics(numbers: NumbersNeeded, caller: ReadCaller, accept: Annotated[str, Header()] = "") -> Response:
    """For Prometheus: the whole service, and the scores of the models of the caller's workspace. Answers without the database too."""
    encode, content_type = choose_encoder(accept)
    return Response(encode(_Numbers(numbers, caller.workspace_id)), headers={"Content-Type": content_type})


class _Numbers:
    """What /metrics says, in the form that prometheus_client writes."""

    def __init__(self, numbers: DatabaseNumbers, workspace_id: int) -> None:
        self._numbers = numbers
        self._workspace_id = workspace_id

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("engram_build_info", "1; the version of this API process.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield from collect_numbers()
        yield from self._numbers.collect(self._workspace_id)


@router.get("/v1/system", responses=KEY_RESPONSES)
def get_system(
    session: ReadSession, database: DatabaseNeeded, settings: SettingsNeeded, numbers: NumbersNeeded, caller: ReadCaller
) -> SystemOutput:
    """Version, engines, workers with their devices and running trainings, the workspace's trainings by status, and what waits for
    each device, in all workspaces together."""
    queue = read_queue(session)
    workers = read_alive_workers(session, settings)
    schedulers = presence.list_schedulers(session, settings.sweep_seconds)
    kept = session.get(Housekeeping, 1) or Housekeeping()
    return SystemOutput(
        version=__version__,
        database=database.dialect,
        broker=settings.broker_kind,
        revision=migrations.current(database),
        devices=sorted({device for worker in workers for device in worker.row.devices}),
        workers=[
            WorkerOutput(
                name=one.row.name,
                devices=one.row.devices,
                version=one.row.code_version,
                trainings=one.trainings,
                started_at=one.row.started_at,
                seen_at=one.row.seen_at,
            )
            for one in workers
        ],
        schedulers=[SchedulerOutput(name=one.name, started_at=one.started_at, seen_at=one.seen_at) for one in schedulers],
        housekeeping=HousekeepingOutput(started_at=kept.started_at, finished_at=kept.finished_at, removed=kept.removed),
        trainings=numbers.count_trainings(session, caller.workspace_id),
        queue_depth=sum(depth for depth, _ in queue.values()),
        queues=[
            QueueOutput(device=device, depth=depth, oldest_seconds=round(seconds, 3))
            for device, (depth, seconds) in queue.items()
        ],
    )
