"""The trials of a search as rows: what each tried, how it scored, which is the best. Sampling stands in sampling.py."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.tables import Training, TrainingEvent

PLACES = {
    "learning_rate": "fit",
    "optimizer": "fit",
    "loss": "fit",
    "hidden_size": "network",
    "num_layers": "network",
    "activation": "network",
    "dropout": "network",
    "context_length": None,
}
"""What can be searched for, and in which part of a request it stands."""

RANGES: dict[str, dict[str, Any]] = {
    "auto": {
        "learning_rate": {"low": 3e-4, "high": 1e-2, "log": True},
        "hidden_size": [32, 64, 128],
        "num_layers": [1, 2],
        "dropout": {"low": 0.0, "high": 0.5, "log": False},
    },
    "plain": {
        "learning_rate": {"low": 1e-4, "high": 3e-2, "log": True},
        "hidden_size": {"low": 8, "high": 128, "log": True},
        "num_layers": [1, 2],
        "dropout": {"low": 0.0, "high": 0.3, "log": False},
        "activation": ["tanh", "relu"],
        "optimizer": ["adamw", "adam", "rmsprop"],
        "loss": ["quantile", "mae", "huber"],
    },
}
"""Where a search looks that was not told where, by architecture."""


def choose_space(request: Mapping[str, Any]) -> dict[str, Any]:
    """The space of a search: as asked, else the usual one but for what the request says itself."""
    asked = request["search"]["space"]
    if asked is not None:
        return {name: choice for name, choice in asked.items() if choice is not None}
    usual = RANGES[request["network"]["architecture"]]
    pinned = {
        name for name in ("learning_rate", "hidden_size", "num_layers", "dropout") if read_value(request, name) is not None
    }
    return {name: choice for name, choice in usual.items() if name not in pinned}


def read_value(request: Mapping[str, Any], name: str) -> Any:
    place = PLACES[name]
    return request[name] if place is None else request[place][name]


def with_values(request: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The request of a training that is no search, with these values in their places."""
    changed = {**request, "network": dict(request["network"]), "fit": dict(request["fit"]), "search": None}
    for name, value in values.items():
        place = PLACES[name]
        (changed if place is None else changed[place])[name] = value
    return changed


def list_variants(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What has to be possible before anything is queued: the request itself, or with each choice of its search in turn."""
    if request.get("search") is None:
        return [dict(request)]
    choices = [(name, each) for name, choice in choose_space(request).items() if isinstance(choice, list) for each in choice]
    return [with_values(request, {name: each}) for name, each in choices] or [with_values(request, {})]


def find_largest(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request itself, or with the largest network that its search was told to look at."""
    asked = (request.get("search") or {}).get("space") or {}
    sizes = {name: asked[name] for name in ("hidden_size", "num_layers", "context_length") if asked.get(name)}
    return with_values(request, {name: max(one) if isinstance(one, list) else one["high"] for name, one in sizes.items()})


def read_values(search: Training, trial: Training) -> dict[str, Any]:
    """What this trial tried."""
    return {name: read_value(trial.request, name) for name in choose_space(search.request)}


def list_trials(session: Session, search: Training, *, after: int = -1, limit: int | None = None) -> Sequence[Training]:
    """By number."""
    query = sa.select(Training).where(Training.parent_id == search.id, Training.trial_number > after)
    return session.scalars(query.order_by(Training.trial_number).limit(limit)).all()


def read_score(trial: Training) -> float | None:
    """The backtest's weighted quantile loss, less is better; its MAE where every observation is zero. None: it came to no score."""
    if trial.status != "succeeded" or trial.metrics is None:
        return None
    scores = trial.metrics["backtest"]
    score: float | None = scores["mae"] if scores["wql"] is None else scores["wql"]
    return score


def find_best(trials: Sequence[Training]) -> Training | None:
    """The one with the least score, the earlier one of two alike."""
    scored = [(score, trial.trial_number, trial) for trial in trials if (score := read_score(trial)) is not None]
    return min(scored, key=lambda one: one[:2])[2] if scored else None


def read_curves(session: Session, trials: Sequence[Training]) -> dict[int, list[float]]:
    """{training id: its validation losses, in order}, of the last attempt of each."""
    query = sa.select(TrainingEvent).where(
        TrainingEvent.training_id.in_([trial.id for trial in trials]), TrainingEvent.kind == "progress"
    )
    attempts = {trial.id: trial.attempt for trial in trials}
    curves: dict[int, list[float]] = {}
    for event in session.scalars(query.order_by(TrainingEvent.training_id, TrainingEvent.seq)):
        loss = event.data["validation_loss"]
        if loss is not None and event.data["attempt"] == attempts[event.training_id]:
            curves.setdefault(event.training_id, []).append(loss)
    return curves


def describe_values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in values.items())
