"""The door to trainings: request one, look at it, follow it, cancel it."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Literal

import anyio
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app import contract, faults, quotas, tracing
from app.database import Database
from app.dependencies import (
    AuditNeeded,
    DatabaseNeeded,
    GateNeeded,
    ModelName,
    PageNeeded,
    QueueNeeded,
    ReadCaller,
    ReadSession,
    SettingsNeeded,
    TrainCaller,
    WriteSession,
)
from app.errors import NotFound
from app.idempotency import OnceNeeded
from app.security import Caller, Gate
from app.tables import ENDED_STATUSES, NAME_PATTERN, Training, TrainingEvent
from app.telemetry import log
from app.training import service, trials
from app.training.schemas import HistoryItem, HistoryOutput, ProgressOutput, TrainingInput, TrainingList, TrainingOutput
from app.training.search_schemas import TrialList, TrialOutput
from app.training.streams import Streams

router = APIRouter(prefix="/v1", tags=["trainings"])
Name = Annotated[str | None, Query(pattern=NAME_PATTERN)]
Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]


TRAINING_LINKS = contract.link_to(
    "GET /v1/trainings/{training}",
    "POST /v1/trainings/{training}/cancel",
    "GET /v1/trainings/{training}/history",
    "GET /v1/trainings/{training}/trials",
    "GET /v1/models/{model}",
    training="$response.body#/id",
    model="$response.body#/model",
)
VERSION_LINKS = contract.link_to(
    "GET /v1/models/{model}/versions",
    "GET /v1/models/{model}/versions/{version}",
    "GET /v1/models/{model}/versions/{version}/artifact",
    "GET /v1/models/{model}/versions/{version}/backtest",
    "POST /v1/models/{model}/forecasts",
    "GET /v1/models/{model}/forecasts",
    model="$response.body#/model",
    version="$response.body#/version",
)
"""For `responses`: where a training leads, and one that has succeeded."""


@router.post("/models/{model}/trainings", status_code=202, responses={202: TRAINING_LINKS})
def request_training(
    request: Request,
    response: Response,
    session: WriteSession,
    settings: SettingsNeeded,
    queue: QueueNeeded,
    caller: TrainCaller,
    model: ModelName,
    once: OnceNeeded,
    body: TrainingInput | None = None,
) -> TrainingOutput:
    """Queues a training; the model comes into being with its first one. `{}` trains an existing model as last time.

    Where one waits or runs already for the same request on the same data, that one is the answer.
    """
    wanted = body or TrainingInput()
    with once.hold(session, caller.workspace_id) as first:
        if first is not None:
            response.headers["Location"] = f"/v1/trainings/{first['id']}"
            return TrainingOutput.model_validate(first)
        training, is_new = service.request(
            session,
            caller.workspace_id,
            model,
            wanted.model_dump(mode="json"),
            repeat=not wanted.model_fields_set,
            max_horizon=settings.max_horizon,
            max_network_weights=settings.max_network_weights,
            request_id=request.scope["request_id"],
            traceparent=tracing.current_traceparent(),
        )
        if is_new:
            quotas.check_training(session, settings, training)
        answer = _describe(session, [training])[0]
        once.keep(session, caller.workspace_id, 202, answer)
        faults.reach("request.flushed")
        session.commit()
    faults.reach("request.committed")
    if is_new:
        queue.send(training.public_id, training.device_wanted)
    log.info("training requested", training_id=training.public_id, model=model, new=is_new)
    response.headers["Location"] = f"/v1/trainings/{training.public_id}"
    return answer


@router.get("/trainings")
def list_trainings(
    session: ReadSession,
    caller: ReadCaller,
    page: PageNeeded,
    model: Name = None,
    dataset: Name = None,
    status: Status | None = None,
) -> TrainingList:
    """Newest first."""
    trainings = service.list_trainings(
        session,
        caller.workspace_id,
        model=model,
        dataset=dataset,
        status=status,
        before=page.after(int),
        limit=page.limit,
    )
    return TrainingList(
        items=_describe(session, trainings), next_cursor=page.to_cursor([training.id for training in trainings])
    )


@router.get("/trainings/{training}", responses={200: VERSION_LINKS})
def get_training(session: ReadSession, caller: ReadCaller, training: str) -> TrainingOutput:
    return _describe(session, [service.get_training(session, caller.workspace_id, training)])[0]


@router.post("/trainings/{training}/cancel", status_code=202)
def cancel_training(session: WriteSession, caller: TrainCaller, audit: AuditNeeded, training: str) -> TrainingOutput:
    """A queued one ends at once, a running one within two seconds. 409 once it has ended."""
    found = service.get_training(session, caller.workspace_id, training)
    service.cancel(session, found)
    audit.note(session, caller, "cancel training", training)
    answer = _describe(session, [found])[0]
    session.commit()
    return answer


@router.get("/trainings/{training}/trials")
def list_trials(session: ReadSession, caller: ReadCaller, page: PageNeeded, training: str) -> TrialList:
    """What a search tried, by number: values, score and cost. Empty for a training that is no search."""
    search = service.get_training(session, caller.workspace_id, training)
    best = trials.find_best(trials.list_trials(session, search))
    after = page.after(int)
    items = trials.list_trials(session, search, after=-1 if after is None else after, limit=page.limit)
    return TrialList(
        items=[_describe_trial(search, trial, is_best=best is not None and trial.id == best.id) for trial in items],
        next_cursor=page.to_cursor([trial.trial_number for trial in items]),
    )


@router.get("/trainings/{training}/history")
def get_history(session: ReadSession, caller: ReadCaller, training: str) -> HistoryOutput:
    """The learning curve, attempt after attempt."""
    found = service.get_training(session, caller.workspace_id, training)
    events = service.read_events(session, found.id, after=0, kind="progress")
    return HistoryOutput(id=training, items=[HistoryItem(**event.data) for event in events])


def find_training(database: DatabaseNeeded, caller: ReadCaller, training: str) -> str:
    """Before the stream begins, while a 404 can still be answered; the session is not kept open for the stream."""
    with database.read() as session:
        return service.get_training(session, caller.workspace_id, training).public_id


async def hold_stream(request: Request, caller: ReadCaller) -> AsyncIterator[None]:
    """A place among the workspace's streams, until this one has ended."""
    streams: Streams = request.app.state.streams
    with streams.hold(caller.workspace_id):
        yield


@router.get("/trainings/{training}/events", dependencies=[Depends(hold_stream)], response_class=EventSourceResponse)
async def stream_events(
    database: DatabaseNeeded,
    settings: SettingsNeeded,
    gate: GateNeeded,
    caller: ReadCaller,
    training: Annotated[str, Depends(find_training)],
    last_event_id: Annotated[int, Header(ge=0, le=2**62)] = 0,
) -> AsyncIterator[ServerSentEvent]:
    """`progress` events, then one of `succeeded`, `failed`, `cancelled`. Resumes behind `Last-Event-ID`. Ends when the key does."""
    seen = last_event_id
    while (events := await run_in_threadpool(_read_events, database, gate, caller, training, seen)) is not None:
        for event in events:
            seen = event.seq
            yield ServerSentEvent(event=event.kind, id=str(event.seq), data=event.data)
            if event.kind in ENDED_STATUSES:
                return
        await anyio.sleep(settings.event_poll_seconds)


def _read_events(database: Database, gate: Gate, caller: Caller, public_id: str, after: int) -> Sequence[TrainingEvent] | None:
    """What is new. None: nothing more may be seen, because the key was revoked or has expired, or will come, because the client has
    seen the last event already, or the training was deleted. (It is looked up anew: a deleted one's id may come again.)"""
    with database.read() as session:
        if not gate.is_welcome(session, caller):
            return None
        try:
            training = service.get_training(session, caller.workspace_id, public_id)
        except NotFound:
            return None
        events = service.read_events(session, training.id, after=after)
        return None if not events and training.status in ENDED_STATUSES else events


def _describe_trial(search: Training, trial: Training, *, is_best: bool) -> TrialOutput:
    began, ended = trial.started_at, trial.finished_at
    return TrialOutput(
        number=trial.trial_number or 0,
        id=trial.public_id,
        status=trial.status,
        tried=trials.read_values(search, trial),
        score=trials.read_score(trial),
        skill=None if trial.metrics is None else trial.metrics["skill"],
        seconds=None if began is None or ended is None else (ended - began).total_seconds(),
        is_best=is_best,
        problem=trial.problem,
        started_at=began,
        finished_at=ended,
    )


def _describe(session: Session, trainings: Sequence[Training]) -> list[TrainingOutput]:
    models, datasets = service.read_names(session, trainings)
    return [
        TrainingOutput(
            id=training.public_id,
            model=models[training.model_id],
            dataset=datasets[training.dataset_id],
            status=training.status,
            progress=ProgressOutput(**(training.progress or service.NO_PROGRESS)),
            request=training.request,
            config=training.config,
            data=training.data,
            version=training.version_number,
            metrics=training.metrics,
            warnings=training.warnings or [],
            problem=training.problem,
            attempt=training.attempt,
            device=training.device,
            created_at=training.created_at,
            started_at=training.started_at,
            finished_at=training.finished_at,
        )
        for training in trainings
    ]
