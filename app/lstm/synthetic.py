"""Series that never were: what the prior is taught with. numpy only, ours, reproducible from a generator.

A series is a level that wanders, a trend that changes, up to two seasons that drift, and noise; put together by sums or
by products; some jump, some are intermittent, some have holes.
"""

import numpy as np

from app.lstm.windows import Floats


def make_series(rng: np.random.Generator, count: int, length: int, season_lengths: tuple[int, ...]) -> Floats:
    """[count, length], NaN = missing; every series has at least half of its values."""
    noise_size = log_uniform(rng, 0.005, 0.3, count)  # [B, 1], of the level, or of one where there is none
    parts = trend(rng, count, length) + noise_size * level(rng, count, length)  # [B, T]
    for m in season_lengths:
        parts = parts + chance(rng, 0.8, count) * season(rng, count, length, m) * noise_size * log_uniform(rng, 0.3, 12, count)
    if len(season_lengths) > 1:
        parts = parts + chance(rng, 0.7, count) * week(rng, count, length, *season_lengths) * noise_size * log_uniform(
            rng, 1, 20, count
        )
    parts = parts + noise_size * noise(rng, count, length)
    products = np.exp(np.clip(parts, -12, 12))  # [B, T]
    around = rng.choice([0.0, 1.0, 3.0], (count, 1), p=[0.15, 0.35, 0.5])  # [B, 1]
    values = np.where(rng.random((count, 1)) < 0.6, products, around + parts)  # [B, T]
    values = intermit(rng, values)
    return punch_holes(rng, values * log_uniform(rng, 1e-2, 1e5, count))


def log_uniform(rng: np.random.Generator, low: float, high: float, count: int) -> Floats:
    """[count, 1]."""
    return np.asarray(np.exp(rng.uniform(np.log(low), np.log(high), (count, 1))))


def chance(rng: np.random.Generator, share: float, count: int) -> Floats:
    """[count, 1] of 0 and 1."""
    return (rng.random((count, 1)) < share).astype(np.float64)


def trend(rng: np.random.Generator, count: int, length: int) -> Floats:
    """Straight pieces: up to three changes of slope, and now and then a jump; [B, T]."""
    steps = np.arange(length)  # [T]
    size = log_uniform(rng, 0.0003, 0.06, count) * chance(rng, 0.75, count)  # [B, 1], of the level per step
    lines = size * rng.normal(0.3, 1, (count, 1)) * steps  # [B, T]
    for _ in range(3):
        after = np.maximum(steps - rng.uniform(0, length, (count, 1)), 0)  # [B, T]
        lines += chance(rng, 0.5, count) * size * rng.standard_normal((count, 1)) * after
    jump = steps >= rng.uniform(0, length, (count, 1))  # [B, T]
    lines += chance(rng, 0.25, count) * rng.normal(0, 0.2, (count, 1)) * jump
    limit = log_uniform(rng, 0.5, 8, count)  # [B, 1], growth ends somewhere
    return limit * np.tanh(lines / limit)


def level(rng: np.random.Generator, count: int, length: int) -> Floats:
    """A random walk, in half of them with a slope that wanders and fades; in units of the noise, [B, T]."""
    walk = rng.standard_normal((count, length)).cumsum(1) * log_uniform(rng, 0.03, 2, count) * chance(rng, 0.8, count)
    fading = rng.uniform(0.6, 0.97, (count, 1))  # [B, 1]
    shocks = rng.standard_normal((count, length)) * log_uniform(rng, 0.02, 0.6, count) * chance(rng, 0.5, count)
    wandering: Floats = walk + autoregress(shocks, fading).cumsum(1)
    return wandering


def autoregress(shocks: Floats, weight: Floats) -> Floats:
    """x_t = weight x_(t-1) + shock_t, [B, T]; weight [B, 1]."""
    values = shocks.copy()
    for t in range(1, shocks.shape[1]):
        values[:, t] += weight[:, 0] * values[:, t - 1]
    return values


def season(rng: np.random.Generator, count: int, length: int, m: int) -> Floats:
    """A shape of m phases with unit spread, smooth or rough, that drifts a little in some; [B, T]."""
    harmonics = np.arange(1, m // 2 + 1)  # [F]
    weights = rng.standard_normal((count, 2, len(harmonics))) * harmonics ** -rng.uniform(0, 2.5, (count, 1, 1))  # [B, 2, F]
    angles = 2 * np.pi * np.arange(m)[:, None] * harmonics / m  # [m, F]
    shape = weights[:, 0] @ np.cos(angles).T + weights[:, 1] @ np.sin(angles).T  # [B, m]
    rough = rng.standard_normal((count, m)) * (rng.random((count, m)) < rng.uniform(0.1, 1, (count, 1)))  # [B, m]
    shape = np.where(rng.random((count, 1)) < 0.3, rough, shape)
    if m % 7 == 0 and m > 7:  # a week of days: some phases are days off
        days = np.repeat(rng.standard_normal((count, 7)) * (rng.random((count, 7)) < 0.4), m // 7, axis=1)  # [B, m]
        shape = np.where(rng.random((count, 1)) < 0.6, days, shape)
    shape = (shape - shape.mean(1, keepdims=True)) / (shape.std(1, keepdims=True) + 1e-9)
    seasons = -(-length // m)
    drift = (
        rng.standard_normal((count, seasons, m)).cumsum(1)
        * (log_uniform(rng, 0.01, 0.3, count) * chance(rng, 0.4, count))[:, :, None]
    )
    swell = (
        1
        + 0.3 * chance(rng, 0.3, count)[:, :, None] * rng.standard_normal((count, 1, 1)) * np.linspace(-1, 1, seasons)[:, None]
    )
    start = rng.integers(m, size=(count, 1))
    whole = (swell * shape[:, None] + drift).reshape(count, -1)  # [B, seasons * m]
    return np.take_along_axis(whole, (start + np.arange(length)) % whole.shape[1], 1)


def week(rng: np.random.Generator, count: int, length: int, day: int, whole: int) -> Floats:
    """The shape of a day, larger on some days than on others, and another one on a few; [B, T]."""
    days = whole // day
    shape = season(rng, count, day, day)[:, None] * np.ones((1, days, 1))  # [B, days, day]
    other = season(rng, count, day, day)[:, None]  # [B, 1, day]
    off = (np.arange(days) >= days - 2) & (rng.random((count, 1)) < 0.7)  # [B, days]
    shape = np.where(
        off[:, :, None], rng.uniform(0, 1, (count, 1, 1)) * other + rng.uniform(0, 1, (count, 1, 1)) * shape, shape
    )
    size = 1 + 0.2 * rng.standard_normal((count, days, 1)) * chance(rng, 0.5, count)[:, :, None]  # [B, days, 1]
    weeks = (shape * size - off[:, :, None] * rng.uniform(0, 1, (count, 1, 1))).reshape(count, whole)  # [B, whole]
    start = rng.integers(whole, size=(count, 1))
    return np.take_along_axis(weeks, (start + np.arange(length)) % whole, 1)


def noise(rng: np.random.Generator, count: int, length: int) -> Floats:
    """Normal, heavy-tailed or autoregressive, with outliers in some; about unit spread, [B, T]."""
    normal = rng.standard_normal((count, length))
    heavy = rng.standard_t(3, (count, length)) / np.sqrt(3)
    values = np.where(rng.random((count, 1)) < 0.3, heavy, normal)
    weight = rng.uniform(-0.4, 0.8, (count, 1)) * chance(rng, 0.3, count)
    values = autoregress(values, weight)
    outliers = (rng.random((count, length)) < 0.02) * rng.normal(0, 6, (count, length)) * chance(rng, 0.1, count)
    swings = np.exp(
        chance(rng, 0.4, count) * 0.6 * autoregress(0.2 * rng.standard_normal((count, length)), np.full((count, 1), 0.98))
    )
    return values * swings + outliers


def intermit(rng: np.random.Generator, values: Floats) -> Floats:
    """A twentieth become counts with zeros between them, and some of the rest whole numbers."""
    count, length = values.shape
    demand = rng.random((count, length)) < rng.uniform(0.1, 0.9, (count, 1))  # [B, T]
    size = np.abs(values).mean(1, keepdims=True) + 1e-9
    counts = np.round(np.abs(values) / size * log_uniform(rng, 1, 30, count)) * demand
    whole = np.round(values / size * log_uniform(rng, 10, 1000, count))
    values = np.where(rng.random((count, 1)) < 0.2, whole, values)
    return np.where(rng.random((count, 1)) < 0.05, counts, values)


def punch_holes(rng: np.random.Generator, values: Floats) -> Floats:
    """A tenth lose single points and a stretch; the last value before and the half of all stay."""
    count, length = values.shape
    lost = rng.random((count, length)) < 0.1  # [B, T]
    start = rng.integers(length, size=(count, 1))
    lost |= (np.arange(length) >= start) & (np.arange(length) < start + length // 4)
    holed = np.where(lost, np.nan, values)
    few = np.isfinite(holed).sum(1, keepdims=True) < length / 2
    return np.where((rng.random((count, 1)) < 0.1) & ~few, holed, values)
