"""Stored observations -> JSON, CSV, Parquet or Arrow, straight from arrays."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.calendar import Grid, to_rfc3339
from app.contract import ARROW, CSV, JSON, PARQUET
from app.datasets.overview import Overview
from app.datasets.reading import StoredObservations
from app.frames import pl

MEDIA_TYPES = (JSON, CSV, PARQUET, ARROW)
JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z


def write(observations: StoredObservations, grid: Grid, media_type: str) -> bytes:
    """The body of the answer: JSON by series, the others in long format with the columns series, timestamp, value."""
    points: NDArray[Any] = observations.steps if grid.freq == "step" else grid.to_timestamps(observations.steps)
    if media_type == JSON:
        return _write_json(observations, points)
    counts = np.diff(observations.offsets)
    names = pl.Series("series", observations.names, dtype=pl.String)
    frame = pl.DataFrame(
        [
            names.gather(pl.Series(np.repeat(np.arange(len(names)), counts), dtype=pl.UInt32)),
            pl.Series("timestamp", points),
            pl.Series("value", observations.values).fill_nan(None),
        ]
    )
    if grid.freq != "step":
        frame = frame.with_columns(pl.col("timestamp").dt.replace_time_zone("UTC"))
    buffer = io.BytesIO()
    if media_type == PARQUET:
        frame.write_parquet(buffer)
    elif media_type == ARROW:
        frame.write_ipc_stream(buffer)
    else:
        if grid.freq != "step":
            frame = frame.with_columns(pl.Series("timestamp", to_rfc3339(points), dtype=pl.String))
        frame.write_csv(buffer)
    return buffer.getvalue()


def _write_json(observations: StoredObservations, points: NDArray[Any]) -> bytes:
    parts = [slice(*edges) for edges in zip(observations.offsets[:-1].tolist(), observations.offsets[1:].tolist(), strict=True)]
    series = [
        {"id": name, "timestamps": points[part], "values": observations.values[part]}
        for name, part in zip(observations.names, parts, strict=True)
    ]
    return orjson.dumps({"series": series}, option=JSON_OPTIONS)


def write_overview(overview: Overview, dataset: str, series: str, grid: Grid) -> bytes:
    labels = grid.to_labels(np.concatenate([overview.hole_starts, overview.hole_ends]))
    count = len(overview.absent)
    document = {
        "dataset": dataset,
        "series": series,
        "freq": grid.freq,
        "steps": overview.count,
        "thinned": len(overview.steps) < overview.count,
        "timestamps": grid.to_labels(overview.steps),
        "values": overview.values,
        "holes": [
            {"start": start, "end": end, "absent": absent}
            for start, end, absent in zip(labels[:count], labels[count:], overview.absent.tolist(), strict=True)
        ],
    }
    return orjson.dumps(document, option=JSON_OPTIONS)
