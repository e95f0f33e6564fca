"""Where a file must be understood before it is sent: to find the freq of the whole, and to send the steps of an aggregate whole.

The client reads here exactly as the service does, with the service's own parser, and names rows of the file.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import polars as pl

from app.calendar import Grid, infer
from app.cli.batches import Batch, to_arrow
from app.cli.failure import Failure
from app.contract import ARROW
from app.datasets import formats
from app.datasets.columns import ColumnOptions, read_columns, recognise
from app.datasets.observations import Ints, Observations
from app.errors import EngramError, FreqUndetermined
from app.zones import localize

ROW = re.compile(r"(^|\bat )row (\d+)\b")


def find_freq(batches: Iterable[Batch], columns: ColumnOptions, dataset: str, time_zone: str) -> str:
    """The freq of all timestamps together: the first batch alone may suggest a coarser one, or none."""
    distinct = np.zeros(0, np.int64)
    for batch in batches:
        observations = _read(batch, columns, dataset)
        if observations.is_integer:
            return "step"
        distinct = _merge(distinct, _to_utc(observations, time_zone))
    try:
        return infer(distinct, time_zone).freq
    except FreqUndetermined as error:
        raise Failure(f"{error.detail}; here: --freq") from error


def regroup(batches: Iterable[Batch], columns: ColumnOptions, dataset: str, grid: Grid) -> Iterator[Batch]:
    """Batches in which no step of a series is cut in two: its newest step is held back until a later one of it has come, or the
    file ends. Raises Failure where a file goes back to a step that was sent: it would take the sent one's place."""
    held: pl.DataFrame | None = None
    sent: dict[str, int] = {}
    last: Batch | None = None
    for batch in batches:
        observations = _read(batch, columns, dataset)
        frame = _to_frame(observations, batch, grid)
        _refuse_return(frame, sent)
        frame = frame if held is None else pl.concat([held, frame])
        newest = pl.col("step") == pl.col("step").max().over("series")
        ready, held = frame.filter(~newest), frame.filter(newest)
        sent |= dict(ready.group_by("series").agg(pl.col("step").max()).iter_rows())
        last = batch
        if ready.height:
            yield _to_batch(ready, batch, grid)
    if held is not None and last is not None:
        yield _to_batch(held, last, grid)


def _merge(distinct: Ints, points: Ints) -> Ints:
    """Sorted, each once. numpy's own union hashes, which takes a hundred times as long for timestamps (their low bits are alike)."""
    both = np.sort(np.concatenate([distinct, points]))
    return both[np.diff(both, prepend=both[0] - 1) > 0]


def relocate(error: dict[str, Any], locate: Callable[[int], int]) -> dict[str, Any]:
    """The problem with its rows counted in the file instead of in the request's body."""

    def shift(text: str) -> str:
        return ROW.sub(lambda match: f"{match[1]}row {locate(int(match[2]))}", text)

    places = [
        {**place, **({"row": locate(place["row"])} if "row" in place else {}), "detail": shift(place["detail"])}
        for place in error.get("errors", [])
    ]
    return {**error, "detail": shift(error["detail"]), **({"errors": places} if places else {})}


def _read(batch: Batch, columns: ColumnOptions, dataset: str) -> Observations:
    try:
        if batch.media_type == ARROW:  # this process wrote it, so that no other one is needed to open it
            frame = pl.read_ipc_stream(batch.body)
            return read_columns(frame, recognise(frame.columns, columns), dataset)
        return formats.parse(batch.body, batch.media_type, columns, dataset)
    except EngramError as error:
        problem = relocate(error.to_problem(), batch.locate)
        raise Failure(problem["detail"], problem) from error


def _to_utc(observations: Observations, time_zone: str) -> Ints:
    points = observations.points
    naive = np.flatnonzero(observations.is_naive)
    if len(naive):
        points = points.copy()
        points[naive] = localize(points[naive], time_zone, observations.series[naive])[0]
    return points


def _to_frame(observations: Observations, batch: Batch, grid: Grid) -> pl.DataFrame:
    points = _to_utc(observations, grid.time_zone)
    rows = [batch.locate(observations.place(index, "value")["row"]) for index in range(len(points))]
    return pl.DataFrame(
        {
            "series": pl.Series(observations.names, dtype=pl.String).gather(observations.series),
            "timestamp": points,
            "value": pl.Series(observations.values).fill_nan(None),
            "step": points if grid.freq == "step" else grid.to_steps(points)[0],
            "row": rows,
        }
    )


def _refuse_return(frame: pl.DataFrame, sent: dict[str, int]) -> None:
    newest = frame["series"].replace_strict(sent, default=None, return_dtype=pl.Int64)
    again = frame.filter(frame["step"] <= newest)
    if again.height:
        series, row = again["series"][0], again["row"][0]
        raise Failure(
            f"row {row}: series {series!r} goes back to a step that was sent already, and what is sent of a step takes its place: sort the "
            "file by timestamp, so that the points of a step of the aggregate come together"
        )


def _to_batch(frame: pl.DataFrame, batch: Batch, grid: Grid) -> Batch:
    rows = frame["row"].to_list()
    columns = frame.select("series", "timestamp", "value")
    if grid.freq != "step":
        columns = columns.with_columns(pl.col("timestamp").cast(pl.Datetime("us", "UTC")))
    return Batch(to_arrow(columns), ARROW, batch.end, lambda row: rows[row - 1])
