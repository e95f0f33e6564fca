"""Series end to end in one array, and the windows cut from them: one gather a batch, nothing copied beforehand."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Series:
    """Many series in one array; each runs from its first observation to its own last value. NaN = missing."""

    values: Floats  # [N]
    offsets: Ints  # [S + 1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Floats:
        """One series, [T]; a view."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> Ints:
        """[S], missing ones counted."""
        return np.diff(self.offsets)

    @classmethod
    def of(cls, arrays: "list[Floats]") -> "Series":
        """From one array per series."""
        offsets = np.concatenate([[0], np.cumsum([len(a) for a in arrays])]).astype(np.int64)  # [S + 1]
        values = np.concatenate(arrays).astype(np.float64) if arrays else np.empty(0)  # [N]
        return cls(values, offsets)

    def count_values(self) -> Ints:
        """How many observations of each series are not missing, [S]."""
        seen = np.concatenate([[0], np.cumsum(np.isfinite(self.values))])  # [N + 1]
        return np.asarray(np.diff(seen[self.offsets]), dtype=np.int64)

    def take(self, indices: Ints, lengths: Ints | None = None) -> "Series":
        """The chosen series, each cut to its first `lengths` observations where given."""
        lengths = self.lengths[indices] if lengths is None else lengths  # [S']
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)  # [S' + 1]
        shift = np.repeat(self.offsets[:-1][indices] - offsets[:-1], lengths)  # [N']
        return Series(self.values[np.arange(offsets[-1]) + shift], offsets)


@dataclass(frozen=True)
class Cutoffs:
    """Places to cut windows at: which series, and how many of its observations are seen. Both [W]."""

    series: Ints
    seen: Ints

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, index: "slice | Ints | npt.NDArray[np.bool_]") -> "Cutoffs":
        return Cutoffs(self.series[index], self.seen[index])


def gather_contexts(series: Series, cutoffs: Cutoffs, length: int) -> Floats:
    """The last `length` observations before each cutoff, [W, length]; NaN before a series' start."""
    starts = series.offsets[cutoffs.series]  # [W]
    places = (starts + cutoffs.seen)[:, None] + np.arange(-length, 0)  # [W, L]
    return np.where(places >= starts[:, None], series.values[np.maximum(places, 0)], np.nan)  # [W, L]


def gather_targets(series: Series, cutoffs: Cutoffs, horizon: int) -> Floats:
    """The `horizon` observations after each cutoff, [W, H]; NaN after a series' end."""
    ends = series.offsets[cutoffs.series + 1]  # [W]
    places = (series.offsets[cutoffs.series] + cutoffs.seen)[:, None] + np.arange(horizon)  # [W, H]
    return np.where(places < ends[:, None], series.values[np.minimum(places, len(series.values) - 1)], np.nan)  # [W, H]


class TrainingWindows:
    """Every window that may be learned from, by number: full targets where a series has them, else what there is.

    Contexts hold at least `least` observations where the series allows it, else one.
    """

    def __init__(self, series: Series, horizon: int, least: int) -> None:
        self.series = series
        lengths = series.lengths
        last = np.where(lengths - horizon >= 2, lengths - horizon, lengths - 1)  # [S], inclusive
        self._first = np.clip(least, 1, np.maximum(last, 1))  # [S]
        self._ends = np.cumsum(np.maximum(last - self._first + 1, 0))  # [S]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def cutoffs(self, numbers: Ints) -> Cutoffs:
        """The windows of these numbers, 0 .. len - 1."""
        which = np.searchsorted(self._ends, numbers, side="right")  # [W]
        before = np.where(which > 0, self._ends[which - 1], 0)  # [W]
        return Cutoffs(which.astype(np.int64), (self._first[which] + numbers - before).astype(np.int64))


def backtest_cutoffs(series: Series, horizon: int, n_windows: int, step_size: int, least: int) -> Cutoffs:
    """Rolling cutoffs from the end of each series, oldest first; those with fewer than `least` observations are left out."""
    back = horizon + step_size * np.arange(n_windows - 1, -1, -1)  # [n_windows]
    seen = (series.lengths[:, None] - back).ravel()  # [S * n_windows]
    which = np.repeat(np.arange(len(series)), n_windows)  # [S * n_windows]
    keep = seen >= least
    return Cutoffs(which[keep].astype(np.int64), seen[keep].astype(np.int64))


def fit_length(contexts: Floats, length: int) -> Floats:
    """The last `length` columns, NaN in front where there are fewer."""
    missing = length - contexts.shape[1]
    if missing <= 0:
        return contexts[:, -length:]
    return np.concatenate([np.full((len(contexts), missing), np.nan), contexts], 1)  # [B, length]
