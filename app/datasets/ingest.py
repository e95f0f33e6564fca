"""Placed observations -> chunks: read those touched, merge, write back, under the lock of their series. Flushes, never commits."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from app import faults
from app.database import utc_now
from app.datasets.chunks import STEP_BITS, STEPS_PER_CHUNK, Floats, encode, is_absent, make_absent
from app.datasets.observations import MAX_PLACES, Bools, Ints, Observations, find_runs, refuse
from app.datasets.placing import Placed, Settled, place
from app.datasets.schemas import Receipt
from app.datasets.service import Opened
from app.datasets.store import BEFORE_ALL, among, find_cutoffs, insert_into, pack, parameter, read_pairs
from app.errors import Conflict, SpanTooLong
from app.statements import Block, Statement, columns_of, is_on_sqlite
from app.tables import Chunk, Dataset, Series

CHUNKS_PER_SLICE = 2_048
"""Chunks merged at once: 16 MiB before and 16 MiB after."""
CHUNKS_PER_BLOCK = 512
"""Chunks that go to the database at once, while the next are encoded."""
AFTER_ALL = 2**62
SPARSE = 0.5
"""Below this part of steps with an observation an inferred freq is worth a warning."""


class _Stock:
    """The touched series as columns [S], kept in step with what is merged. Steps are AFTER_ALL or BEFORE_ALL where there is none."""

    def __init__(self, rows: Ints) -> None:
        self.ids, self.revisions, self.counts, self.missing, self.firsts, self.lasts, self.cutoffs = rows.T.copy()
        self.lost_cutoff: Bools = np.zeros(len(rows), np.bool_)
        self.changed: Bools = np.zeros(len(rows), np.bool_)

    def count(self, series: Ints, steps: Ints, old: Floats, new: Floats) -> None:
        """Takes in what changed at some steps; `series` are rows of this stock."""
        was_absent, became_missing = is_absent(old), np.isnan(new)
        self.counts += np.bincount(series[was_absent], minlength=len(self.ids))
        self.missing += np.bincount(series[became_missing], minlength=len(self.ids))
        self.missing -= np.bincount(series[np.isnan(old) & ~was_absent], minlength=len(self.ids))
        self.lost_cutoff[series[became_missing & (steps == self.cutoffs[series])]] = True
        np.maximum.at(self.cutoffs, series[~became_missing], steps[~became_missing])
        self.changed[series] = True

    def count_new(self, series: Ints, steps: Ints, values: Floats) -> None:
        """The same where nothing was: steps of chunks that no series had, sorted by series and step."""
        has_value = ~np.isnan(values)
        self.counts += np.bincount(series, minlength=len(self.ids))
        self.missing += np.bincount(series[~has_value], minlength=len(self.ids))
        valued, at = (series, steps) if has_value.all() else (series[has_value], steps[has_value])
        if len(valued):
            last = np.append(find_runs(valued)[1:], len(valued)) - 1
            self.cutoffs[valued[last]] = np.maximum(self.cutoffs[valued[last]], at[last])
        self.changed[series] = True


def upsert(session: Session, dataset: Opened, observations: Observations, on_conflict: str, max_span_steps: int) -> Receipt:
    """Stores all of the observations or raises. `dataset` comes from `service.open_dataset`, which holds it. `on_conflict` says what
    becomes of a step that holds another value: replace it, keep it, or refuse the request."""
    is_first = dataset.freq is None
    placed = place(observations, Settled(dataset.freq, dataset.phase_us, dataset.time_zone, dataset.aggregate))
    firsts = find_runs(placed.series)
    ends = np.append(firsts[1:], len(placed.series)) - 1
    _check_span(observations, placed.steps[firsts], placed.steps[ends], max_span_steps)
    if dataset.freq is None or dataset.phase_us is None:
        settled = {"freq": placed.grid.freq, "phase_us": placed.grid.phase_us, "updated_at": utc_now()}
        session.execute(sa.update(Dataset).where(Dataset.id == dataset.id).values(settled))
    stock = _hold_series(session, dataset, observations.names)
    firsts_after, lasts_after = np.minimum(stock.firsts, placed.steps[firsts]), np.maximum(stock.lasts, placed.steps[ends])
    _check_span(observations, firsts_after, lasts_after, max_span_steps)
    inserted, updated = _merge(session, dataset, observations, placed, stock, on_conflict)
    faults.reach("write.merged")
    stock.firsts, stock.lasts = firsts_after, lasts_after
    _write_series(session, stock)
    gaps = int((stock.lasts - stock.firsts + 1 - stock.counts).sum())
    low, high = placed.grid.to_labels(np.array([placed.steps.min(), placed.steps.max()]))
    return Receipt(
        dataset=dataset.name,
        freq=placed.grid.freq,
        series=len(observations.names),
        received=len(observations.values),
        inserted=inserted,
        updated=updated,
        unchanged=len(placed.steps) - inserted - updated,
        missing=int(np.isnan(observations.values).sum()),
        gaps=gaps,
        first_timestamp=low,
        last_timestamp=high,
        warnings=_warn(observations, placed, gaps if is_first and observations.freq is None else 0, dataset.aggregate),
    )


def _check_span(observations: Observations, firsts: Ints, lasts: Ints, max_span_steps: int) -> None:
    spans = lasts - firsts + 1
    worst = int(spans.argmax())
    if spans[worst] > max_span_steps:
        raise SpanTooLong(
            f"series {observations.names[worst]!r} would span {spans[worst]} steps, at most {max_span_steps} are stored; is the unit of its "
            "timestamps right, or the freq too fine?",
            series=observations.names[worst],
            span_steps=int(spans[worst]),
            max_span_steps=max_span_steps,
        )


def _warn(observations: Observations, placed: Placed, gaps: int, aggregate: str | None) -> list[str]:
    warnings = []
    repeated = len(observations.values) - len(placed.steps)
    if repeated and aggregate is None:
        warnings.append(f"{repeated} observations were sent more than once with the same value")
    if gaps > len(placed.steps) * (1 / SPARSE - 1):
        share = 100 * len(placed.steps) / (len(placed.steps) + gaps)
        warnings.append(
            f"freq {placed.grid.freq!r} was inferred, but only {share:.2g} % of its steps hold an observation; if another freq, a time_zone "
            "or an aggregate is meant, delete the dataset and PUT it with them"
        )
    return warnings


def _hold_series(session: Session, dataset: Opened, names: list[str]) -> _Stock:
    """The series of these names, made where they are new, locked in the order of their ids so that two writers cannot block
    each other."""
    rows = _find_stock(session, dataset.id, names)
    new = sorted(set(names) - rows.keys())
    made: dict[str, Sequence[int]] = {}
    if new:
        keys = {"workspace_id": dataset.workspace_id, "dataset_id": dataset.id, "names": pack(session, new)}
        made = {name: (id_, *NOTHING_YET) for name, id_ in _MAKE.rows(session, **keys)}
    if not is_on_sqlite(session) and len(made) < len(names):  # of SQLite this is the one writer: what it found stands
        rows = _find_stock(session, dataset.id, [name for name in names if name not in made], _HELD_STOCK)
    return _Stock(np.array([made[name] if name in made else rows[name] for name in names], np.int64))


def _make_series(is_sqlite: bool) -> Any:
    names = parameter(is_sqlite, "names", Series.name)
    name = sa.func.json_each(names).table_valued("value").c.value if is_sqlite else sa.func.unnest(names)
    keys = [sa.bindparam("workspace_id", type_=sa.BigInteger), sa.bindparam("dataset_id", type_=sa.BigInteger)]
    zeros = [sa.literal(0, sa.BigInteger)] * 3
    rows = sa.select(*keys, *zeros, name).where(sa.true())  # without a WHERE, SQLite takes ON CONFLICT for a join's
    columns = ["workspace_id", "dataset_id", "revision", "count", "missing", "name"]
    statement = insert_into(Series, is_sqlite=is_sqlite).from_select(columns, rows)
    return statement.on_conflict_do_nothing().returning(Series.name, Series.id)


_MAKE = Statement(_make_series)
NOTHING_YET = (0, 0, 0, AFTER_ALL, BEFORE_ALL, BEFORE_ALL)
"""A new series in the columns of a stock, behind its id."""


def _select_stock(is_sqlite: bool) -> Any:
    columns = (
        *(Series.name, Series.id, Series.revision, Series.count, Series.missing),
        *(sa.func.coalesce(Series.first_step, AFTER_ALL), sa.func.coalesce(Series.last_step, BEFORE_ALL)),
        sa.func.coalesce(Series.cutoff_step, BEFORE_ALL),
    )
    here = among(is_sqlite, Series.name, parameter(is_sqlite, "names", Series.name))
    return sa.select(*columns).where(Series.dataset_id == sa.bindparam("dataset_id"), here)


_STOCK = Statement(_select_stock)
_HELD_STOCK = Statement(lambda is_sqlite: _select_stock(is_sqlite).order_by(Series.id).with_for_update(of=Series))


def _find_stock(session: Session, dataset_id: int, names: list[str], statement: Statement = _STOCK) -> dict[str, Sequence[int]]:
    """By name, the columns of a stock."""
    found = statement.rows(session, dataset_id=dataset_id, names=pack(session, names))
    return {row[0]: row[1:] for row in found}


def _merge(
    session: Session, dataset: Opened, observations: Observations, placed: Placed, stock: _Stock, on_conflict: str
) -> tuple[int, int]:
    """(inserted, updated) steps. A slice of the touched chunks at a time, so that memory stays bounded however many there are."""
    numbers = placed.steps >> STEP_BITS
    starts = find_runs(placed.series, numbers)
    bounds = np.append(starts, len(numbers))
    inserted = updated = 0
    for first in range(0, len(starts), CHUNKS_PER_SLICE):
        edges = bounds[first : first + CHUNKS_PER_SLICE + 1]
        part = slice(int(edges[0]), int(edges[-1]))
        chunk_of, at = np.repeat(np.arange(len(edges) - 1), np.diff(edges)), placed.steps[part] & (STEPS_PER_CHUNK - 1)
        series, values = placed.series[part], placed.values[part]
        chunks, are_new = _read_touched(session, stock, placed.series[edges[:-1]], numbers[edges[:-1]])
        if are_new:
            chunks.reshape(-1)[(chunk_of << STEP_BITS) + at] = values
            write_chunks(session, dataset.workspace_id, stock.ids[placed.series[edges[:-1]]], numbers[edges[:-1]], chunks)
            stock.count_new(series, placed.steps[part], values)
            inserted += len(values)
            continue
        old = chunks[chunk_of, at]
        is_new, differs = is_absent(old), old.view(np.uint64) != values.view(np.uint64)
        if on_conflict == "keep":
            differs &= is_new
        elif on_conflict == "error" and (differs & ~is_new).any():
            raise _refuse_conflict(observations, placed, np.flatnonzero(differs & ~is_new) + part.start, old[differs & ~is_new])
        chunks[chunk_of[differs], at[differs]] = values[differs]
        written = np.flatnonzero(np.bincount(chunk_of[differs], minlength=len(chunks)))
        write_chunks(
            session, dataset.workspace_id, stock.ids[placed.series[edges[written]]], numbers[edges[written]], chunks[written]
        )
        stock.count(series[differs], placed.steps[part][differs], old[differs], values[differs])
        inserted += int((differs & is_new).sum())
        updated += int((differs & ~is_new).sum())
    return inserted, updated


def _read_touched(session: Session, stock: _Stock, series: Ints, numbers: Ints) -> tuple[Floats, bool]:
    """The chunks as they are, and whether it is certain that none is there: only those that lie within what a series holds can be."""
    chunks = make_absent(len(series))
    held = np.flatnonzero((numbers >= stock.firsts[series] >> STEP_BITS) & (numbers <= stock.lasts[series] >> STEP_BITS))
    if len(held):
        chunks[held] = read_pairs(session, stock.ids[series[held]], numbers[held])
    return chunks, not len(held)


def _refuse_conflict(observations: Observations, placed: Placed, rows: Ints, old: Floats) -> Conflict:
    role = "timestamp" if observations.lengths is None else "value"
    labels = placed.grid.to_labels(placed.steps[rows[:MAX_PLACES]])
    places = [
        {
            **observations.place(int(placed.rows[row]), role),
            "detail": f"{label} holds {'null' if np.isnan(value) else float(value)} already",
        }
        for row, label, value in zip(rows.tolist(), labels, old, strict=False)
    ]
    listed = refuse(places, len(rows))
    return Conflict(f"{listed.detail}; with on_conflict=replace the new values would take their place", errors=listed.errors)  # noqa: S608 - words for a person, no SQL


def write_chunks(session: Session, workspace_id: int, ids: Ints, numbers: Ints, chunks: Floats) -> None:
    """Stores the chunks, in the place of those that are there."""
    if len(ids):
        _WRITE.run_all(session, _encode_blocks(ids, numbers, chunks), workspace_id=workspace_id, channel=0)


def _encode_blocks(ids: Ints, numbers: Ints, chunks: Floats) -> Iterator[Block]:
    for start in range(0, len(ids), CHUNKS_PER_BLOCK):
        some = slice(start, start + CHUNKS_PER_BLOCK)
        yield {"series_id": ids[some].tolist(), "number": numbers[some].tolist(), "data": encode(chunks[some])}


def _insert_or_replace(is_sqlite: bool) -> Any:
    statement = insert_into(Chunk, is_sqlite=is_sqlite)
    if not is_sqlite:
        same = [sa.bindparam("workspace_id", type_=sa.BigInteger), sa.bindparam("channel", type_=sa.SmallInteger)]
        each = columns_of(is_sqlite, {"series_id": Chunk.series_id, "number": Chunk.number, "data": Chunk.data})
        statement = statement.from_select(CHUNK_COLUMNS, sa.select(*same, *each.values()))
    return statement.on_conflict_do_update(
        index_elements=["series_id", "channel", "number"], set_={"data": statement.excluded.data}
    )


CHUNK_COLUMNS = ("workspace_id", "channel", "series_id", "number", "data")
_WRITE = Statement(_insert_or_replace, keys=CHUNK_COLUMNS)


WRITTEN = ("revision", "count", "missing", "first_step", "last_step", "cutoff_step")


def _update_series(is_sqlite: bool) -> Any:
    columns = {"at": Series.id, **{f"new_{name}": getattr(Series, name) for name in WRITTEN}}
    new = columns_of(is_sqlite, columns)
    return sa.update(Series).where(Series.id == new["at"]).values({name: new[f"new_{name}"] for name in WRITTEN})


_UPDATE = Statement(_update_series)


def _write_series(session: Session, stock: _Stock) -> None:
    """The counts and ends of the changed series, and their revision one higher."""
    changed, lost = np.flatnonzero(stock.changed), np.flatnonzero(stock.lost_cutoff)
    if not len(changed):
        return
    if len(lost):
        found, has_value = find_cutoffs(session, stock.ids[lost], AFTER_ALL)
        stock.cutoffs[lost] = np.where(has_value, found, BEFORE_ALL)
    numbers = [stock.revisions + 1, stock.counts, stock.missing, stock.firsts, stock.lasts, stock.cutoffs]
    block: dict[str, list[Any]] = {"at": stock.ids[changed].tolist()}
    for name, column in zip(WRITTEN, numbers, strict=True):
        block[f"new_{name}"] = [None if value == BEFORE_ALL else value for value in column[changed].tolist()]
    _UPDATE.run_all(session, [block])
