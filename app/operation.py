"""What whoever runs the service asks: is it alive, is it ready, how does it do."""

from datetime import datetime, timedelta
from typing import Any

import prometheus_client
import sqlalchemy as sa
import sqlalchemy.exc
from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel
from sqlalchemy.orm import Session

import migrations
from app import __version__
from app.database import database_now
from app.dependencies import CallerNeeded, DatabaseNeeded, ReadSession, SettingsNeeded
from app.queue import broker_reachable
from app.tables import TRAINING_STATUSES, Training, Worker

router = APIRouter(tags=["operation"])
SEEN_PAUSES = 6
"""A worker is alive if it was seen within this many of its own pauses."""


class WorkerOutput(BaseModel):
    name: str
    devices: list[str]
    started_at: datetime
    seen_at: datetime


class SystemOutput(BaseModel):
    version: str
    devices: list[str]
    workers: list[WorkerOutput]
    trainings: dict[str, int]
    queue_depth: int


@router.get("/", include_in_schema=False)
def show_start() -> RedirectResponse:
    """Until the dashboard is there, a browser is shown every call."""
    return RedirectResponse("/docs")


@router.get("/health/live")
def get_live() -> dict[str, str]:
    """The process answers."""
    return {"status": "live"}


@router.get("/health/ready", responses={503: {"description": "The database is away, or its schema is not this code's."}})
def get_ready(response: Response, database: DatabaseNeeded, settings: SettingsNeeded) -> dict[str, Any]:
    """The database is reachable and migrated; broker and workers are named, not required: without them trainings wait."""
    try:
        migrated = migrations.is_at_head(database)
        with database.read() as session:
            workers = len(list_alive_workers(session, settings.sweep_seconds))
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


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def get_metrics(session: ReadSession) -> Response:
    """For Prometheus."""
    counts = count_trainings(session)
    lines = ["# HELP engram_trainings Trainings by status.", "# TYPE engram_trainings gauge"]
    lines += [f'engram_trainings{{status="{status}"}} {count}' for status, count in counts.items()]
    body = prometheus_client.generate_latest() + ("\n".join(lines) + "\n").encode()
    return Response(body, media_type=prometheus_client.CONTENT_TYPE_LATEST)


@router.get("/v1/system")
def get_system(session: ReadSession, settings: SettingsNeeded, caller: CallerNeeded) -> SystemOutput:
    """Version, workers with their devices, and what waits."""
    workers = list_alive_workers(session, settings.sweep_seconds)
    trainings = count_trainings(session)
    return SystemOutput(
        version=__version__,
        devices=sorted({device for worker in workers for device in worker.devices}),
        workers=[
            WorkerOutput(name=one.name, devices=one.devices, started_at=one.started_at, seen_at=one.seen_at) for one in workers
        ],
        trainings=trainings,
        queue_depth=trainings["queued"],
    )


def count_trainings(session: Session) -> dict[str, int]:
    query = sa.select(Training.status, sa.func.count()).group_by(Training.status)
    return {**dict.fromkeys(TRAINING_STATUSES, 0), **dict(session.execute(query).all())}


def list_alive_workers(session: Session, pause_seconds: float) -> list[Worker]:
    since = database_now(session) - timedelta(seconds=pause_seconds * SEEN_PAUSES)
    return list(session.scalars(sa.select(Worker).where(Worker.seen_at > since).order_by(Worker.name)))
