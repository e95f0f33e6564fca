"""Forecasts as bytes: JSON straight from arrays, and tables with one row a step."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import orjson

from app.calendar import Grid
from app.contract import ARROW, CSV, JSON, NDJSON, PARQUET
from app.frames import pl
from app.serving.service import Forecasts, Target

MEDIA_TYPES = (JSON, NDJSON, CSV, PARQUET, ARROW)
"""What Accept may ask for; the first is what `*/*` gets."""


def to_json(forecasts: Forecasts, next_cursor: str | None) -> bytes:
    target = forecasts.target
    answer = {
        "model": target.model,
        "version": target.serving.version,
        "dataset": target.serving.dataset,
        "freq": target.grid.freq,
        "horizon": target.horizon,
        "quantile_levels": target.quantile_levels,
        "forecasts": list(_to_items(forecasts)),
        "next_cursor": next_cursor,
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def to_ndjson(forecasts: Forecasts) -> bytes:
    """A line per series: what stands in `forecasts` of the JSON form, and the version."""
    lines = [
        orjson.dumps(
            {**item, "version": forecasts.target.serving.version}, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        )
        for item in _to_items(forecasts)
    ]
    return b"".join(lines)


def to_rows_json(forecasts: Forecasts) -> bytes:
    """A flat array with one object a step: the columns of `to_frame`."""
    return orjson.dumps(to_frame(forecasts).to_dicts())


def to_csv(forecasts: Forecasts, *, header: bool) -> bytes:
    return to_frame(forecasts).write_csv(include_header=header).encode()


def to_parquet(forecasts: Forecasts) -> bytes:
    buffer = io.BytesIO()
    to_frame(forecasts, typed=True).write_parquet(buffer)
    return buffer.getvalue()


def to_arrow(forecasts: Forecasts) -> bytes:
    buffer = io.BytesIO()
    to_frame(forecasts, typed=True).write_ipc_stream(buffer)
    return buffer.getvalue()


def to_frame(forecasts: Forecasts, *, typed: bool = False) -> pl.DataFrame:
    """Columns series, timestamp, median, q<level>..., cutoff, version. `typed`: real timestamps in place of their text."""
    target = forecasts.target
    columns: dict[str, Any] = {
        "series": pl.Series(forecasts.names, dtype=pl.String).gather(
            np.repeat(np.arange(len(forecasts.names)), target.horizon)
        ),
        "timestamp": _to_times(target, forecasts.steps.ravel(), typed=typed),
        "median": forecasts.median.ravel(),
    }
    for index, level in enumerate(target.quantile_levels):
        columns[f"q{level}"] = forecasts.quantiles[:, :, index].ravel()
    columns["cutoff"] = _to_times(target, np.repeat(forecasts.cutoffs, target.horizon), typed=typed)
    frame = pl.DataFrame(columns)
    return frame.with_columns(pl.lit(target.serving.version, pl.Int32).alias("version"))


def _to_times(target: Target, steps: np.ndarray, *, typed: bool) -> pl.Series:
    if target.grid.freq == "step":
        return pl.Series(steps, dtype=pl.Int64)
    if typed:
        return pl.Series(target.grid.to_timestamps(steps)).dt.replace_time_zone("UTC")
    return pl.Series(target.grid.to_labels(steps), dtype=pl.String)


@lru_cache(maxsize=256)
def _write_labels(grid: Grid, cutoff: int, horizon: int) -> orjson.Fragment:
    """The timestamps after a cutoff as JSON: the series of a dataset mostly end together."""
    return orjson.Fragment(orjson.dumps(grid.to_labels(np.arange(cutoff + 1, cutoff + 1 + horizon))))


@lru_cache(maxsize=4096)
def _label(grid: Grid, step: int) -> str | int:
    return grid.to_labels(np.array([step]))[0]


def _to_items(forecasts: Forecasts) -> Iterator[dict[str, Any]]:
    target = forecasts.target
    median = np.ascontiguousarray(forecasts.median)  # [B, H]
    quantiles = np.ascontiguousarray(forecasts.quantiles.transpose(0, 2, 1))  # [B, Q, H]
    keys = [str(level) for level in target.quantile_levels]
    for index, (name, step) in enumerate(zip(forecasts.names, forecasts.cutoffs.tolist(), strict=True)):
        yield {
            "series": name,
            "cutoff": _label(target.grid, step),
            "timestamps": _write_labels(target.grid, step, target.horizon),
            "median": median[index],
            "quantiles": dict(zip(keys, quantiles[index], strict=True)),
            "warnings": forecasts.warnings[index],
        }
