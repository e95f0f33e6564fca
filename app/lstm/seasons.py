"""Which seasons the data has: the calendar proposes, the autocorrelation decides where there are enough of them. numpy only."""

import numpy as np

from app.lstm.windows import Floats, Series

TESTED_SERIES = 200
TESTED_LENGTH = 4096
Z_90 = 1.645
SHARE_NEEDED = 0.1
"""A season is taken when this share of the tested series shows it: a net may ignore one, but cannot invent one."""
TRUSTED_SEASONS = 6
"""Of fewer seasons than this the autocorrelation says little, and the calendar's shortest is taken at its word."""


def choose_season_lengths(series: Series, candidates: tuple[int, ...], whole: Series | None = None) -> tuple[int, ...]:
    """Up to two of the candidates, ascending: each must be seen in the series once the shorter ones are taken out. Where all of these
    are too short for that, it is enough if `whole`, which they were held back from, is long enough; its values are not looked at."""
    chosen: list[int] = []
    picks = np.unique(np.linspace(0, len(series) - 1, TESTED_SERIES).astype(np.int64))
    tested = [series[int(i)] for i in picks]
    for season in sorted(set(candidates)):
        if season < 2 or len(chosen) == 2:
            continue
        least, trusted = 2 * season + 2, 0 if chosen else TRUSTED_SEASONS * season
        long = [values for values in tested if min(len(values), TESTED_LENGTH) >= least]
        votes = [len(values) < trusted or has_season(values[-TESTED_LENGTH:], season, tuple(chosen)) for values in long]
        if not votes and whole is not None and not chosen:
            votes = [bool((whole.lengths >= least).any())]
        if votes and np.mean(votes) >= SHARE_NEEDED:
            chosen.append(season)
    return tuple(chosen)


@np.errstate(over="ignore", invalid="ignore")
def has_season(values: Floats, season: int, without: tuple[int, ...] = ()) -> bool:
    """Whether the autocorrelation at lag `season` passes the 90 % test of the M4 competition (Makridakis et al., 2020),
    after taking out the mean shape of the seasons in `without`: on differences, which know no trend, or on distances from
    the moving mean of a season, which drown less in noise. NaN = missing, passed over."""
    for shorter in without:
        values = values - shape(values, shorter)
    return passes(np.diff(values), season) or passes(values - moving_mean(values, season), season)


def passes(values: Floats, season: int) -> bool:
    """The test itself; NaN counts as the mean."""
    if not np.isfinite(values).any():
        return False
    values = np.nan_to_num(values - np.nanmean(values))
    energy = float(values @ values)
    if not np.isfinite(energy) or energy <= 0:
        return False
    size = 1 << (2 * len(values) - 1).bit_length()
    spectrum = np.abs(np.fft.rfft(values, size)) ** 2
    acf = np.fft.irfft(spectrum)[: season + 1] / energy  # [season + 1]
    limit = Z_90 * np.sqrt((1 + 2 * np.sum(acf[1:season] ** 2)) / len(values))
    return bool(acf[season] > limit)


def moving_mean(values: Floats, season: int) -> Floats:
    """The mean of about a season around each value, [T], of what is not missing."""
    seen = np.isfinite(values)
    window = np.ones(season)
    counts = np.convolve(seen, window, mode="same")
    sums: Floats = np.convolve(np.where(seen, values, 0.0), window, mode="same")
    return np.asarray(sums / np.maximum(counts, 1))


def shape(values: Floats, season: int) -> Floats:
    """The mean of each phase of a season, repeated over the length of `values`; 0 where a phase was never seen."""
    phases = np.arange(len(values)) % season  # [T]
    seen = np.isfinite(values)
    counts = np.bincount(phases[seen], minlength=season)  # [season]
    sums = np.bincount(phases[seen], weights=values[seen], minlength=season)  # [season]
    means: Floats = sums / np.maximum(counts, 1)  # [season]
    return means[phases]
