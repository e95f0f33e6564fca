"""Reading observations back, and deleting them: the steps of some series within a range."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.calendar import MAX_STEP
from app.datasets.chunks import ABSENT, STEP_BITS, STEPS_PER_CHUNK, Floats, is_absent
from app.datasets.ingest import write_chunks
from app.datasets.store import Ints, SeriesRow, find_cutoffs, one_of, read_pairs, stream_chunks
from app.tables import Chunk, Dataset, Series

CHUNKS_PER_SLICE = 2_048


@dataclass(frozen=True)
class StoredObservations:
    """What is stored, missing values included, ordered by series and step: series k is steps[offsets[k]:offsets[k + 1]]."""

    names: list[str]  # [S], those without an observation in the range included
    offsets: Ints  # [S + 1]
    steps: Ints  # [N]
    values: Floats  # [N], NaN where missing


def read_observations(session: Session, series: Sequence[SeriesRow], start: int | None, end: int | None) -> StoredObservations:
    """The observations from `start` to `end`, both inclusive; None is without end."""
    low, high = _clamp(start, end)
    position = {row.id: k for k, row in enumerate(series)}
    order: list[Ints] = []
    steps: list[Ints] = []
    values: list[Floats] = []
    for ids, numbers, chunks in stream_chunks(session, list(position), low >> STEP_BITS, high >> STEP_BITS):
        all_steps = (numbers << STEP_BITS)[:, None] + np.arange(STEPS_PER_CHUNK)
        row, column = np.nonzero(~is_absent(chunks) & (all_steps >= low) & (all_steps <= high))
        order.append(np.array([position[id_] for id_ in ids.tolist()])[row])
        steps.append(all_steps[row, column])
        values.append(chunks[row, column])
    which = np.concatenate([np.zeros(0, np.int64), *order])
    turn = np.argsort(which, kind="stable")
    return StoredObservations(
        [row.name for row in series],
        np.searchsorted(which[turn], np.arange(len(series) + 1)),
        np.concatenate([np.zeros(0, np.int64), *steps])[turn],
        np.concatenate([np.zeros(0), *values])[turn],
    )


def delete_observations(
    session: Session, dataset: Dataset, series: Sequence[SeriesRow], start: int | None, end: int | None
) -> int:
    """Makes the steps from `start` to `end`, both inclusive, absent. Says how many observations there were. A series that holds none
    any more is no longer one_of, but its row stays: results of models that learned from it refer to it."""
    low, high = _clamp(start, end)
    ids = sorted(row.id for row in series)
    held = sa.select(Series.id).where(one_of(session, Series.id, ids)).order_by(Series.id).with_for_update(of=Series)
    session.execute(held).all()
    if start is None and end is None:
        return _delete_all(session, ids)
    deleted, missing = dict.fromkeys(ids, 0), dict.fromkeys(ids, 0)
    for slice_ids, numbers in _find_chunks(session, ids, low >> STEP_BITS, high >> STEP_BITS):
        chunks = read_pairs(session, slice_ids, numbers)
        steps = (numbers << STEP_BITS)[:, None] + np.arange(STEPS_PER_CHUNK)
        gone = ~is_absent(chunks) & (steps >= low) & (steps <= high)
        for id_, count, nulls in zip(
            slice_ids.tolist(), gone.sum(1).tolist(), (gone & np.isnan(chunks)).sum(1).tolist(), strict=True
        ):
            deleted[id_] += count
            missing[id_] += nulls
        chunks[gone] = ABSENT
        empty = is_absent(chunks).all(axis=1)
        rest = np.flatnonzero(gone.any(axis=1) & ~empty)
        write_chunks(session, dataset.workspace_id, slice_ids[rest], numbers[rest], chunks[rest])
        _drop_chunks(session, slice_ids[empty], numbers[empty])
    _shrink(session, [id_ for id_ in ids if deleted[id_]], deleted, missing)
    return sum(deleted.values())


def _delete_all(session: Session, ids: Sequence[int]) -> int:
    """The same for whole series, without reading a chunk: damaged ones go too."""
    ours = sa.and_(one_of(session, Series.id, ids), Series.last_step.is_not(None))
    count = session.scalar(sa.select(sa.func.coalesce(sa.func.sum(Series.count), 0)).where(ours))
    session.execute(sa.delete(Chunk).where(one_of(session, Chunk.series_id, ids)).execution_options(synchronize_session=False))
    empty = {"count": 0, "missing": 0, "first_step": None, "last_step": None, "cutoff_step": None}
    changed = sa.update(Series).where(ours).values(revision=Series.revision + 1, **empty)
    session.execute(changed.execution_options(synchronize_session=False))
    return int(count or 0)


def _clamp(start: int | None, end: int | None) -> tuple[int, int]:
    return max(-MAX_STEP, -MAX_STEP if start is None else start), min(MAX_STEP, MAX_STEP if end is None else end)


def _find_chunks(session: Session, ids: Sequence[int], first: int, last: int) -> list[tuple[Ints, Ints]]:
    """(series ids, numbers) of the stored chunks numbered first..last, in slices."""
    statement = sa.select(Chunk.series_id, Chunk.number).where(
        one_of(session, Chunk.series_id, ids), Chunk.channel == 0, Chunk.number.between(first, last)
    )
    pairs = np.array([tuple(row) for row in session.execute(statement)], np.int64).reshape(-1, 2)
    return [(part[:, 0], part[:, 1]) for part in _slice(pairs)]


def _slice(pairs: Ints) -> list[Ints]:
    return [pairs[start : start + CHUNKS_PER_SLICE] for start in range(0, len(pairs), CHUNKS_PER_SLICE)]


def _drop_chunks(session: Session, ids: Ints, numbers: Ints) -> None:
    if len(ids):
        statement = sa.delete(Chunk).where(
            Chunk.series_id == sa.bindparam("id_"), Chunk.channel == 0, Chunk.number == sa.bindparam("at")
        )
        pairs = zip(ids.tolist(), numbers.tolist(), strict=True)
        session.connection().execute(statement, [{"id_": id_, "at": number} for id_, number in pairs])


def _shrink(session: Session, ids: list[int], deleted: dict[int, int], missing: dict[int, int]) -> None:
    """Brings the rows of series that lost observations in step with their chunks."""
    if not ids:
        return
    firsts, lasts = _find_ends(session, ids)
    cutoffs, has_value = find_cutoffs(session, np.array(ids), MAX_STEP)
    statement = (
        sa.update(Series)
        .where(Series.id == sa.bindparam("at"))
        .values(
            revision=Series.revision + 1,
            count=Series.count - sa.bindparam("gone"),
            missing=Series.missing - sa.bindparam("gone_missing"),
            first_step=sa.bindparam("first"),
            last_step=sa.bindparam("last"),
            cutoff_step=sa.bindparam("cutoff"),
        )
    )
    rows = [
        {
            "at": id_,
            "gone": deleted[id_],
            "gone_missing": missing[id_],
            "first": firsts.get(id_),
            "last": lasts.get(id_),
            "cutoff": cutoff if found else None,
        }
        for id_, cutoff, found in zip(ids, cutoffs.tolist(), has_value.tolist(), strict=True)
    ]
    session.connection().execute(statement, rows)


def _find_ends(session: Session, ids: Sequence[int]) -> tuple[dict[int, int], dict[int, int]]:
    """The first and the last step of each series that still has a chunk; a stored chunk is never all absent."""
    ends: list[dict[int, int]] = []
    for side, pick in ((sa.func.min, 0), (sa.func.max, -1)):
        statement = sa.select(Chunk.series_id, side(Chunk.number)).where(
            one_of(session, Chunk.series_id, ids), Chunk.channel == 0
        )
        pairs = np.array([tuple(row) for row in session.execute(statement.group_by(Chunk.series_id))], np.int64).reshape(-1, 2)
        found: dict[int, int] = {}
        for part in _slice(pairs):
            for (id_, number), chunk in zip(part.tolist(), read_pairs(session, part[:, 0], part[:, 1]), strict=True):
                found[id_] = (number << STEP_BITS) + int(np.flatnonzero(~is_absent(chunk))[pick])
        ends.append(found)
    return ends[0], ends[1]
