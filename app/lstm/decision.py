"""What held-out windows decide: how much the net counts beside the prior, and how wide the quantiles must be."""

import math
from dataclasses import dataclass

import numpy as np

from app.lstm.windows import Floats

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
FEWEST_WINDOWS = 6
FEW_SCORES = 60
"""With fewer, a training warns that its widths rest on them."""
SHRINKAGE = 30.0
"""Scores that the assumption of well chosen widths is worth, when there are others to correct it."""
SHRINKAGE_OF_SHAPE = 1000.0
"""Scores that it is worth that all gaps are wrong by the same factor: one number is known from few scores, six are not."""
COMMON = (0.1, 0.9)
"""The interval that this factor is found by, or what levels come nearest."""
INDEPENDENT_STEPS = 4
"""Steps ahead of one window err together: a window is never worth more scores than this."""
LEAST_GAIN = 0.03
NARROWEST, WIDEST = 0.3, 4.0


@dataclass(frozen=True)
class Trial:
    """Forecasts of held-out windows by the net and by the prior, before any decision, in units of each window's seasonal change."""

    net: Floats  # [W, H, Q]
    prior: Floats  # [W, H, Q]
    actual: Floats  # [W, H], NaN = missing

    def __add__(self, other: "Trial") -> "Trial":
        return Trial(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in ("net", "prior", "actual")))

    def __len__(self) -> int:
        return len(self.actual)


@dataclass(frozen=True)
class Decision:
    """`weight` of the net, the rest is the prior's; `stretches` of the gaps between neighbouring quantiles, [Q - 1]; `spreads` of a point forecast's errors, [H]."""

    weight: float
    stretches: tuple[float, ...]
    reason: str
    calibrated: bool
    spreads: tuple[float, ...] = ()


def decide(trial: Trial | None, levels: tuple[float, ...], default: float) -> Decision:
    """From held-out windows; without any, the default weight and the widths as they are."""
    if trial is None or not len(trial):
        return Decision(default, (1.0,) * (len(levels) - 1), "there was nothing to hold out; by the amount of data", False)
    weight = choose_weight(trial, levels.index(0.5), default)
    blend = weight * trial.net + (1 - weight) * trial.prior  # [W, H, Q]
    stretches, scores = choose_stretches(blend, trial.actual, levels)
    reason = f"on {len(trial)} held-out windows the net got a weight of {weight}, the prior the rest"
    return Decision(weight, stretches, reason, scores >= FEW_SCORES)


def choose_weight(trial: Trial, middle: int, default: float) -> float:
    """The weight with the least error of the median, if it beats the default clearly; else the default.

    Windows of one time share that time's surprises, so more than chance over series is asked for. The widths do not
    count here: they are corrected afterwards.
    """
    if len(trial) < FEWEST_WINDOWS:
        return default
    net, prior = trial.net[..., middle], trial.prior[..., middle]  # [W, H], [W, H]
    errors = {w: window_errors(w * net + (1 - w) * prior, trial.actual) for w in {*WEIGHTS, default}}  # [W]
    best = min(errors, key=lambda w: (float(errors[w].mean()), w))
    gain = errors[default] - errors[best]  # [W]
    needed = max(gain.std() / np.sqrt(len(gain)), LEAST_GAIN * errors[default].mean())
    return best if gain.mean() > needed else default


def window_errors(median: Floats, actual: Floats) -> Floats:
    """Mean absolute error of each window, [W]; 0 for one where nothing was observed."""
    seen = np.isfinite(actual)  # [W, H]
    error = np.where(seen, np.abs(actual - median), 0)  # [W, H]
    return np.asarray(error.sum(1) / np.maximum(seen.sum(1), 1))


def choose_stretches(
    quantiles: Floats,
    actual: Floats,
    levels: tuple[float, ...],
    *,
    is_schooled: bool = True,
) -> tuple[tuple[float, ...], float]:
    """Factors of the gaps, from the median outwards, that make each level's share of held-out observations nominal
    (split conformal prediction; Romano, Patterson & Candès, 2019), pooled over series and steps; and how many scores there
    were, for what they are worth. Where these are few, all gaps are drawn towards one factor, and that towards 1; each by itself towards 1
    where no prior was schooled to give the quantiles their shape."""
    seen = np.isfinite(actual)  # [W, H]
    worth = float(np.minimum(seen.sum(1), INDEPENDENT_STEPS).sum())
    middle = levels.index(0.5)
    rows, happened = quantiles[seen], actual[seen]  # [N, Q], [N]
    gaps = np.maximum(np.diff(rows, axis=1), 1e-9)  # [N, Q - 1]
    if not worth or len(levels) == 1:
        return (1.0,) * (len(levels) - 1), worth
    common, shrinkage, count = 1.0, float(FEW_SCORES), math.inf
    if is_schooled:
        common = draw(find_common(happened - rows[:, middle], gaps, levels, worth), 1.0, worth, SHRINKAGE)
        shrinkage, count = SHRINKAGE_OF_SHAPE, worth
    stretches = np.ones(len(levels) - 1)
    for places, sign in ((range(middle, len(levels) - 1), 1.0), (range(middle - 1, -1, -1), -1.0)):
        edge = np.zeros(len(rows))  # [N], how far out the levels so far reach
        for place in places:
            level = levels[place + 1] if sign > 0 else 1 - levels[place]
            beyond = (sign * (happened - rows[:, middle]) - edge) / gaps[:, place]  # [N]
            stretches[place] = draw(quantile_of_next(beyond, level, count), common, worth, shrinkage)
            edge += stretches[place] * gaps[:, place]
    return tuple(float(s) for s in stretches), worth


def find_common(error: Floats, gaps: Floats, levels: tuple[float, ...], worth: float) -> float:
    """One factor of all gaps [N, Q - 1], by which the errors of the median [N] stay within the interval COMMON as often as they
    should; within what there is of it, where levels are on one side only."""
    middle = levels.index(0.5)
    share, scores = 1.0, np.full(len(error), -np.inf)  # [N], the larger of what each side says
    if middle > 0:
        low = min(range(middle), key=lambda place: abs(levels[place] - COMMON[0]))
        share, scores = share - levels[low], -error / gaps[:, low:middle].sum(1)
    if middle < len(levels) - 1:
        high = min(range(middle + 1, len(levels)), key=lambda place: abs(levels[place] - COMMON[1]))
        share, scores = share - (1 - levels[high]), np.maximum(scores, error / gaps[:, middle:high].sum(1))
    return quantile_of_next(scores, share, worth)


def quantile_of_next(scores: Floats, level: float, worth: float) -> float:
    """What the next score stays below with a chance of `level`, from scores [N] that are worth so many independent ones. Of n, the
    quantile itself is passed more often: (1 + 1/n) times the level is the place (Romano, Patterson & Candès, 2019)."""
    return float(np.quantile(scores, min(1.0, level * (1 + 1 / worth))))


def draw(factor: float, towards: float, worth: float, shrinkage: float) -> float:
    """A factor from scores worth so many, beside another that is worth `shrinkage`; within bounds."""
    return float(np.clip(towards + (factor - towards) * worth / (worth + shrinkage), NARROWEST, WIDEST))


def stretch_gaps(quantiles: Floats, stretches: tuple[float, ...], middle: int) -> Floats:
    """[B, H, Q] -> [B, H, Q], ordered as before: every gap is multiplied by something positive."""
    gaps = np.diff(quantiles, axis=-1) * np.asarray(stretches)  # [B, H, Q - 1]
    centre = quantiles[..., middle : middle + 1]  # [B, H, 1]
    below = np.cumsum(gaps[..., :middle][..., ::-1], -1)[..., ::-1]  # [B, H, Q below]
    above = np.cumsum(gaps[..., middle:], -1)  # [B, H, Q above]
    return np.concatenate([centre - below, centre, centre + above], -1)
