"""The numbers that the network's surroundings are made of, and the tables that follow from them: for torch, which learns with them, and
for compiled code, which only forecasts. No torch here."""

import math
from functools import cache
from itertools import product
from statistics import NormalDist

import numpy as np

from app.lstm.config import MAX_CONTEXT_LENGTH
from app.lstm.windows import Floats

# Forecasts that are linear maps of the window (app/lstm/bases.py)
SMOOTHING = 0.5
DAMPING = 0.9
PLAIN = ("last", "ses", "drift", "damped")
SEASONAL = {"naive": 1, "shape_2": 2, "shape_4": 4, "shape_all": None}
"""How many seasons each looks at."""
SLOW, MIDDLE, FAST = 0.2, 0.3, 0.5
DESEASONED = ("slow", "fast", "line")
"""Smoothed without the season, slowly and fast, and a theta: with half of the line through the last `LINED` seasons."""
LINED = 3

# Forecasts that are fitted to it (app/lstm/fitted.py)
ALPHAS = (0.03, 0.08, 0.15, 0.25, 0.4, 0.55, 0.75, 1.0)
HOLT = tuple(product((0.1, 0.3, 0.6, 0.9), (0.0, 0.05, 0.25), (0.8, 0.9, 0.98)))
"""Of level, trend and damping, which changes fastest."""
QUICK = ("ses", "theta", "dot")
FITTED = (*QUICK, "damped", "theta_raw", "dot_raw", "damped_raw")
"""The quick ones cost a tenth of all by torch: enough where there is so much to learn from that a net adapts by itself."""
FADING = 0.7
"""How much less each season back counts in the seasonal shape."""
SMOOTHED = 128
"""Steps that the smoothing runs through: older ones have faded from any level, and the season is taken from all."""
FIRST_SLOPE = 10
UNJUDGED = 2
"""First observations that no error is counted of."""
WIDEST_LOGARITHM = 20.0
FLOOR = 0.1
"""Of the least value of a window: what a forecast without logarithms may fall to where logarithms are taken."""

# What is made of them (app/lstm/prior.py, inputs.py, network.py)
SLOTS = (*PLAIN, *(f"{kind}.{rank}" for rank in (0, 1) for kind in (*SEASONAL, *FITTED)))
LEVELS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99)
HIDDEN = 128
WINDOW_FACTS = 10
STEP_FACTS = 3
WIDENING = 1.2
"""Real series surprise more than synthetic ones: what the prior's quantiles lack where nothing can calibrate them."""
CAUTION = 0.4
"""How far the prior is drawn to the median of the fitted forecasts: it learned from series that never were. Not where there
are two seasons, which one fitted forecast alone does not know."""
LEAST_UNIT = 0.02
"""Of the window's spread: noise is never taken to be less."""
WIDEST = 3.0
"""The logarithm of how much a gap between quantiles may be stretched or shrunk."""


def map_window(length: int, horizon: int) -> Floats:
    """What the plain forecasts are made of, [4, R]: last value, level, and the slopes of the end, slow and fast."""
    points = (min(length, max(8, horizon)), min(length, 6))
    return np.stack([recent_mean(length, 1), smoothing(length, SMOOTHING), *(slope(length, n) for n in points)])


def map_without_season(length: int, m: int) -> Floats:
    """The same of a history without its season, [4, R]: three levels and the slope."""
    maps = [*(smoothing(length, alpha) for alpha in (SLOW, FAST, MIDDLE)), slope(length, min(length, LINED * m))]
    return np.stack(maps)


def count_steps(horizon: int) -> Floats:
    """How far a slope has gone after each step, [2, H]: half of all of them, and damped (Gardner & McKenzie, 1985)."""
    steps = np.arange(1, horizon + 1)  # [H]
    return np.stack([0.5 * steps, np.cumsum(DAMPING**steps)])


def list_shapes(length: int, season_lengths: tuple[int, ...]) -> list[tuple[str, int, int]]:
    """Of the seasonal shapes that fit into so long a window: name with the rank of the season, season length, how many seasons."""
    return [
        (f"{name}.{rank}", m, n)
        for rank, m in enumerate(season_lengths)
        for name, n in ((name, length // m if n is None else n) for name, n in SEASONAL.items())
        if (n >= 2 or name == "naive") and n * m <= length
    ]


def list_deseasoned(length: int, season_lengths: tuple[int, ...]) -> list[tuple[int, int]]:
    """Rank and length of the seasons that can be taken out of so long a window."""
    return [(rank, m) for rank, m in enumerate(season_lengths) if 2 * m <= length]


def list_fitted(length: int, season_lengths: tuple[int, ...]) -> list[tuple[int, int]]:
    """Rank and length of the seasons without which forecasts are fitted; where there is none, of the plain window."""
    return list_deseasoned(length, season_lengths) or [(0, 1)]


def choose_past(history_length: int, horizon: int) -> int:
    """How many steps before the cutoff it is looked at what the forecasts would have been."""
    return max(1, min(horizon, history_length // 2))


def choose_history_length(season_lengths: tuple[int, ...], context_length: int, long: int, horizon: int) -> int:
    """What the classical forecasts are fitted on: as much as a `long` series has, or four of its longest seasons, with room
    left to see how they would have done a horizon ago."""
    enough = max(128, 4 * max(season_lengths, default=1))
    room = max(MAX_CONTEXT_LENGTH - horizon, 2 * MAX_CONTEXT_LENGTH // 3)
    return max(context_length, min(long, enough, room))


def describe_steps(horizon: int, season_length: int) -> Floats:
    """The facts of each step ahead, [H, STEP_FACTS]."""
    steps = np.arange(1, horizon + 1)  # [H]
    return np.stack([np.log(steps) / 3, np.log1p(steps / season_length), 1 / steps], -1)


@cache
def share_gaps(levels: tuple[float, ...]) -> Floats:
    """How much of each of the prior's gaps lies between two neighbours of these levels, which hold 0.5: [Q - 1, Q' - 1].

    Quantiles lie on straight lines over the normal deviate of their level, the outermost lines going on.
    """
    deviates = find_deviates(LEVELS)  # [Q]
    wanted = find_deviates(levels)  # [Q']
    starts, ends = deviates[:-1].copy(), deviates[1:].copy()  # [Q - 1], [Q - 1], the outermost reach to infinity
    starts[0], ends[-1] = -math.inf, math.inf
    low = np.maximum(wanted[:-1, None], starts)  # [Q' - 1, Q - 1]
    high = np.minimum(wanted[1:, None], ends)  # [Q' - 1, Q - 1]
    shares: Floats = (np.maximum(high - low, 0) / np.diff(deviates)).T
    return shares


def find_deviates(levels: tuple[float, ...]) -> Floats:
    """The standard normal distribution's quantiles, [Q]."""
    return np.array([NormalDist().inv_cdf(level) for level in levels])


def smoothing(length: int, alpha: float) -> Floats:
    """Weights [R] of simple exponential smoothing (Brown, 1956), the first value being the start."""
    weights: Floats = alpha * (1 - alpha) ** np.arange(length - 1, -1, -1.0)
    weights[0] = (1 - alpha) ** (length - 1)
    return weights


def slope(length: int, points: int) -> Floats:
    """Weights [R] of the least-squares slope of the last `points`; of one point it is zero."""
    weights = np.zeros(length)
    centred = np.arange(points) - (points - 1) / 2
    weights[-points:] = centred / max(float(centred @ centred), 1e-9)
    return weights


def recent_mean(length: int, points: int) -> Floats:
    """Weights [R] of the mean of the last `points`."""
    weights = np.zeros(length)
    weights[-points:] = 1 / points
    return weights
