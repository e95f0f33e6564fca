"""Backtests: forecasts at cutoffs inside the data, scored beside seasonal naive on the same windows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.lstm.baselines import seasonal_naive
from app.lstm.config import MAX_CONTEXT_LENGTH, Config
from app.lstm.metrics import mase_scale, score, score_per_step, skill
from app.lstm.windows import Cutoffs, Floats, Ints, Series, backtest_cutoffs, gather_contexts, gather_targets

MOST_SCORED = 20_000
MOST_KEPT_SERIES = 200
LEAST_SEEN = 3
SLICE = 4096


@dataclass(frozen=True)
class BacktestForecasts:
    """What was forecast at each cutoff beside what happened, for evenly chosen series."""

    series: Ints  # [W], index into the series given to `learn`
    cutoff: Ints  # [W], how many of its observations were seen
    actual: Floats  # [W, H], NaN = missing
    quantiles: Floats  # [W, H, Q]


Predict = Callable[[Floats], Floats]
"""Contexts [B, up to 1024] -> quantiles [B, H, Q]."""


@dataclass(frozen=True)
class Backtest:
    """Which windows are scored, and which part of the data may be learned from."""

    series: Series
    cutoffs: Cutoffs
    training: Series


def plan_backtest(series: Series, horizon: int, n_windows: int, step_size: int | None) -> Backtest | None:
    """None where no series is long enough. Training ends at each series' earliest cutoff."""
    step_size = horizon if step_size is None else step_size
    cutoffs = backtest_cutoffs(series, horizon, n_windows, step_size, LEAST_SEEN)
    if len(cutoffs) > MOST_SCORED:
        cutoffs = cutoffs[np.linspace(0, len(cutoffs) - 1, MOST_SCORED).astype(np.int64)]
    cutoffs = cutoffs[scorable(series, cutoffs, horizon)]
    lengths = series.lengths - horizon - step_size * (n_windows - 1)  # [S]
    training = series.take(np.flatnonzero(lengths >= 2), lengths[lengths >= 2])
    if not len(cutoffs) or not (training.count_values() >= 2).any():
        return None
    return Backtest(series, cutoffs, training.take(np.flatnonzero(training.count_values() >= 2)))


def scorable(series: Series, cutoffs: Cutoffs, horizon: int) -> npt.NDArray[np.bool_]:
    """[W]: there is something to predict from and something to score."""
    if not len(cutoffs):
        return np.zeros(0, dtype=bool)
    counts = np.concatenate([[0], np.cumsum(np.isfinite(series.values))])  # [N + 1]
    starts, ends = series.offsets[cutoffs.series], series.offsets[cutoffs.series + 1]  # [W], [W]
    here = starts + cutoffs.seen  # [W]
    seen = counts[here] - counts[np.maximum(here - MAX_CONTEXT_LENGTH, starts)]  # [W]
    come = counts[np.minimum(here + horizon, ends)] - counts[here]  # [W]
    return np.asarray((seen > 0) & (come > 0))


def forecast_at(series: Series, cutoffs: Cutoffs, season_length: int, predict: Predict) -> Floats:
    """Quantiles [W, H, Q], a slice of windows at a time; contexts are as long as some series is, and as a season."""
    length = min(MAX_CONTEXT_LENGTH, max(int(series.lengths.max()), season_length))
    slices = [cutoffs[at : at + SLICE] for at in range(0, len(cutoffs), SLICE)]
    return np.concatenate([predict(gather_contexts(series, part, length)) for part in slices])


def evaluate(
    backtest: Backtest, config: Config, predict: Predict, champion: tuple[Predict, tuple[float, ...]] | None
) -> tuple[dict[str, Any], BacktestForecasts]:
    """The metrics object of the contract, and the forecasts kept for looking at. The champion brings its own levels."""
    series, cutoffs, levels, m = backtest.series, backtest.cutoffs, config.quantile_levels, config.season_length
    actual = gather_targets(series, cutoffs, config.horizon)  # [W, H]
    pairs = zip(cutoffs.series.tolist(), cutoffs.seen.tolist(), strict=True)
    scales = np.array([mase_scale(series[which][:seen], m) for which, seen in pairs])  # [W]
    quantiles = forecast_at(series, cutoffs, m, predict)  # [W, H, Q]
    naive = forecast_at(series, cutoffs, m, lambda contexts: seasonal_naive(contexts, config.horizon, m, levels))  # [W, H, Q]
    ours, baseline = score(actual, quantiles, levels, scales), score(actual, naive, levels, scales)
    metrics: dict[str, Any] = {
        "backtest": ours,
        "baseline": baseline,
        "skill": skill(ours, baseline),
        "n_windows": len(cutoffs),
        "series": len(np.unique(cutoffs.series)),
        "per_step": score_per_step(actual, quantiles, levels, scales),
        "baseline_per_step": score_per_step(actual, naive, levels, scales),
    }
    if champion is not None:
        champions_predict, champions_levels = champion
        metrics["champion"] = score(actual, forecast_at(series, cutoffs, m, champions_predict), champions_levels, scales)
    shown = np.unique(cutoffs.series)
    shown = shown[np.unique(np.linspace(0, len(shown) - 1, MOST_KEPT_SERIES).astype(np.int64))]
    keep = np.isin(cutoffs.series, shown)
    return metrics, BacktestForecasts(cutoffs.series[keep], cutoffs.seen[keep], actual[keep], quantiles[keep])


def empty_metrics() -> dict[str, Any]:
    """Where there was too little for a backtest."""
    nothing: dict[str, Any] = {
        "mae": None,
        "rmse": None,
        "smape": None,
        "mase": None,
        "wql": None,
        "coverage": {},
        "msis": None,
    }
    return {"backtest": nothing, "baseline": dict(nothing), "skill": None, "n_windows": 0, "series": 0}
