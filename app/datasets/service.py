"""Datasets and their series, and the two ways in which the rest of the house reads what was observed. Flushes, never commits."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from app.calendar import Grid
from app.datasets.chunks import STEP_BITS, STEPS_PER_CHUNK, Floats
from app.datasets.store import SERIES_ID, SERIES_ROW, Ints, SeriesRow, in_batches, read_pairs, stream_chunks
from app.errors import FreqUndetermined, NotFound
from app.tables import Chunk, Dataset, Series

BEFORE_ALL = -(2**62)
MAX_NAMED = 20
"""How many of many names an error tells."""


def get_dataset(session: Session, workspace_id: int, name: str) -> Dataset:
    """The dataset called `name`. Raises NotFound."""
    statement = sa.select(Dataset).where(Dataset.workspace_id == workspace_id, Dataset.name == name)
    dataset = session.scalars(statement).one_or_none()
    if dataset is None:
        raise NotFound(f"there is no dataset {name!r}; the first observations posted to it create it", dataset=name)
    return dataset


def grid_of(dataset: Dataset) -> Grid:
    """The grid of a dataset that has one. Raises FreqUndetermined before its first observations."""
    if dataset.freq is None or dataset.phase_us is None:
        raise FreqUndetermined(
            f"dataset {dataset.name!r} has no observations yet, so its timestamps have no grid", dataset=dataset.name
        )
    return Grid(dataset.freq, dataset.phase_us, dataset.time_zone)


def select_series(session: Session, dataset_id: int, names: list[str] | None, prefix: str | None) -> list[SeriesRow]:
    """The series that hold observations, ordered by name: those of `names` (None: all) that begin with `prefix`. Raises NotFound."""
    statement = sa.select(*SERIES_ROW).where(Series.dataset_id == dataset_id, Series.count > 0).order_by(Series.name)
    if prefix:
        if not SERIES_ID.fullmatch(prefix):
            return []
        statement = statement.where(Series.name >= prefix, sa.func.substr(Series.name, 1, len(prefix)) == prefix)
    if names is None:
        return [SeriesRow._make(row) for row in session.execute(statement)]
    wanted = sorted({name for name in names if SERIES_ID.fullmatch(name)})
    rows = [
        SeriesRow._make(row) for batch in in_batches(wanted) for row in session.execute(statement.where(Series.name.in_(batch)))
    ]
    found = {row.name for row in rows}
    absent = [name for name in dict.fromkeys(names) if name not in found and (not prefix or name.startswith(prefix))]
    if absent:
        more = f" and {len(absent) - MAX_NAMED} more" if len(absent) > MAX_NAMED else ""
        raise NotFound(
            f"the dataset holds no observations of series {', '.join(map(repr, absent[:MAX_NAMED]))}{more}",
            series=absent[:MAX_NAMED],
        )
    return rows


@dataclass(frozen=True)
class RaggedValues:
    """Many series end to end: series k is values[offsets[k]:offsets[k + 1]], its first value at first_steps[k]."""

    values: Floats  # [N], NaN where missing
    offsets: Ints  # [S + 1]
    first_steps: Ints  # [S]
    series_ids: list[int]  # [S]
    fingerprint: str
    """sha256 over names, first steps and values: equal data, equal fingerprint, on whichever database."""


def read_for_training(session: Session, series_ids: Sequence[int], cutoff_step: int) -> RaggedValues:
    """Each series from its first value to its last one at or before `cutoff_step`, in the order given; one without any is left out."""
    known = {row.id: row for row in _select_by_id(session, series_ids)}
    rows = [row for id_ in series_ids if (row := known.get(id_)) and row.first_step is not None and row.cutoff_step is not None]
    starts = np.array([row.first_step for row in rows], np.int64)
    ends = np.minimum(np.array([row.cutoff_step for row in rows], np.int64), cutoff_step) + 1
    offsets = np.concatenate([[0], np.cumsum(np.maximum(ends - starts, 0))])
    values = np.full(int(offsets[-1]), np.nan)
    index = {row.id: k for k, row in enumerate(rows)}
    for ids, numbers, chunks in stream_chunks(
        session, list(index), int(starts.min(initial=0)) >> STEP_BITS, cutoff_step >> STEP_BITS
    ):
        np.copyto(chunks, np.nan, where=np.isnan(chunks))
        for id_, number, chunk in zip(ids.tolist(), (numbers << STEP_BITS).tolist(), chunks, strict=True):
            k = index[id_]
            low, high = max(number, int(starts[k])), min(number + STEPS_PER_CHUNK, int(ends[k]))
            if low < high:
                at = int(offsets[k] - starts[k])
                values[at + low : at + high] = chunk[low - number : high - number]
    return _trim([(row.id, row.name) for row in rows], values, offsets, starts)


def read_contexts(
    session: Session, series: Sequence[SeriesRow], length: int, cutoff_step: int | None
) -> tuple[Floats, Ints, NDArray[np.bool_]]:
    """(values [B, length], cutoffs [B], has_value [B]): the `length` steps up to and including each series' cutoff, which is its
    last value (at or before `cutoff_step` if given). NaN where missing and before the beginning; no meaning where not has_value."""
    ids = np.array([row.id for row in series], np.int64)
    has_value = np.array([row.cutoff_step is not None for row in series], np.bool_)
    cutoffs = np.array([row.cutoff_step or 0 for row in series], np.int64)
    starts = np.array([row.first_step or 0 for row in series], np.int64)
    if cutoff_step is not None:
        beyond = np.flatnonzero(has_value & (cutoffs > cutoff_step))
        cutoffs[beyond], has_value[beyond] = _find_cutoffs(session, ids[beyond], cutoff_step)
    lows = np.maximum(cutoffs - length + 1, starts) >> STEP_BITS
    counts = np.where(has_value, (cutoffs >> STEP_BITS) - lows + 1, 0)
    rows = np.repeat(np.arange(len(series)), counts)
    numbers = lows[rows] + np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    chunks = read_pairs(session, ids[rows], numbers)
    values = np.full((len(series), length), np.nan)
    ends = cutoffs + 1
    for row, number, chunk in zip(rows.tolist(), (numbers << STEP_BITS).tolist(), chunks, strict=True):
        end = int(ends[row])
        low, high = max(number, end - length), min(number + STEPS_PER_CHUNK, end)
        values[row, low - end + length : high - end + length] = chunk[low - number : high - number]
    return values, cutoffs, has_value


def _select_by_id(session: Session, ids: Sequence[int]) -> list[SeriesRow]:
    return [
        SeriesRow._make(row)
        for batch in in_batches(ids)
        for row in session.execute(sa.select(*SERIES_ROW).where(Series.id.in_(batch)))
    ]


def _trim(series: list[tuple[int, str]], values: Floats, offsets: Ints, starts: Ints) -> RaggedValues:
    """Cuts missing values off both ends of every series, moving what is kept towards the front of the same array."""
    digest, ids, firsts, ends = hashlib.sha256(), [], [], [0]
    for k, (id_, name) in enumerate(series):
        found = np.flatnonzero(~np.isnan(values[offsets[k] : offsets[k + 1]]))
        if not len(found):
            continue
        low, high = int(offsets[k] + found[0]), int(offsets[k] + found[-1]) + 1
        end = ends[-1] + high - low
        if low != ends[-1]:
            values[ends[-1] : end] = values[low:high]
        first = int(starts[k] + found[0])
        digest.update(f"{len(name)} {name} {first} {high - low} ".encode())
        digest.update(values[ends[-1] : end].data)
        ids.append(id_)
        firsts.append(first)
        ends.append(end)
    return RaggedValues(values[: ends[-1]], np.array(ends), np.array(firsts, np.int64), ids, digest.hexdigest())


def _find_cutoffs(session: Session, ids: Ints, cutoff_step: int) -> tuple[Ints, NDArray[np.bool_]]:
    """(last step with a value at or before `cutoff_step`, whether there is one), walking back over chunks that hold none."""
    cutoffs, found = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
    open_rows, numbers = np.arange(len(ids)), np.full(len(ids), cutoff_step >> STEP_BITS)
    while len(open_rows):
        numbers, stored = _find_stored(session, ids[open_rows], numbers)
        open_rows, numbers = open_rows[stored], numbers[stored]
        chunks = read_pairs(session, ids[open_rows], numbers)
        steps = np.arange(STEPS_PER_CHUNK) + (numbers << STEP_BITS)[:, None]
        last = np.where(~np.isnan(chunks) & (steps <= cutoff_step), steps, BEFORE_ALL).max(axis=1, initial=BEFORE_ALL)
        here = last > BEFORE_ALL
        cutoffs[open_rows[here]], found[open_rows[here]] = last[here], True
        open_rows, numbers = open_rows[~here], numbers[~here] - 1
    return cutoffs, found


def _find_stored(session: Session, ids: Ints, numbers: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """(number of each series' newest stored chunk at or before its number, whether there is one)."""
    newest: dict[int, int] = {}
    for batch in in_batches(list(zip(ids.tolist(), numbers.tolist(), strict=True)), 500):
        either = sa.or_(*(sa.and_(Chunk.series_id == id_, Chunk.number <= number) for id_, number in batch))
        statement = (
            sa.select(Chunk.series_id, sa.func.max(Chunk.number)).where(either, Chunk.channel == 0).group_by(Chunk.series_id)
        )
        newest.update((row[0], row[1]) for row in session.execute(statement))
    stored = np.array([id_ in newest for id_ in ids.tolist()], np.bool_)
    return np.array([newest.get(id_, 0) for id_ in ids.tolist()], np.int64), stored


def list_series(session: Session, dataset_id: int, *, prefix: str | None, after: str | None, limit: int) -> list[SeriesRow]:
    """Stand-in."""
    statement = sa.select(*SERIES_ROW).where(Series.dataset_id == dataset_id, Series.count > 0).order_by(Series.name)
    if after is not None:
        statement = statement.where(Series.name > after)
    return [SeriesRow._make(row) for row in session.execute(statement.limit(limit))]
