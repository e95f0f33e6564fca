"""Scores of forecasts. Every function skips missing observations and gives None where nothing can be scored."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from app.lstm.windows import Floats

INTERVALS = {"0.5": (0.25, 0.75), "0.8": (0.1, 0.9), "0.95": (0.025, 0.975)}


@np.errstate(over="ignore", invalid="ignore")
def score(actual: Floats, quantiles: Floats, levels: tuple[float, ...], mase_scales: Floats) -> dict[str, Any]:
    """All metrics of forecasts [W, H, Q] against actual [W, H]; mase_scales [W], NaN where a series has none."""
    median = quantiles[..., levels.index(0.5)]  # [W, H]
    error = np.abs(actual - median)  # [W, H]
    intervals = {name: pair for name, pair in INTERVALS.items() if pair[0] in levels and pair[1] in levels}
    edges = {n: (quantiles[..., levels.index(a)], quantiles[..., levels.index(b)]) for n, (a, b) in intervals.items()}
    scores: dict[str, Any] = {
        "mae": number(average(error)),
        "rmse": number(np.sqrt(average(error**2))),
        "smape": number(average(average(smape(actual, median), 1))),
        "mase": number(average(average(error, 1) / mase_scales)),
        "wql": number(weighted_quantile_loss(actual, quantiles, levels)),
        "coverage": {name: number(average(inside(actual, *edge))) for name, edge in edges.items()},
    }
    if "0.95" in edges:
        scores["msis"] = number(average(average(interval_score(actual, *edges["0.95"], 0.05), 1) / mase_scales))
    return scores


@np.errstate(over="ignore", invalid="ignore")
def score_per_step(actual: Floats, quantiles: Floats, levels: tuple[float, ...], mase_scales: Floats) -> dict[str, Any]:
    """MAE, MASE and coverage of each step ahead, lists of H."""
    median = quantiles[..., levels.index(0.5)]  # [W, H]
    error = np.abs(actual - median)  # [W, H]
    per_step: dict[str, Any] = {
        "mae": [number(v) for v in average(error, 0)],
        "mase": [number(v) for v in average(error / mase_scales[:, None], 0)],
    }
    coverage = {}
    for name, (a, b) in INTERVALS.items():
        if a in levels and b in levels:
            hits = inside(actual, quantiles[..., levels.index(a)], quantiles[..., levels.index(b)])  # [W, H]
            coverage[name] = [number(v) for v in average(hits, 0)]
    return {**per_step, "coverage": coverage}


def skill(scores: Mapping[str, Any], baseline: Mapping[str, Any]) -> float | None:
    """1 - mase / baseline's mase; by MAE where MASE is undefined for want of history."""
    for name in ("mase", "mae"):
        ours, theirs = scores[name], baseline[name]
        if ours is not None and theirs is not None and theirs > 0:
            return number(1 - ours / theirs)
    return None


def smape(actual: Floats, forecast: Floats) -> Floats:
    """200 |y - f| / (|y| + |f|), 0 where both are 0 (Makridakis, 1993, as the M4 competition counts it)."""
    size = np.abs(actual) + np.abs(forecast)
    return np.asarray(200 * np.abs(actual - forecast) / np.where(size == 0, 1, size))


@np.errstate(over="ignore", invalid="ignore")
def mase_scale(history: Floats, season_length: int) -> float:
    """Mean absolute seasonal difference of a history [T] (Hyndman & Koehler, 2006); NaN where undefined or 0."""
    if len(history) <= season_length:
        return float("nan")
    scale = float(average(np.abs(history[season_length:] - history[:-season_length])))
    return scale if scale > 0 else float("nan")


def weighted_quantile_loss(actual: Floats, quantiles: Floats, levels: tuple[float, ...]) -> float:
    """2 sum of pinball / sum of |y|, mean over levels (Salinas et al., 2020)."""
    seen = np.isfinite(actual)  # [W, H]
    size = float(np.abs(actual[seen]).sum())
    error = actual[seen][:, None] - quantiles[seen]  # [N, Q]
    q = np.asarray(levels)  # [Q]
    loss = 2 * np.maximum(q * error, (q - 1) * error).sum(0)  # [Q]
    return float(loss.mean() / size) if size > 0 else float("nan")


def inside(actual: Floats, low: Floats, high: Floats) -> Floats:
    """1 where the interval, its edges included, holds the observation; NaN where that is missing."""
    return np.where(np.isfinite(actual), ((actual >= low) & (actual <= high)).astype(np.float64), np.nan)


def interval_score(actual: Floats, low: Floats, high: Floats, alpha: float) -> Floats:
    """Width plus 2/alpha of what lies outside (Gneiting & Raftery, 2007); over the MASE scale it is MSIS."""
    outside = np.maximum(low - actual, 0) + np.maximum(actual - high, 0)
    return np.asarray(np.where(np.isfinite(actual), high - low + 2 / alpha * outside, np.nan))


def average(values: Floats, axis: int | None = None) -> Floats:
    """The mean of what is not NaN; NaN where all is."""
    seen = np.isfinite(values)
    count = seen.sum(axis)
    total = np.where(seen, values, 0.0).sum(axis)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def number(value: "float | Floats") -> float | None:
    """A float for JSON: None where it is not finite."""
    return float(value) if np.isfinite(value) else None
