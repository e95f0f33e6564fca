"""A search goes on by what its rows say: any worker makes the next trials, until they are enough and the best is trained for good."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.database import Database, database_now, utc_now
from app.errors import TrainingFailed, TrialDropped
from app.settings import Settings
from app.tables import ENDED_STATUSES, Training
from app.telemetry import log
from app.training import presence, sampling, service, trials
from app.training.sampling import Tried

Hint = tuple[str, str]
"""(public id, device) of a training that was queued."""


@dataclass(frozen=True)
class Plan:
    """What a search needs next: so many new trials beside those `known`, or its end."""

    search_id: int
    space: dict[str, Any]
    seed: int
    tried: list[Tried]
    wanted: int
    is_over: bool


def advance(database: Database, settings: Settings) -> list[Hint]:
    """Takes every search a step further; what was queued by it. Two workers may do it at once: the second one changes nothing."""
    with database.read() as session:
        plans = [plan for plan in _read_plans(session, settings) if plan.wanted or plan.is_over]
    hints: list[Hint] = []
    for plan in plans:  # no transaction is open while the sampler thinks
        try:
            values = sampling.ask(plan.space, plan.tried, plan.wanted, plan.seed) if plan.wanted else []
        except Exception as error:  # noqa: BLE001 - a search that cannot go on must not keep other trainings from being claimed
            log.exception("search failed unexpectedly", exc_info=error)
            _give_up(database, plan, error)
            continue
        with database.write() as session:
            search = _lock(session, plan)
            if search is not None:
                hints += _decide(session, search) if plan.is_over else _add_trials(session, search, plan, values)
            session.commit()
    return hints


def is_hopeless(session: Session, trial_id: int) -> bool:
    """Whether a running trial does worse than the median of those of its search whose losses can be held against its own: of the
    same kind, and, since they are in units of a window's spread, over windows of the same length."""
    trial = session.get_one(Training, trial_id)
    query = sa.select(Training).where(Training.parent_id == trial.parent_id)
    alike = [one for one in session.scalars(query).all() if _read_units(one) == _read_units(trial)]
    curves = trials.read_curves(session, alike)
    return sampling.is_hopeless(curves.pop(trial.id, []), list(curves.values()))


def _read_units(trial: Training) -> tuple[str, int | None]:
    """What the numbers of its validation loss mean."""
    return trial.request["fit"]["loss"], trial.request["context_length"]


def describe_drop() -> dict[str, Any]:
    """The problem of a trial that was ended early."""
    return TrialDropped(
        "the trial was ended early: its validation loss was worse than the median of the others' at the same point"
    ).to_problem()


def resolve(session: Session, training: Training) -> tuple[dict[str, Any], list[str]]:
    """The request that is to be carried out, and what to say of it: that of a search is its best trial's."""
    if training.request.get("search") is None:
        return training.request, []
    tried = trials.list_trials(session, training)
    best = trials.find_best(tried)
    if best is None:
        raise TrainingFailed("the search has no trial with a score; train again")
    values = trials.describe_values(trials.read_values(training, best))
    scored = sum(trials.read_score(trial) is not None for trial in tried)
    note = f"Trial {best.trial_number} was the best of {scored} on these backtest windows, which flatters its scores: {values}."
    return {**best.request, "promote": training.request["promote"]}, [note]


def _read_plans(session: Session, settings: Settings) -> list[Plan]:
    query = sa.select(Training).where(Training.searching, Training.status.in_(["queued", "running"])).order_by(Training.id)
    searches = session.scalars(query).all()
    if not searches:
        return []
    workers = presence.list_workers(session, settings.sweep_seconds)
    slots = max(1, sum(worker.slots for worker in workers))
    return [_plan(search, trials.list_trials(session, search), slots, database_now(session)) for search in searches]


def _plan(search: Training, rows: Sequence[Training], slots: int, now: datetime) -> Plan:
    wanted = search.request["search"]
    limit = None if wanted["max_seconds"] is None else timedelta(seconds=wanted["max_seconds"])
    is_late = limit is not None and search.started_at is not None and now - search.started_at > limit
    waiting = sum(trial.status not in ENDED_STATUSES for trial in rows)
    missing = 0 if is_late and rows else min(wanted["trials"] - len(rows), slots - waiting)
    return Plan(
        search_id=search.id,
        space=trials.choose_space(search.request),
        seed=search.request["fit"]["seed"],
        tried=[
            Tried(trials.read_values(search, trial), trials.read_score(trial), trial.status not in ENDED_STATUSES)
            for trial in rows
        ],
        wanted=max(0, missing),
        is_over=not waiting and missing <= 0,
    )


def _lock(session: Session, plan: Plan) -> Training | None:
    """The search, unless it has ended or somebody was faster."""
    query = sa.select(Training).where(Training.id == plan.search_id, Training.searching, Training.status.not_in(ENDED_STATUSES))
    search = session.scalar(query.with_for_update())
    count = sa.select(sa.func.count()).where(Training.parent_id == plan.search_id)
    return search if session.scalar(count) == len(plan.tried) else None


def _add_trials(session: Session, search: Training, plan: Plan, values: Sequence[dict[str, Any]]) -> list[Hint]:
    search.status = "running"
    search.started_at = search.started_at or database_now(session)
    new = [
        Training(
            workspace_id=search.workspace_id,
            public_id=str(uuid4()),
            model_id=search.model_id,
            dataset_id=search.dataset_id,
            request={**trials.with_values(search.request, one), "promote": "never"},
            cutoff_step=search.cutoff_step,
            status="queued",
            device_wanted=search.device_wanted,
            hinted_at=utc_now(),
            parent_id=search.id,
            trial_number=len(plan.tried) + index,
            request_id=search.request_id,
            traceparent=search.traceparent,
            created_at=utc_now(),
        )
        for index, one in enumerate(values)
    ]
    session.add_all(new)
    _report(session, search, plan)
    session.flush()
    return [(trial.public_id, trial.device_wanted) for trial in new]


def _decide(session: Session, search: Training) -> list[Hint]:
    """The search becomes a training like any other, with the best trial's request; or it fails where none came to a score."""
    search.searching = False
    tried = trials.list_trials(session, search)
    if trials.find_best(tried) is None:
        last = next((trial.problem["detail"] for trial in reversed(tried) if trial.problem), "each was cancelled")
        problem = TrainingFailed(f"none of {len(tried)} trials came to a score; of the last: {last}").to_problem()
        service.end(session, search, "failed", problem=problem)
        return []
    search.status, search.hinted_at = "queued", utc_now()
    session.flush()
    return [(search.public_id, search.device_wanted)]


def _give_up(database: Database, plan: Plan, error: Exception) -> None:
    with database.write() as session:
        search = _lock(session, plan)
        if search is not None:
            problem = TrainingFailed(f"an unexpected error in choosing the next trials: {error}; the worker's log has it whole")
            service.end(session, search, "failed", problem=problem.to_problem())
        session.commit()


def _report(session: Session, search: Training, plan: Plan) -> None:
    """Progress counts trials that ended."""
    total, ended = search.request["search"]["trials"], sum(not one.is_open for one in plan.tried)
    began = search.started_at or database_now(session)
    seconds = max(0.0, (database_now(session) - began).total_seconds())
    event = {
        "phase": "search",
        "fraction": ended / (total + 1),
        "step": ended,
        "steps": total,
        "loss": None,
        "validation_loss": None,
        "learning_rate": None,
        "gradient_norm": None,
        "seconds": round(seconds, 3),
        "attempt": search.attempt,
    }
    search.progress = service.summarise(event, seconds=seconds)
    service.append_events(session, search.id, search.workspace_id, "progress", [event])
