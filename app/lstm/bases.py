"""Classical forecasts as fixed linear maps of a window: the network gates over them, so it starts as their average.

Each base is a matrix [L, H] whose columns sum to one, so all of them follow a shift and a scaling of the window.
"""

import numpy as np

from app.lstm.windows import Floats

SMOOTHING = (0.5, 0.2)
DAMPING = 0.9


def base_maps(context_length: int, horizon: int, season_lengths: tuple[int, ...]) -> dict[str, Floats]:
    """Name -> matrix [L, H], for a window without gaps."""
    L, H = context_length, horizon
    steps = np.arange(1, H + 1)  # [H]
    ones = np.ones(H)  # [H]
    last = np.zeros(L)  # [L]
    last[-1] = 1.0
    damped = np.cumsum(DAMPING**steps)  # [H], Gardner & McKenzie (1985)
    maps = {"last": np.outer(last, ones)}
    for alpha in SMOOTHING:
        maps[f"ses_{alpha}"] = np.outer(smoothing(L, alpha), ones)
    if L >= 4:
        maps["drift"] = np.outer(smoothing(L, 0.5), ones) + 0.5 * np.outer(slope(L, min(L, max(8, H))), steps)
        maps["damped"] = np.outer(last, ones) + np.outer(slope(L, min(L, 6)), damped)
    for m in season_lengths:
        if m > L:
            continue
        seasons = L // m
        maps[f"naive_{m}"] = phase_mean(L, H, m, 1)
        level = np.outer(recent_mean(L, m), ones)  # [L, H]
        for n in sorted({min(2, seasons), min(4, seasons), seasons} - {1}):
            maps[f"shape_{m}_{n}"] = level + season_shape(L, H, m, n)
        if seasons >= 2:
            n = min(4, seasons)
            clean = np.eye(L) - season_shape_inside(L, m, n)  # [L, L]: a window -> the window without its season
            ahead = season_shape(L, H, m, n)  # [L, H]
            for alpha in (0.5, 0.2):
                maps[f"deseasonalised_{m}_{alpha}"] = np.outer(clean @ smoothing(L, alpha), ones) + ahead
            trend = np.outer(smoothing(L, 0.3), ones) + 0.5 * np.outer(slope(L, min(L, 3 * m)), steps)  # [L, H]
            maps[f"theta_{m}"] = clean @ trend + ahead  # Assimakopoulos & Nikolopoulos (2000)
    return maps


def smoothing(L: int, alpha: float) -> Floats:
    """Weights [L] of simple exponential smoothing (Brown, 1956), the first value being the start."""
    weights: Floats = alpha * (1 - alpha) ** np.arange(L - 1, -1, -1.0)
    weights[0] = (1 - alpha) ** (L - 1)
    return weights


def slope(L: int, points: int) -> Floats:
    """Weights [L] of the least-squares slope of the last `points`."""
    weights = np.zeros(L)
    centred = np.arange(points) - (points - 1) / 2
    weights[-points:] = centred / (centred @ centred)
    return weights


def recent_mean(L: int, points: int) -> Floats:
    """Weights [L] of the mean of the last `points`."""
    weights = np.zeros(L)
    weights[-points:] = 1 / points
    return weights


def phase_mean(L: int, H: int, m: int, seasons: int) -> Floats:
    """[L, H]: each step ahead is the mean of its phase over the last `seasons`."""
    weights = np.zeros((L, H))
    for k in range(H):
        newest = L - m + k % m
        weights[newest - m * np.arange(seasons), k] = 1 / seasons
    return weights


def season_shape(L: int, H: int, m: int, seasons: int) -> Floats:
    """[L, H]: the mean seasonal shape ahead, each season centred on itself."""
    return phase_mean(L, H, m, seasons) - recent_mean(L, m * seasons)[:, None]


def season_shape_inside(L: int, m: int, seasons: int) -> Floats:
    """[L, L]: the mean seasonal shape at every place of the window."""
    one = season_shape(L, m, m, seasons)  # [L, m], phases counted from the cutoff on
    return one[:, np.arange(-L, 0) % m]
