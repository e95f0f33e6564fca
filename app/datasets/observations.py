"""What every format is read into: columns of checked observations that still know where in the body each stood."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.datasets.chunks import NULL, Floats
from app.errors import InvalidObservations, Place
from app.frames import pl

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAX_PLACES = 20
MAX_FOUND_CHARACTERS = 80
RUNS_FROM, RUNS_SAMPLE = 10_000, 1_000
"""The shortest column of which the first so many cells tell whether it says the same in long runs."""


@dataclass(frozen=True)
class Observations:
    """B points and N values. Of rows every point has one value; of the compact form a point is a start, and `lengths` says how many
    values follow it step by step."""

    names: list[str]  # the series, each once
    series: Ints  # [B], index into names
    points: Ints  # [B], microseconds since 1970: UTC, or on the wall where is_naive; or steps where is_integer
    is_naive: Bools  # [B]
    is_integer: bool
    values: Floats  # [N], NULL where missing
    place: Callable[[int, str], Place]
    """Where the i-th "series" or "timestamp" (of B) or "value" (of N) stands in the body."""
    lengths: Ints | None = None  # [B], of the compact form
    freq: str | None = None
    """The freq that the body names."""


@dataclass
class Refusals:
    """Collects what is wrong, so that an answer can name up to 20 places, in the body's order, and count the rest."""

    found: list[tuple[int, Place]] = field(default_factory=list)
    total: int = 0

    def add(self, at: Iterable[Any], place: Callable[[int], Place], describe: Callable[[int], str]) -> None:
        """Every index in `at` is wrong for the reason that `describe` tells."""
        indexes = [int(index) for index in at]
        self.total += len(indexes)
        self.found += [(index, {**place(index), "detail": describe(index)}) for index in indexes[:MAX_PLACES]]

    def raise_if_any(self, error: type[InvalidObservations] = InvalidObservations) -> None:
        if self.total:
            raise refuse([place for _, place in sorted(self.found, key=lambda each: each[0])], self.total)


def refuse(places: list[Place], total: int) -> InvalidObservations:
    """The error whose detail tells the first place, and the number of the others."""
    first = places[0]
    where = first.get("pointer") or ", ".join(f"{key} {first[key]}" for key in ("row", "column") if key in first)
    more = f" (and {total - 1} more)" if total > 1 else ""
    return InvalidObservations(f"{where}: {first['detail']}{more}", errors=places[:MAX_PLACES])


def show(found: object) -> str:
    """What was found, short enough for a message."""
    text = repr(found)
    return text if len(text) <= MAX_FOUND_CHARACTERS else text[:MAX_FOUND_CHARACTERS] + "..."


def mark_missing(values: Floats) -> Floats:
    """The same array, every NaN in it the one that means a missing value which was sent."""
    values[np.isnan(values)] = NULL
    return values


def number_distinct(column: pl.Series) -> tuple[pl.Series, Ints]:
    """(the distinct texts [D] in order of appearance, which of them each cell is [N]) of a column without nulls."""
    if len(column) >= RUNS_FROM and column.head(RUNS_SAMPLE).rle().len() < RUNS_SAMPLE // 4:
        runs = column.rle().struct.unnest()  # a run's first cell stands for all: bodies are mostly sorted by series
        distinct, rows = _number_distinct(runs["value"])
        return distinct, np.repeat(rows, runs["len"].to_numpy())
    return _number_distinct(column)


def _number_distinct(column: pl.Series) -> tuple[pl.Series, Ints]:
    distinct = column.unique(maintain_order=True)
    return distinct, column.cast(pl.Enum(distinct)).to_physical().cast(pl.Int64).to_numpy()


def find_runs(*columns: Ints) -> Ints:
    """Where runs of equal rows begin: at the first row [N], and wherever a column differs from the row before."""
    begins = np.ones(len(columns[0]), np.bool_)
    begins[1:] = False
    for column in columns:
        begins[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(begins)
