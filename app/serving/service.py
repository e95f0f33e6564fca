"""From a request to forecasts, as arrays: which version, which series, their contexts, one model call. Nothing is computed in a transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.calendar import Grid
from app.contract import parse_moment
from app.database import Database
from app.datasets import service as datasets
from app.datasets.store import SeriesRow
from app.errors import AnswerTooLarge, ContextTooShort, HorizonTooLong, NoTrainedVersion, OffGrid, Place, QuantileOutOfRange
from app.lstm.config import MAX_CONTEXT_LENGTH
from app.registry import service as registry
from app.serving.cache import Forecasters
from app.settings import Settings
from app.tables import Dataset, Model, Series, Training, Version

MEDIAN = 0.5


@dataclass(frozen=True)
class Target:
    """What a request resolves to before any series is read: the version, its grid, how far, and at which levels (sorted)."""

    model: str
    version_id: int
    version: int
    dataset: str
    dataset_id: int
    grid: Grid
    horizon: int
    quantile_levels: tuple[float, ...]
    context_length: int
    cutoff_step: int | None


@dataclass(frozen=True)
class Contexts:
    """What is forecast from: names [B], values float64 [B, L] (NaN: missing, in front too), cutoff steps int64 [B]."""

    names: list[str]
    values: np.ndarray
    cutoffs: np.ndarray


@dataclass(frozen=True)
class Forecasts:
    """B forecasts: `steps` int64 [B, H] after each cutoff, `median` float64 [B, H], `quantiles` float64 [B, H, Q]."""

    target: Target
    names: list[str]
    cutoffs: np.ndarray
    steps: np.ndarray
    median: np.ndarray
    quantiles: np.ndarray
    warnings: list[list[str]]


def resolve(session: Session, workspace_id: int, model_name: str, wanted: dict[str, Any], cutoff_place: Place) -> Target:
    """The version, horizon and levels that `wanted` (a ForecastInput as a dict) means; each refused with both sides named."""
    model = registry.get_model(session, workspace_id, model_name)
    version = _resolve_version(session, model, wanted["version"])
    horizon = wanted["horizon"] or version.horizon
    if horizon > version.horizon:
        raise HorizonTooLong(
            f"version {version.number} of model {model_name!r} was trained for a horizon of {version.horizon}, "
            f"found {horizon}; ask for at most {version.horizon}, or train with a longer one",
            trained_horizon=version.horizon,
            horizon=horizon,
        )
    learned: list[float] = version.config["quantile_levels"]
    levels = tuple(sorted(set(wanted["quantile_levels"] or learned)))
    if levels[0] < learned[0] or levels[-1] > learned[-1]:
        raise QuantileOutOfRange(
            f"#/quantile_levels: expected levels from {learned[0]} to {learned[-1]}, which version {version.number} learned, "
            f"found {levels[0]} to {levels[-1]}; train with wider quantile_levels",
            learned=learned,
            found=list(levels),
        )
    dataset = session.get_one(Dataset, version.dataset_id)
    grid, cutoff = datasets.grid_of(dataset), wanted["cutoff"]
    return Target(
        model=model_name,
        version_id=version.id,
        version=version.number,
        dataset=dataset.name,
        dataset_id=dataset.id,
        grid=grid,
        horizon=horizon,
        quantile_levels=levels,
        context_length=version.config["context_length"],
        cutoff_step=None if cutoff is None else grid.step_at_or_before(parse_moment(cutoff, grid, cutoff_place)),
    )


def read_named(session: Session, target: Target, names: Sequence[str]) -> Contexts:
    """The contexts of these series, each named once. Raises NotFound, and ContextTooShort for one without a value to go by."""
    rows = datasets.select_series(session, target.dataset_id, list(dict.fromkeys(names)), None)
    contexts = _read(session, target, rows)
    without = sorted({row.name for row in rows} - set(contexts.names))
    if without:
        until = "" if target.cutoff_step is None else f" up to {target.grid.to_labels(np.array([target.cutoff_step]))[0]}"
        raise ContextTooShort(
            f"series {without[0]!r} has no value{until} to forecast from"
            + (f" (and {len(without) - 1} more series)" if len(without) > 1 else ""),
            series=without[:20],
        )
    return contexts


def read_page(session: Session, target: Target, *, after: str | None, limit: int) -> tuple[Contexts, list[str]]:
    """The contexts of the next `limit` series of the dataset by name, those without a value left out; and the page's names."""
    rows = datasets.list_series(session, target.dataset_id, "", after, limit)
    return _read(session, target, rows), [row.name for row in rows]


def place_contexts(target: Target, given: Sequence[dict[str, Any]]) -> Contexts:
    """Contexts sent with the request (ContextInput as dicts), laid on the dataset's grid. Raises OffGrid, ContextTooShort."""
    values = np.full((len(given), MAX_CONTEXT_LENGTH), np.nan)  # [B, L]
    cutoffs = np.empty(len(given), np.int64)  # [B]
    for index, one in enumerate(given):
        pointer = f"#/context/{index}"
        start = _place_start(target.grid, one["start"], f"{pointer}/start")
        column = np.array(one["values"], dtype=np.float64)  # None becomes NaN
        present = np.flatnonzero(~np.isnan(column))
        if not len(present):
            detail = "expected at least one value that is not null"
            raise ContextTooShort(f"{pointer}/values: {detail}", errors=[{"pointer": f"{pointer}/values", "detail": detail}])
        column = column[: present[-1] + 1][-MAX_CONTEXT_LENGTH:]
        values[index, -len(column) :] = column
        cutoffs[index] = start + present[-1]
    return Contexts([one["id"] for one in given], values, cutoffs)


def join(pages: Sequence[Contexts]) -> Contexts:
    """Pages end to end."""
    return Contexts(
        [name for page in pages for name in page.names],
        np.concatenate([page.values for page in pages]),
        np.concatenate([page.cutoffs for page in pages]),
    )


def count_series(session: Session, target: Target) -> int:
    query = sa.select(sa.func.count()).select_from(Series).where(Series.dataset_id == target.dataset_id)
    return session.execute(query).scalar_one()


def predict(database: Database, forecasters: Forecasters, target: Target, contexts: Contexts) -> Forecasts:
    """One model call for all contexts. Opens a session of its own only if the version is not loaded yet."""
    levels = tuple(sorted({*target.quantile_levels, MEDIAN}))

    def load() -> bytes:
        with database.read() as session:
            return registry.read_artifact(session, target.version_id)

    if contexts.names:
        quantiles = forecasters.predict(
            target.version_id, load, contexts.values, horizon=target.horizon, quantile_levels=levels
        )  # [B, H, Q]
    else:
        quantiles = np.empty((0, target.horizon, len(levels)))
    kept = [levels.index(level) for level in target.quantile_levels]
    return Forecasts(
        target=target,
        names=contexts.names,
        cutoffs=contexts.cutoffs,
        steps=contexts.cutoffs[:, None] + np.arange(1, target.horizon + 1),
        median=quantiles[:, :, levels.index(MEDIAN)],
        quantiles=quantiles[:, :, kept],
        warnings=_warn(target, contexts),
    )


def check_size(target: Target, series: int, settings: Settings) -> None:
    """Refuses an answer of more numbers than one answer may have."""
    values = series * target.horizon * (len(target.quantile_levels) + 1)
    if values > settings.max_forecast_values:
        raise AnswerTooLarge(
            f"the answer would hold {values} numbers, at most {settings.max_forecast_values} are given at once "
            "(ENGRAM_MAX_FORECAST_VALUES); ask for fewer series or quantile levels, page it, or take NDJSON or CSV, which stream",
            expected=settings.max_forecast_values,
            found=values,
        )


def _resolve_version(session: Session, model: Model, wanted: int | str | None) -> Version:
    if isinstance(wanted, int):
        return registry.get_version(session, model, wanted)
    if wanted is not None:
        return registry.get_by_alias(session, model, wanted)
    version = registry.find_alias(session, model, registry.CHAMPION)
    if version is not None:
        return version
    if registry.read_newest_numbers(session, [model.id]):
        raise NoTrainedVersion(
            f"no version of model {model.name!r} serves; promote one: PUT /v1/models/{model.name}/aliases/champion",
            model=model.name,
            training=None,
        )
    newest = (
        sa.select(Training)
        .where(Training.model_id == model.id, Training.parent_id.is_(None))
        .order_by(Training.id.desc())
        .limit(1)
    )
    training = session.scalar(newest)
    raise NoTrainedVersion(
        f"model {model.name!r} has no version yet"
        + (f"; its training {training.public_id} is {training.status}" if training else "; train it first"),
        model=model.name,
        training=training.public_id if training else None,
        training_status=training.status if training else None,
    )


def _read(session: Session, target: Target, rows: Sequence[SeriesRow]) -> Contexts:
    values, cutoffs, known = datasets.read_contexts(session, rows, MAX_CONTEXT_LENGTH, target.cutoff_step)
    names = [row.name for row, is_known in zip(rows, known, strict=True) if is_known]
    return Contexts(names, values[known], cutoffs[known])


def _place_start(grid: Grid, start: int | str, pointer: str) -> int:
    moment = parse_moment(start, grid, {"pointer": pointer})
    before, after = grid.step_at_or_before(moment), grid.step_at_or_after(moment)
    if before != after:
        labels = grid.to_labels(np.array([before, after]))
        detail = f"expected a point of the dataset's grid (freq {grid.freq}), such as {labels[0]} or {labels[1]}, found {start}"
        raise OffGrid(f"{pointer}: {detail}", errors=[{"pointer": pointer, "detail": detail}])
    return before


def _warn(target: Target, contexts: Contexts) -> list[list[str]]:
    """A sentence for each series whose context has fewer values than the version looks at."""
    counts = np.count_nonzero(~np.isnan(contexts.values[:, -target.context_length :]), axis=1)  # [B]
    return [
        []
        if count == target.context_length
        else [f"Only {count} of the last {target.context_length} steps, which the model looks at, have a value."]
        for count in counts.tolist()
    ]
