"""The collections that accuracy is measured on: histories, what came next, and what their calendar suggests."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SeriesSet:
    """`future[i]` follows `history[i]`. The candidates are what the service's calendar would suggest for the freq."""

    name: str
    horizon: int
    season_length: int
    candidates: tuple[int, ...]
    history: list[Floats]
    future: list[Floats]

    def inner(self, back: int = 1) -> "SeriesSet":
        """The same set at a cutoff inside the histories: for choices, so that the future stays unseen."""
        cut = self.horizon * back
        keep = [h for h in self.history if len(h) > cut + 2]
        future = [h[len(h) - cut : len(h) - cut + self.horizon] for h in keep]
        return replace(self, name=f"{self.name} (inner)", history=[h[:-cut] for h in keep], future=future)


FREQUENCIES = {
    "m4_hourly": (48, 24, (24, 168)),
    "m3_monthly": (18, 12, (12,)),
    "m3_quarterly": (8, 4, (4,)),
    "m3_yearly": (6, 1, ()),
    "m3_other": (8, 1, ()),
}

SINGLES = {
    "AirPassengers": (12, 12, (12,)),
    "wineind": (12, 12, (12,)),
    "monthly_milk": (12, 12, (12,)),
    "monthly_sunspots": (12, 12, (12,)),
    "ausbeer": (8, 4, (4,)),
    "woolyrnq": (8, 4, (4,)),
    "daily_min_temps": (30, 7, (7,)),
    "us_gasoline_weekly": (26, 52, (52,)),
    "us_ili_weekly": (26, 52, (52,)),
    "nyc_taxi_30min": (96, 48, (48, 336)),
    "taylor_30min": (96, 48, (48, 336)),
}
ORIGINS = 4


def read(path: Path) -> dict[str, Floats]:
    """Series by id, in the order of the file."""
    table = pl.read_parquet(path).sort("unique_id", "ds", maintain_order=True)
    groups = table.group_by("unique_id", maintain_order=True)
    return {str(key[0]): group["y"].to_numpy().astype(np.float64) for key, group in groups}


def load(data: Path, name: str) -> SeriesSet:
    """One of FREQUENCIES."""
    horizon, season, candidates = FREQUENCIES[name]
    history, future = read(data / f"{name}_train.parquet"), read(data / f"{name}_test.parquet")
    return SeriesSet(name, horizon, season, candidates, list(history.values()), [future[key] for key in history])


def load_singles(data: Path) -> Iterator[SeriesSet]:
    """Each single series as sets of one, one per rolling origin; the last ORIGINS horizons are the future."""
    for key, values in read(data / "single_series.parquet").items():
        horizon, season, candidates = SINGLES[key]
        for origin in range(ORIGINS, 0, -1):
            end = len(values) - origin * horizon
            yield SeriesSet(key, horizon, season, candidates, [values[:end]], [values[end : end + horizon]])


def load_etth1(data: Path) -> tuple[Floats, Floats, Floats]:
    """The standard split of 12, 4 and 4 months, [channels, T] each, standardised by the first."""
    values = np.stack(list(read(data / "etth1.parquet").values()))  # [7, 17420]
    month = 30 * 24
    train = values[:, : 12 * month]
    values = (values - train.mean(1, keepdims=True)) / train.std(1, keepdims=True)
    return values[:, : 12 * month], values[:, 12 * month : 16 * month], values[:, 16 * month : 20 * month]
