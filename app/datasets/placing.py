"""Observations -> steps on the dataset's grid: the grid inferred, points placed, equal ones folded. Pure: no rows, no requests."""

from dataclasses import dataclass

import numpy as np

from app.calendar import Grid, fit, infer, parse_freq
from app.datasets.chunks import Floats
from app.datasets.observations import MAX_PLACES, Ints, Observations, Refusals, mark_missing, refuse
from app.datasets.timestamps import EXPECTED, guess_unit
from app.errors import DuplicateObservations, FreqUndetermined, InvalidObservations, OffGrid, Place
from app.zones import localize


@dataclass(frozen=True)
class Settled:
    """What the dataset already says about its grid; None where it says nothing yet."""

    freq: str | None
    phase_us: int | None
    time_zone: str
    aggregate: str | None


@dataclass(frozen=True)
class Placed:
    """M steps, each once per series, sorted by series and step."""

    grid: Grid
    series: Ints  # [M], index into the observations' names
    steps: Ints  # [M]
    values: Floats  # [M], NULL where missing
    rows: Ints  # [M], the value of the body (of N) that each came from, one of them if several were folded


def place(observations: Observations, settled: Settled) -> Placed:
    """Raises InvalidObservations, FreqUndetermined, OffGrid and DuplicateObservations, naming places."""
    freq = _choose_freq(observations, settled)
    if observations.is_integer:
        grid, steps, points = _accept_steps(observations, freq), observations.points, observations.points
    else:
        grid, steps, points = _place_timestamps(observations, freq, settled)
    series = observations.series
    if observations.lengths is not None:
        starts = np.repeat(np.cumsum(observations.lengths) - observations.lengths, observations.lengths)
        series = np.repeat(series, observations.lengths)
        steps = np.repeat(steps, observations.lengths) + np.arange(len(series)) - starts
        points = steps
    values, order = observations.values, np.arange(len(series))
    same_series, advance = series[1:] == series[:-1], steps[1:] - steps[:-1]
    if settled.aggregate == "last" or (series[1:] < series[:-1]).any() or (same_series & (advance < 0)).any():
        order = _sort(series, steps, points if settled.aggregate == "last" else None)
        series, steps, values = series[order], steps[order], values[order]
        same_series, advance = series[1:] == series[:-1], steps[1:] - steps[:-1]
    same = np.flatnonzero(same_series & (advance == 0)) + 1
    if not len(same):
        return Placed(grid, series, steps, values, order)
    firsts = np.setdiff1d(np.arange(len(steps)), same, assume_unique=True)
    if settled.aggregate is None:
        _require_equal(observations, grid, steps, values, order, same)
        folded = values[firsts]
    else:
        folded = _aggregate(values, firsts, settled.aggregate)
        _require_finite(observations, folded, order[firsts])
    return Placed(grid, series[firsts], steps[firsts], folded, order[firsts])


def _choose_freq(observations: Observations, settled: Settled) -> str | None:
    """The freq that the dataset or the body names; None if it is to be inferred."""
    if observations.freq and settled.freq and observations.freq != settled.freq:
        detail = f"expected the dataset's freq {settled.freq!r}, found {observations.freq!r}"
        raise refuse([{"pointer": "#/series/0/freq", "detail": detail}], 1)
    freq = settled.freq or observations.freq
    if freq is None and observations.lengths is not None:
        raise FreqUndetermined("series with a start need a freq: send one with them, or PUT the dataset with one first")
    return freq


def _accept_steps(observations: Observations, freq: str | None) -> Grid:
    """The grid of integers. They are refused where timestamps are due, and where they look like timestamps of some unit."""
    points = observations.points
    if freq is None:
        hints = [hint for index in (int(points.argmin()), int(points.argmax())) if (hint := guess_unit(int(points[index])))]
        if hints:
            detail = f"{hints[0]}; if integers are meant, PUT the dataset with freq step first"
            raise refuse([{**observations.place(0, "timestamp"), "detail": f"expected {EXPECTED}; {detail}"}], len(points))
        if (points == points[0]).all():
            raise FreqUndetermined("a freq needs two distinct timestamps, found 1; PUT the dataset with a freq first", found=1)
    elif freq != "step":
        hint = guess_unit(int(points[0]))
        detail = f"expected {EXPECTED}, since the dataset's freq is {freq}, found the integer {points[0]}{f'; {hint}' if hint else ''}"
        raise refuse([{**observations.place(0, "timestamp"), "detail": detail}], len(points))
    return Grid("step")


def _place_timestamps(observations: Observations, freq: str | None, settled: Settled) -> tuple[Grid, Ints, Ints]:
    """(grid, steps, UTC points) of B points."""
    if freq == "step":
        detail = "expected an integer, since the dataset's freq is step, found a timestamp"
        raise refuse([{**observations.place(0, "timestamp"), "detail": detail}], len(observations.points))
    points, absent = observations.points, np.zeros(0, np.int64)
    if observations.is_naive.any():
        naive = np.flatnonzero(observations.is_naive)
        utc, jumped = localize(points[naive], settled.time_zone, observations.series[naive])
        points = points.copy()
        points[naive], absent = utc, naive[jumped]
    grid = _choose_grid(points, freq, settled)
    if len(absent) and not parse_freq(grid.freq).is_local:
        refusals = Refusals()
        detail = f"this time does not exist in {settled.time_zone}: the clock jumps over it; send it with its offset"
        refusals.add(absent, lambda i: observations.place(i, "timestamp"), lambda _: detail)
        refusals.raise_if_any()
    steps, on_grid = grid.to_steps(points)
    if settled.aggregate is None and not on_grid.all():
        raise _refuse_off_grid(observations, grid, points, np.flatnonzero(~on_grid))
    return grid, steps, points


def _choose_grid(points: Ints, freq: str | None, settled: Settled) -> Grid:
    if freq is None:
        return infer(points, settled.time_zone)
    if settled.phase_us is not None:
        return Grid(freq, settled.phase_us, settled.time_zone)
    if settled.aggregate is not None:
        return Grid(freq, 0, settled.time_zone)
    return fit(freq, points, settled.time_zone)


def _refuse_off_grid(observations: Observations, grid: Grid, points: Ints, rows: Ints) -> OffGrid:
    shown = rows[:MAX_PLACES]
    found, nearest = points[shown].view("datetime64[us]"), grid.nearest(points[shown])
    places: list[Place] = [
        {
            **observations.place(int(row), "timestamp"),
            "nearest": _show(near),
            "detail": f"{_show(each)} is off the grid; {_show(near)} is on it",
        }
        for row, each, near in zip(shown, found, nearest, strict=True)
    ]
    listed = refuse(places, len(rows))
    return OffGrid(
        f"{listed.detail}. The grid is freq {grid.freq} through {_show(nearest[0])} in {grid.time_zone}; send timestamps on it, or give "
        "the dataset an aggregate before its first observations",
        errors=listed.errors,
        freq=grid.freq,
    )


def _show(moment: np.datetime64) -> str:
    return f"{str(moment.astype('datetime64[us]')).removesuffix('.000000')}Z"


def _sort(series: Ints, steps: Ints, points: Ints | None) -> Ints:
    """The order by series, step and (if given) point; equal ones keep the body's order."""
    if points is not None:
        return np.lexsort((points, steps, series))
    low = steps.min()
    span = int(steps.max()) - int(low) + 1
    if span * (int(series.max()) + 1) < 2**62:
        return np.argsort(series * span + (steps - low), kind="stable")
    return np.lexsort((steps, series))


def _require_equal(observations: Observations, grid: Grid, steps: Ints, values: Floats, order: Ints, same: Ints) -> None:
    before, after = values[same - 1], values[same]
    differ = same[(before != after) & ~(np.isnan(before) & np.isnan(after))]
    if not len(differ):
        return
    role = "timestamp" if observations.lengths is None else "value"
    places: list[Place] = []
    for at in differ[:MAX_PLACES].tolist():
        step = f"step {steps[at]}" if grid.freq == "step" else _show(grid.to_timestamps(steps[at : at + 1])[0])
        other = observations.place(int(order[at - 1]), role)
        where = other.get("pointer") or f"row {other['row']}"
        found = " and ".join("null" if np.isnan(values[i]) else f"{float(values[i])}" for i in (at - 1, at))
        places.append({**observations.place(int(order[at]), role), "detail": f"{step} was sent before, at {where}: {found}"})
    listed = refuse(places, len(differ))
    raise DuplicateObservations(
        f"{listed.detail}. Send each step of a series once, or give the dataset an aggregate before its first observations",
        errors=listed.errors,
    )


def _aggregate(values: Floats, firsts: Ints, how: str) -> Floats:
    """One value for each run that begins at `firsts`; missing ones do not count, and a run of nothing else is missing."""
    missing = np.isnan(values)
    counts = np.add.reduceat(~missing, firsts, dtype=np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        if how in ("mean", "sum"):
            folded = np.add.reduceat(np.where(missing, 0.0, values), firsts)
            folded = folded / np.maximum(counts, 1) if how == "mean" else folded
        elif how in ("min", "max"):
            ufunc = np.minimum if how == "min" else np.maximum
            folded = ufunc.reduceat(np.where(missing, np.inf if how == "min" else -np.inf, values), firsts)
        else:
            last = np.maximum.reduceat(np.where(missing, -1, np.arange(len(values))), firsts)
            folded = values[last]
    return mark_missing(np.where(counts > 0, folded, np.nan))


def _require_finite(observations: Observations, folded: Floats, rows: Ints) -> None:
    refusals = Refusals()
    endless = rows[np.isinf(folded)]
    refusals.add(
        endless, lambda i: observations.place(i, "value"), lambda _: "the aggregate of this step is too large for a double"
    )
    refusals.raise_if_any(InvalidObservations)
