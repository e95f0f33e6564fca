"""A training's life as rows: requested, looked at, cancelled. How it is executed stands in execution.py."""

import hashlib
import math
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from app import __version__, calendar, quotas
from app.contract import parse_moment
from app.database import add_or_sum, database_now, insert_or_ignore, utc_now
from app.datasets import service as datasets
from app.errors import InvalidRequest, NetworkTooLarge, NotFound, NothingToLearn, TrainingEnded
from app.lstm import config as workshop
from app.registry import service as registry
from app.tables import ENDED_STATUSES, Dataset, Model, Training, TrainingEvent, TrainingState, TrainingTotal
from app.training import trials

PUBLIC_ID = re.compile(r"[a-z0-9-]{1,36}")
TOTAL_SECONDS = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, math.inf)
"""The upper bounds by which ended trainings are counted."""
USUAL_HIDDEN = 64
"""About what the workshop chooses where no hidden_size is asked for."""
MOST_BASES = 24
"""Weights of the last layer for each step beside the quantiles: one for each classical forecast, and their sum's."""
NO_PROGRESS: dict[str, Any] = {
    "fraction": 0.0,
    "step": 0,
    "steps": 0,
    "loss": None,
    "validation_loss": None,
    "eta_seconds": None,
}


def request(
    session: Session,
    workspace_id: int,
    model_name: str,
    wanted: dict[str, Any],
    *,
    repeat: bool,
    max_horizon: int,
    max_network_weights: int,
    request_id: str,
    traceparent: str | None = None,
) -> tuple[Training, bool]:
    """(the training, whether it is new): queued, with its whole request and its cutoff frozen in it. Creates the model if there is none.

    One that waits or runs already for the same request on the same data is given in place of a second.
    `wanted` is a TrainingInput as a dict; with `repeat` a model that exists trains as last time, on all data there now.
    """
    model = registry.find_model(session, workspace_id, model_name)
    frozen = _repeat_last(session, model) if model is not None and repeat else dict(wanted)
    dataset = _find_dataset(session, workspace_id, model, frozen)
    frozen["dataset"] = dataset.name
    _fill_horizon(model, frozen, max_horizon)
    _check_network(trials.find_largest(frozen), max_network_weights)
    cutoff_step, data_revision = _freeze_data(session, dataset, frozen)
    for variant in trials.list_variants(frozen):
        workshop.check(to_workshop_request(variant, dataset, threads=1))
    if model is None:
        model = _create_model(session, workspace_id, model_name, dataset, frozen["horizon"])
    session.refresh(model, with_for_update=True)  # of two equal requests at once the second sees the first one's training
    if (equal := _find_equal(session, model, dataset, frozen, cutoff_step, data_revision)) is not None:
        return equal, False
    training = Training(
        workspace_id=workspace_id,
        public_id=str(uuid4()),
        model_id=model.id,
        dataset_id=dataset.id,
        request=frozen,
        cutoff_step=cutoff_step,
        data_revision=data_revision,
        status="queued",
        device_wanted=frozen["device"],
        hinted_at=utc_now(),
        searching=frozen.get("search") is not None,
        request_id=request_id,
        traceparent=traceparent,
        created_at=utc_now(),
    )
    session.add(training)
    session.flush()
    return training, True


def to_workshop_request(
    frozen: dict[str, Any], dataset: Dataset, *, threads: int, backtest_only: bool = False
) -> workshop.Request:
    """The frozen request in the workshop's words: what the calendar suggests stands beside what was asked."""
    return workshop.Request(
        horizon=frozen["horizon"],
        context_length=frozen["context_length"],
        season_lengths=None if frozen["season_lengths"] is None else tuple(frozen["season_lengths"]),
        candidate_season_lengths=calendar.season_lengths(dataset.freq or "step"),
        quantile_levels=tuple(frozen["quantile_levels"]),
        device=frozen["device"],
        threads=threads,
        backtest_only=backtest_only,
        **frozen["network"],
        **frozen["fit"],
        **frozen["backtest"],
    )


def get_training(session: Session, workspace_id: int, public_id: str) -> Training:
    query = sa.select(Training).where(Training.workspace_id == workspace_id, Training.public_id == public_id)
    training = session.scalar(query) if PUBLIC_ID.fullmatch(public_id) else None
    if training is None:
        raise NotFound(f"there is no training {public_id!r}; GET /v1/trainings lists them", training=public_id)
    return training


def list_trainings(
    session: Session,
    workspace_id: int,
    *,
    model: str | None,
    dataset: str | None,
    status: str | None,
    before: int | None,
    limit: int,
) -> Sequence[Training]:
    """Newest first; the trials of a search stand with the search."""
    query = (
        sa.select(Training)
        .where(Training.workspace_id == workspace_id, Training.parent_id.is_(None))
        .order_by(Training.id.desc())
        .limit(limit)
    )
    if model is not None:
        query = query.join(Model, Model.id == Training.model_id).where(Model.name == model)
    if dataset is not None:
        query = query.join(Dataset, Dataset.id == Training.dataset_id).where(Dataset.name == dataset)
    if status is not None:
        query = query.where(Training.status == status)
    if before is not None:
        query = query.where(Training.id < before)
    return session.scalars(query).all()


def read_names(session: Session, trainings: Sequence[Training]) -> tuple[dict[int, str], dict[int, str]]:
    """({model id: name}, {dataset id: name}) of these trainings."""
    models = sa.select(Model.id, Model.name).where(Model.id.in_({training.model_id for training in trainings}))
    sets = sa.select(Dataset.id, Dataset.name).where(Dataset.id.in_({training.dataset_id for training in trainings}))
    return dict(session.execute(models).all()), dict(session.execute(sets).all())


def cancel(session: Session, training: Training) -> None:
    """A queued one ends here; a running one is stopped by its supervisor, which looks each second. A search takes its trials along."""
    if not _stop(session, training):
        raise TrainingEnded(
            f"training {training.public_id} has already {training.status}",
            training=training.public_id,
            training_status=training.status,
        )
    for trial in trials.list_trials(session, training):
        if trial.status not in ENDED_STATUSES:
            _stop(session, trial)
    session.flush()


def _stop(session: Session, training: Training) -> bool:
    """False: it has ended already."""
    session.refresh(training, with_for_update=True)
    if training.status in ENDED_STATUSES:
        return False
    training.cancel_requested = True
    if training.status == "queued" or training.searching:
        end(session, training, "cancelled")
    return True


def end(session: Session, training: Training, status: str, **fields: Any) -> None:
    """Sets the last status, counts it, and writes the event that closes the stream."""
    training.status = status
    training.finished_at = database_now(session)
    training.lease_expires_at = None
    session.execute(sa.delete(TrainingState).where(TrainingState.training_id == training.id))
    for name, value in fields.items():
        setattr(training, name, value)
    data = {"status": status, "version": training.version_number, "problem": training.problem}
    append_events(session, training.id, training.workspace_id, status, [data])
    _count_end(session, training)


def _count_end(session: Session, training: Training) -> None:
    """One more in the totals, in the transaction that ends the training: a rollback counts nothing, a deleted model takes none away."""
    began, ended = training.started_at, training.finished_at
    seconds = max(0.0, (ended - began).total_seconds()) if began is not None and ended is not None else 0.0
    at_most_seconds = next(bound for bound in TOTAL_SECONDS if seconds <= bound)
    add_or_sum(
        session,
        TrainingTotal,
        {"status": training.status, "at_most_seconds": at_most_seconds},
        {"count": 1, "seconds": seconds},
    )
    if ended is not None and (own := quotas.measure_training(session, training)):
        quotas.charge_training(session, training.workspace_id, ended, own)


def summarise(event: dict[str, Any], *, seconds: float) -> dict[str, Any]:
    """What a training's row says of its progress: the newest progress event, and what is left at the pace of its first `seconds`."""
    fraction = event["fraction"]
    eta_seconds = round(seconds * (1 / fraction - 1), 1) if fraction > 0 else None
    return {**{name: event[name] for name in NO_PROGRESS if name != "eta_seconds"}, "eta_seconds": eta_seconds}


def keep_state(session: Session, training_id: int, workspace_id: int, attempt: int, state: dict[str, Any]) -> None:
    """Puts the state of a training under way ({"step", "data"}) in the place of its last one. Only the holder of the lease may."""
    data: bytes = state["data"]
    training = session.get_one(Training, training_id)
    session.execute(sa.delete(TrainingState).where(TrainingState.training_id == training_id))
    session.add(
        TrainingState(
            workspace_id=workspace_id,
            training_id=training_id,
            attempt=attempt,
            step=state["step"],
            fingerprint=(training.data or {}).get("fingerprint", ""),
            code_version=__version__,
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            data=data,
            created_at=utc_now(),
        )
    )
    session.flush()


def find_state(session: Session, training_id: int, fingerprint: str) -> TrainingState | None:
    """The state that an earlier attempt left, if it learned from the data of this fingerprint, with this code, and is undamaged."""
    row = session.scalar(sa.select(TrainingState).where(TrainingState.training_id == training_id))
    if row is None or (row.fingerprint, row.code_version) != (fingerprint, __version__):
        return None
    return row if hashlib.sha256(row.data).hexdigest() == row.sha256 else None


def append_events(session: Session, training_id: int, workspace_id: int, kind: str, data: Sequence[dict[str, Any]]) -> None:
    """Adds events behind those there are. Only the holder of the lease, or of the row's lock, may."""
    last = session.scalar(sa.select(sa.func.max(TrainingEvent.seq)).where(TrainingEvent.training_id == training_id)) or 0
    now = utc_now()
    rows = [
        {
            "training_id": training_id,
            "workspace_id": workspace_id,
            "seq": last + 1 + index,
            "kind": kind,
            "data": one,
            "created_at": now,
        }
        for index, one in enumerate(data)
    ]
    if rows:
        session.execute(sa.insert(TrainingEvent), rows)


def read_events(session: Session, training_id: int, *, after: int, kind: str | None = None) -> Sequence[TrainingEvent]:
    query = sa.select(TrainingEvent).where(TrainingEvent.training_id == training_id, TrainingEvent.seq > after)
    if kind is not None:
        query = query.where(TrainingEvent.kind == kind)
    return session.scalars(query.order_by(TrainingEvent.seq)).all()


def remove_progress(session: Session, *, finished_before: datetime, limit: int) -> int:
    """Removes up to `limit` progress events of trainings that ended before then; how many. The event of each end is kept."""
    old = sa.select(TrainingEvent.id).join(Training, Training.id == TrainingEvent.training_id)
    old = old.where(Training.finished_at < finished_before, TrainingEvent.kind == "progress").limit(limit)
    statement = sa.delete(TrainingEvent).where(TrainingEvent.id.in_(old)).returning(TrainingEvent.id)
    return len(session.scalars(statement.execution_options(synchronize_session=False)).all())


def _repeat_last(session: Session, model: Model) -> dict[str, Any]:
    """As last time; after a search, with what it found rather than by searching again."""
    query = sa.select(Training).where(Training.model_id == model.id, Training.parent_id.is_(None))
    last = session.scalar(query.order_by(Training.id.desc()).limit(1))
    if last is None:
        raise InvalidRequest(f"model {model.name!r} has no training to repeat; say at least its horizon", model=model.name)
    dataset = session.get_one(Dataset, last.dataset_id)  # by its id: it may have been renamed since
    best = trials.find_best(trials.list_trials(session, last)) if last.request.get("search") else None
    request = last.request if best is None else {**best.request, "promote": last.request["promote"]}
    return {**request, "dataset": dataset.name, "end": None}


def _find_dataset(session: Session, workspace_id: int, model: Model | None, frozen: dict[str, Any]) -> Dataset:
    if frozen["dataset"] is not None:
        return datasets.get_dataset(session, workspace_id, frozen["dataset"])
    if model is None:
        raise _missing("dataset", "the dataset to learn from: a new model has none yet")
    return session.get_one(Dataset, model.dataset_id)


def _fill_horizon(model: Model | None, frozen: dict[str, Any], max_horizon: int) -> None:
    if frozen["horizon"] is None:
        if model is None:
            raise _missing("horizon", "how many steps to forecast: a new model has no horizon yet")
        frozen["horizon"] = model.horizon
    if frozen["horizon"] > max_horizon:
        detail = f"expected at most {max_horizon} (ENGRAM_MAX_HORIZON), found {frozen['horizon']}"
        raise InvalidRequest(f"#/horizon: {detail}", errors=[{"pointer": "#/horizon", "detail": detail}])


def _check_network(frozen: dict[str, Any], max_weights: int) -> None:
    """Refuses a network that nobody could train, before a worker tries. What was not asked for is chosen small."""
    asked_hidden, asked_layers = (frozen["network"].get(name) for name in ("hidden_size", "num_layers"))
    hidden, layers = asked_hidden or USUAL_HIDDEN, asked_layers or 1
    inputs = frozen["context_length"] or workshop.MAX_CONTEXT_LENGTH
    recurrent = 4 * hidden * (2 * inputs + hidden) + (layers - 1) * 8 * hidden * hidden
    head = 2 * hidden * (3 * hidden + inputs) + 2 * hidden * frozen["horizon"] * (len(frozen["quantile_levels"]) + MOST_BASES)
    if recurrent + head > max_weights and (asked_hidden or asked_layers):
        detail = (
            f"expected a network of at most {max_weights} weights (ENGRAM_MAX_NETWORK_WEIGHTS), and {layers} layers of {hidden} with a horizon "
            f"of {frozen['horizon']} and {len(frozen['quantile_levels'])} quantile levels have up to {recurrent + head}"
        )
        raise NetworkTooLarge(
            f"#/network: {detail}",
            errors=[{"pointer": "#/network", "detail": detail}],
            max_network_weights=max_weights,
            found=recurrent + head,
        )


def _find_equal(
    session: Session, model: Model, dataset: Dataset, frozen: dict[str, Any], cutoff_step: int, data_revision: str
) -> Training | None:
    """The training under way that this one would repeat to the last digit."""
    query = sa.select(Training).where(
        Training.model_id == model.id,
        Training.dataset_id == dataset.id,
        Training.status.in_(["queued", "running"]),
        ~Training.cancel_requested,
        Training.cutoff_step == cutoff_step,
        Training.data_revision == data_revision,
    )
    return next((one for one in session.scalars(query.order_by(Training.id)) if one.request == frozen), None)


def _freeze_data(session: Session, dataset: Dataset, frozen: dict[str, Any]) -> tuple[int, str]:
    """(the last step to learn from, the revisions of the chosen series as one). Refused when no chosen series has two values up to it."""
    rows = datasets.select_series(session, dataset.id, frozen["series"], frozen["series_prefix"])
    cutoffs = [row.cutoff_step for row in rows if row.cutoff_step is not None]
    if not cutoffs:
        raise NothingToLearn(
            f"dataset {dataset.name!r} has no values in the chosen series; "
            f"post some: POST /v1/datasets/{dataset.name}/observations",
            dataset=dataset.name,
        )
    last, grid = max(cutoffs), datasets.grid_of(dataset)
    cutoff = (
        last
        if frozen["end"] is None
        else min(last, grid.step_at_or_before(parse_moment(frozen["end"], grid, {"pointer": "#/end"})))
    )
    if not any(row.count - row.missing >= 2 and _begins_before(row, cutoff) for row in rows):
        until = grid.to_labels(np.array([cutoff]))[0]
        raise NothingToLearn(
            f"no chosen series of dataset {dataset.name!r} has two values up to {until}; "
            "post more observations, choose other series, or move the end",
            dataset=dataset.name,
            end=until,
        )
    revisions = hashlib.sha256(b"".join(b"%d %d " % (row.id, row.revision) for row in rows))
    return cutoff, revisions.hexdigest()


def _begins_before(row: Any, cutoff: int) -> bool:
    return row.first_step is not None and row.first_step < cutoff


def _create_model(session: Session, workspace_id: int, name: str, dataset: Dataset, horizon: int) -> Model:
    """Two first trainings at once share the model: whoever comes second finds it."""
    fields = {"workspace_id": workspace_id, "name": name, "dataset_id": dataset.id, "horizon": horizon}
    insert_or_ignore(session, Model, [{**fields, "newest_number": 0, "created_at": utc_now()}])
    return registry.get_model(session, workspace_id, name)


def _missing(field: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"#/{field}: expected {what}", errors=[{"pointer": f"#/{field}", "detail": f"expected {what}"}])
