"""A series as a screen can show it: as it is where it is short, else the outermost points of each pixel, and what is missing.

Of each bucket of steps the first, the lowest, the highest and the last value stay, each at its own step: a line through them covers
the same pixels as one through all, so nothing that sticks out is lost (Jugel et al., 2014, "M4").
"""

from dataclasses import dataclass

import numpy as np
from sqlalchemy.orm import Session

from app.datasets.chunks import STEP_BITS, STEPS_PER_CHUNK, Floats, is_absent, make_absent
from app.datasets.store import Ints, SeriesRow, stream_chunks

MAX_HOLES = 500
"""Runs of missing steps that are told one by one; of more, those that lie closest together are told as one."""
PER_BUCKET = 4


@dataclass(frozen=True)
class Overview:
    """`steps` [K] and `values` [K] to draw, NaN where the line breaks; the runs of steps without a value, both ends inclusive."""

    steps: Ints
    values: Floats
    hole_starts: Ints  # [G]
    hole_ends: Ints  # [G]
    absent: Ints  # [G], how many steps of the run were never sent; the others were sent as missing
    count: int
    """Steps from the first to the last, with or without a value."""


def read_overview(session: Session, series: SeriesRow, first: int, last: int, max_points: int) -> Overview:
    """The steps `first`..`last`, both inclusive (none if they are the other way round), in at most `max_points` points."""
    last = max(last, first - 1)
    dense = make_absent((last - first >> STEP_BITS) + 2).reshape(-1)
    base = first >> STEP_BITS
    for _, numbers, chunks in stream_chunks(session, [series.id], base, last >> STEP_BITS):
        for number, chunk in zip(numbers.tolist(), chunks, strict=True):
            at = (number - base) * STEPS_PER_CHUNK
            dense[at : at + STEPS_PER_CHUNK] = chunk
    begin = first - (base << STEP_BITS)
    dense = dense[begin : begin + last - first + 1]
    starts, ends, absent = find_holes(dense)
    kept = thin(dense, max_points)
    return Overview(kept + first, dense[kept], starts + first, ends + first, absent, len(dense))


def thin(values: Floats, max_points: int) -> Ints:
    """Indexes of `values` [T] to keep, ascending: all where they are few enough, else first, lowest, highest and last of each bucket,
    and of a bucket without a value one missing step."""
    if len(values) <= max_points:
        return np.arange(len(values))
    buckets = max(1, max_points // PER_BUCKET)
    edges = np.linspace(0, len(values), buckets + 1).astype(np.int64)[:-1]
    missing = np.isnan(values)
    seen = np.flatnonzero(~missing)
    bucket = np.searchsorted(edges, seen, side="right") - 1
    kept = [edges[np.bincount(bucket, minlength=buckets) == 0]]
    if len(seen):
        starts = np.flatnonzero(np.diff(bucket, prepend=-1))
        ends = np.append(starts[1:], len(seen)) - 1
        order = np.lexsort((values[seen], bucket))  # by bucket, then by value: the ends of each part are its extremes
        kept += [seen[starts], seen[ends], seen[order[starts]], seen[order[ends]]]
    return np.unique(np.concatenate(kept))


def find_holes(values: Floats) -> tuple[Ints, Ints, Ints]:
    """(first, last, how many of its steps are absent) of each run without a value, at most MAX_HOLES of them."""
    missing = np.isnan(values)
    change = np.diff(missing.astype(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(change == 1), np.flatnonzero(change == -1) - 1
    if len(starts) > MAX_HOLES:
        widest = np.sort(np.argsort(starts[1:] - ends[:-1], kind="stable")[-(MAX_HOLES - 1) :])
        starts, ends = starts[np.append(0, widest + 1)], ends[np.append(widest, len(ends) - 1)]
    absent = np.concatenate([[0], np.cumsum(is_absent(values))])
    return starts, ends, absent[ends + 1] - absent[starts]
