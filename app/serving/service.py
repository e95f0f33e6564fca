"""From a request to what is forecast from: which version, which series, their contexts, as arrays. Nothing is computed here, and no
row becomes an object: this is read for every forecast."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.calendar import Grid
from app.contract import parse_moment
from app.datasets import service as datasets
from app.datasets.store import SeriesRow
from app.errors import (
    AnswerTooLarge,
    ContextTooShort,
    FreqUndetermined,
    HorizonTooLong,
    NoTrainedVersion,
    OffGrid,
    Place,
    QuantileOutOfRange,
)
from app.registry import service as registry
from app.serving.schemas import ContextInput, ForecastInput
from app.settings import Settings
from app.statements import Rows, Statement
from app.tables import Alias, Dataset, Model, Training, Version

MEDIAN = 0.5


@dataclass(frozen=True, slots=True)
class Serving:
    """A version as it stands in the registry now, and the dataset whose series it forecasts."""

    model_id: int
    version_id: int
    version: int
    dataset_id: int
    dataset: str
    grid: Grid


@dataclass(frozen=True, slots=True)
class Learned:
    """What a version can answer: immutable, as the version is."""

    horizon: int
    quantile_levels: tuple[float, ...]
    context_length: int


@dataclass(frozen=True, slots=True)
class Target:
    """What a request resolves to before any series is read: the version, its grid, how far, and at which levels (sorted)."""

    model: str
    serving: Serving
    horizon: int
    quantile_levels: tuple[float, ...]
    context_length: int
    cutoff_step: int | None

    @property
    def grid(self) -> Grid:
        return self.serving.grid

    @property
    def predicted_levels(self) -> tuple[float, ...]:
        """The levels asked for, and the median, which every answer has."""
        return self.quantile_levels if MEDIAN in self.quantile_levels else tuple(sorted({*self.quantile_levels, MEDIAN}))


@dataclass(frozen=True)
class Contexts:
    """What is forecast from: names [B], values float64 [B, L] (NaN: missing, in front too), cutoff steps int64 [B]."""

    names: list[str]
    values: np.ndarray
    cutoffs: np.ndarray


@dataclass(frozen=True)
class Forecasts:
    """B forecasts: `median` float64 [B, H], `quantiles` float64 [B, H, Q]."""

    target: Target
    names: list[str]
    cutoffs: np.ndarray
    median: np.ndarray
    quantiles: np.ndarray
    warnings: list[list[str]]

    @property
    def steps(self) -> np.ndarray:
        """int64 [B, H] after each cutoff."""
        steps: np.ndarray = self.cutoffs[:, None] + np.arange(1, self.target.horizon + 1)
        return steps


_SERVING = (
    sa.select(
        *(Model.id, Version.id, Version.number),
        *(Dataset.id, Dataset.name, Dataset.freq, Dataset.phase_us, Dataset.time_zone),
    )
    .select_from(Model)
    .where(Model.workspace_id == sa.bindparam("workspace_id"), Model.name == sa.bindparam("model"))
)
_OF_VERSION = Version.model_id == Model.id
_BY_NUMBER = Statement(
    lambda _: _SERVING.join(Version, sa.and_(_OF_VERSION, Version.number == sa.bindparam("wanted"))).join(
        Dataset, Dataset.id == Version.dataset_id
    )
)
_BY_ALIAS = Statement(
    lambda _: (
        _SERVING.join(Alias, sa.and_(Alias.model_id == Model.id, Alias.name == sa.bindparam("wanted")))
        .join(Version, Version.id == Alias.version_id)
        .join(Dataset, Dataset.id == Version.dataset_id)
    )
)


def find_serving(session: Session, workspace_id: int, model: str, wanted: int | str | None) -> Serving:
    """What `wanted` (a number, an alias, or None: what serves) is now, with one SELECT. Raises NotFound and NoTrainedVersion."""
    alias = registry.CHAMPION if wanted is None else wanted
    rows: Rows = ()
    if isinstance(alias, int) or registry.ALIAS.fullmatch(alias):
        statement = _BY_NUMBER if isinstance(alias, int) else _BY_ALIAS
        rows = statement.rows(session, workspace_id=workspace_id, model=model, wanted=alias)
    if not rows:
        raise _explain_absence(session, workspace_id, model, wanted)
    model_id, version_id, number, dataset_id, dataset, freq, phase_us, time_zone = rows[0]
    if freq is None or phase_us is None:
        raise FreqUndetermined(f"dataset {dataset!r} has no observations, so its timestamps have no grid", dataset=dataset)
    return Serving(model_id, version_id, number, dataset_id, dataset, Grid(freq, phase_us, time_zone))


def read_learned(session: Session, version_id: int) -> Learned:
    horizon, config = session.execute(sa.select(Version.horizon, Version.config).where(Version.id == version_id)).one()
    return Learned(horizon, tuple(config["quantile_levels"]), config["context_length"])


def set_target(model: str, serving: Serving, learned: Learned, wanted: ForecastInput, cutoff_place: Place) -> Target:
    """How far and at which levels `wanted` is to be forecast; each refused with both sides named."""
    horizon = wanted.horizon or learned.horizon
    if horizon > learned.horizon:
        raise HorizonTooLong(
            f"version {serving.version} of model {model!r} was trained for a horizon of {learned.horizon}, "
            f"found {horizon}; ask for at most {learned.horizon}, or train with a longer one",
            trained_horizon=learned.horizon,
            horizon=horizon,
        )
    known = learned.quantile_levels
    levels = tuple(sorted(set(wanted.quantile_levels))) if wanted.quantile_levels else known
    if levels[0] < known[0] or levels[-1] > known[-1]:
        raise QuantileOutOfRange(
            f"#/quantile_levels: expected levels from {known[0]} to {known[-1]}, which version {serving.version} learned, "
            f"found {levels[0]} to {levels[-1]}; train with wider quantile_levels",
            learned=list(known),
            found=list(levels),
        )
    cutoff = wanted.cutoff
    step = None if cutoff is None else serving.grid.step_at_or_before(parse_moment(cutoff, serving.grid, cutoff_place))
    return Target(model, serving, horizon, levels, learned.context_length, step)


def place_contexts(grid: Grid, given: Sequence[ContextInput], length: int) -> Contexts:
    """The last `length` steps of contexts sent with the request, laid on the dataset's grid. Raises OffGrid, ContextTooShort."""
    values = np.full((len(given), length), np.nan)  # [B, L]
    cutoffs = np.empty(len(given), np.int64)  # [B]
    for index, one in enumerate(given):
        start = _place_start(grid, one.start, f"#/context/{index}/start")
        column = np.array(one.values, dtype=np.float64)  # None becomes NaN
        last = len(column)
        if np.isnan(column[-1]):
            present = np.flatnonzero(~np.isnan(column))
            if not len(present):
                pointer, detail = f"#/context/{index}/values", "expected at least one value that is not null"
                raise ContextTooShort(f"{pointer}: {detail}", errors=[{"pointer": pointer, "detail": detail}])
            last = int(present[-1]) + 1
        column = column[max(0, last - length) : last]
        values[index, length - len(column) :] = column
        cutoffs[index] = start + last - 1
    return Contexts([one.id for one in given], values, cutoffs)


def read_contexts(session: Session, target: Target, rows: Sequence[SeriesRow], length: int) -> tuple[Contexts, list[bool]]:
    """The contexts of these series up to the cutoff, without those that have no value to go by, and which have one."""
    values, cutoffs, known = datasets.read_contexts(session, rows, length, target.cutoff_step)
    names = [row.name for row, is_known in zip(rows, known, strict=True) if is_known]
    return Contexts(names, values[known], cutoffs[known]), known.tolist()


def check_known(target: Target, rows: Sequence[SeriesRow], known: Sequence[bool]) -> None:
    """Raises ContextTooShort for a series that was named and has no value to go by."""
    without = sorted({row.name for row, is_known in zip(rows, known, strict=True) if not is_known})
    if without:
        until = "" if target.cutoff_step is None else f" up to {target.grid.to_labels(np.array([target.cutoff_step]))[0]}"
        raise ContextTooShort(
            f"series {without[0]!r} has no value{until} to forecast from"
            + (f" (and {len(without) - 1} more series)" if len(without) > 1 else ""),
            series=without[:20],
        )


def join(pages: Sequence[Forecasts]) -> Forecasts:
    """Pages end to end."""
    cutoffs, median, quantiles = (
        np.concatenate([getattr(page, part) for page in pages]) for part in ("cutoffs", "median", "quantiles")
    )
    names = [name for page in pages for name in page.names]
    warnings = [each for page in pages for each in page.warnings]
    return Forecasts(pages[0].target, names, cutoffs, median, quantiles, warnings)


def lay_out(target: Target, contexts: Contexts, quantiles: np.ndarray) -> Forecasts:
    """Quantiles [B, H, Q] at `target.predicted_levels` as forecasts at those asked for."""
    levels = target.predicted_levels
    kept = None if levels is target.quantile_levels else [levels.index(level) for level in target.quantile_levels]
    return Forecasts(
        target=target,
        names=contexts.names,
        cutoffs=contexts.cutoffs,
        median=quantiles[:, :, levels.index(MEDIAN)],
        quantiles=quantiles if kept is None else quantiles[:, :, kept],
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


def _explain_absence(session: Session, workspace_id: int, model_name: str, wanted: int | str | None) -> Exception:
    """Why nothing was found; registry's own words where the model, the version or the alias is not there."""
    model = registry.get_model(session, workspace_id, model_name)
    if isinstance(wanted, int):
        registry.get_version(session, model, wanted)
    elif wanted is not None:
        registry.get_by_alias(session, model, wanted)
    if registry.read_newest_numbers(session, [model.id]):
        return NoTrainedVersion(
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
    return NoTrainedVersion(
        f"model {model.name!r} has no version yet"
        + (f"; its training {training.public_id} is {training.status}" if training else "; train it first"),
        model=model.name,
        training=training.public_id if training else None,
        training_status=training.status if training else None,
    )


@lru_cache(maxsize=4096)
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
    looked_at = contexts.values[:, -target.context_length :]  # [B, L]
    if looked_at.shape[1] == target.context_length and not np.isnan(looked_at.sum()):
        return [[] for _ in contexts.names]
    counts = np.count_nonzero(~np.isnan(looked_at), axis=1)  # [B]
    return [
        []
        if count == target.context_length
        else [f"Only {count} of the last {target.context_length} steps, which the model looks at, have a value."]
        for count in counts.tolist()
    ]
