"""Naive2, the measure of the M4 competition: the last value, seasonally adjusted where a 90 % test finds a season
(Makridakis, Spiliotis & Assimakopoulos, 2020)."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def naive2(history: Floats, horizon: int, season: int) -> Floats:
    """[T] -> [horizon]."""
    if season == 1 or not is_seasonal(history, season):
        return np.full(horizon, history[-1])
    indices = multiplicative_indices(history, season)  # [season]
    n = len(history)
    return np.asarray(history[-1] / indices[(n - 1) % season] * indices[(n + np.arange(horizon)) % season])


def is_seasonal(history: Floats, season: int) -> bool:
    """Whether the autocorrelation at the season passes 1.645 standard errors (Bartlett); three seasons are needed."""
    if len(history) < 3 * season:
        return False
    centred = history - history.mean()
    energy = centred @ centred
    if energy == 0:
        return False
    acf = np.array([centred[lag:] @ centred[: len(centred) - lag] / energy for lag in range(1, season + 1)])
    return bool(abs(acf[-1]) > 1.645 * np.sqrt((1 + 2 * (acf[:-1] ** 2).sum()) / len(history)))


def multiplicative_indices(history: Floats, season: int) -> Floats:
    """Classical decomposition: ratios to the centred moving average, averaged by phase, their mean made one."""
    weights = np.ones(season + 1 - season % 2) / season
    if season % 2 == 0:
        weights[[0, -1]] = 0.5 / season
    half = len(weights) // 2
    trend = np.convolve(history, weights, mode="valid")
    ratios = history[half : half + len(trend)] / trend
    phases = (half + np.arange(len(trend))) % season
    indices = np.array([ratios[phases == phase].mean() for phase in range(season)])
    return np.asarray(indices / indices.mean())
