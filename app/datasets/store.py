"""Chunk rows and series rows, in bulk: what reading and writing both stand on. Pairs are (series id, chunk number)."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.calendar import Grid
from app.database import Base, Glance, NotAtAGlanceError
from app.datasets.chunks import STEP_BITS, STEPS_PER_CHUNK, Floats, decode, make_absent
from app.errors import ObservationsCorrupt
from app.statements import Statement, is_on_sqlite
from app.tables import Chunk, Dataset, Series

Ints = NDArray[np.int64]

SERIES_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,256}")
"""Any text but control characters and halves of a surrogate pair, which no database could store."""
BEFORE_ALL = -(2**62)
"""A step before every other."""
CHUNKS_AT_ONCE = 512
"""Rows fetched and decoded together: 4 MiB of values."""
MAX_GLANCED = 8
"""Chunks that the event loop itself reads: their pages may have to come from the disk after all."""


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """A series as readers need it. Steps are None while it holds nothing; `cutoff_step` also while it holds only missing values."""

    id: int
    name: str
    revision: int
    first_step: int | None
    last_step: int | None
    cutoff_step: int | None
    count: int
    missing: int


SERIES_ROW = (
    *(Series.id, Series.name, Series.revision),
    *(Series.first_step, Series.last_step, Series.cutoff_step),
    *(Series.count, Series.missing),
)


def one_of(
    session: Session, column: InstrumentedAttribute[Any], values: Sequence[int] | Sequence[str]
) -> sa.ColumnElement[bool]:
    """Whether the column is one of the values, which travel as one parameter, however many they are. (A long IN list is searched
    from end to end for every row where PostgreSQL does not use an index.)"""
    return among(
        is_on_sqlite(session), column, sa.literal(pack(session, values), None if is_on_sqlite(session) else ARRAY(column.type))
    )


def among(is_sqlite: bool, column: InstrumentedAttribute[Any], packed: Any) -> sa.ColumnElement[bool]:
    """`one_of` with what `pack` made, or with the parameter that it will be: statements that are built once and run often."""
    if is_sqlite:
        return column.in_(sa.select(sa.func.json_each(packed).table_valued("value").c.value))
    return column == sa.any_(packed)


def pack(session: Session | Glance, values: Sequence[int] | Sequence[str]) -> str | list[Any]:
    """Many values as one parameter."""
    return orjson.dumps(list(values)).decode() if is_on_sqlite(session) else list(values)


def parameter(is_sqlite: bool, name: str, column: InstrumentedAttribute[Any]) -> sa.BindParameter[Any]:
    """The place of what `pack` makes of values of the column."""
    return sa.bindparam(name, type_=sa.String() if is_sqlite else ARRAY(column.type))


@cache
def _pairs(is_sqlite: bool) -> sa.Subquery:
    """The pairs of `_pack_pairs` as a subquery. What is looked up for each stands in a scalar subquery: a join could be turned around
    by a planner that knows little about a new table, and take hours."""
    if is_sqlite:
        value = sa.func.json_each(sa.bindparam("pairs", type_=sa.String())).table_valued(sa.column("value", sa.JSON)).c.value
        columns = [sa.type_coerce(value.op("->>")(position), sa.BigInteger) for position in (0, 1)]
        return sa.select(columns[0].label("series_id"), columns[1].label("number")).subquery()
    arrays = [sa.func.unnest(sa.bindparam(name, type_=ARRAY(sa.BigInteger))) for name in ("ids", "numbers")]
    return sa.select(arrays[0].label("series_id"), arrays[1].label("number")).subquery()


def _pack_pairs(session: Session | Glance, ids: Ints, numbers: Ints) -> dict[str, Any]:
    if is_on_sqlite(session):
        return {"pairs": orjson.dumps(list(zip(ids.tolist(), numbers.tolist(), strict=True))).decode()}
    return {"ids": ids.tolist(), "numbers": numbers.tolist()}


def _select_chunks(is_sqlite: bool) -> sa.Select[Any]:
    wanted = _pairs(is_sqlite)
    here = sa.and_(Chunk.series_id == wanted.c.series_id, Chunk.channel == 0, Chunk.number == wanted.c.number)
    return sa.select(wanted, sa.select(Chunk.data).where(here).scalar_subquery())


_CHUNKS = Statement(_select_chunks)


@cache
def _newest_of_pairs(is_sqlite: bool) -> sa.Select[Any]:
    wanted = _pairs(is_sqlite)
    before = sa.and_(Chunk.series_id == wanted.c.series_id, Chunk.channel == 0, Chunk.number <= wanted.c.number)
    return sa.select(wanted.c.series_id, sa.select(sa.func.max(Chunk.number)).where(before).scalar_subquery())


def read_pairs(session: Session | Glance, ids: Ints, numbers: Ints) -> Floats:
    """[K, 1024] of the K pairs asked for, in their order; a chunk that is not stored is all absent."""
    values = make_absent(len(ids))
    if not len(ids):
        return values
    if isinstance(session, Glance) and len(ids) > MAX_GLANCED:
        raise NotAtAGlanceError("chunks")
    position = {pair: row for row, pair in enumerate(zip(ids.tolist(), numbers.tolist(), strict=True))}
    for rows in _CHUNKS.partitions(session, CHUNKS_AT_ONCE, **_pack_pairs(session, ids, numbers)):
        stored = [row for row in rows if row[2] is not None]
        values[[position[row[0], row[1]] for row in stored]] = _decode(session, stored)
    return values


def stream_chunks(session: Session, ids: Sequence[int], first: int, last: int) -> Iterator[tuple[Ints, Ints, Floats]]:
    """(series ids, numbers, values [K, 1024]) of all chunks numbered first..last inclusive, ordered by both, a few at a time."""
    statement = (
        sa.select(Chunk.series_id, Chunk.number, Chunk.data)
        .where(one_of(session, Chunk.series_id, ids), Chunk.channel == 0, Chunk.number.between(first, last))
        .order_by(Chunk.series_id, Chunk.number)
        .execution_options(yield_per=CHUNKS_AT_ONCE)
    )
    for rows in session.execute(statement).partitions():
        yield np.array([row[0] for row in rows]), np.array([row[1] for row in rows]), _decode(session, rows)


def _decode(session: Session | Glance, rows: Sequence[Any]) -> Floats:
    """[K, 1024] of K rows (series id, number, data). Raises ObservationsCorrupt, which says where."""
    try:
        return decode([row[2] for row in rows])
    except ObservationsCorrupt as error:
        damaged = rows[error.facts["row"]]
        raise name_damage(session, damaged[0], damaged[1], error.detail) from error


def name_damage(session: Session | Glance, series_id: int, number: int, reason: str) -> ObservationsCorrupt:
    """What is wrong with chunk `number` of a series, with its name and its time."""
    series, dataset = session.execute(
        sa.select(Series.name, Dataset).join(Dataset, Dataset.id == Series.dataset_id).where(Series.id == series_id)
    ).one()
    grid = Grid(dataset.freq or "step", dataset.phase_us or 0, dataset.time_zone)
    start, end = grid.to_labels(np.array([number << STEP_BITS, ((number + 1) << STEP_BITS) - 1]))
    return ObservationsCorrupt(
        f"the observations of series {series!r} of dataset {dataset.name!r} from {start} to {end} are damaged ({reason}); delete those of "
        f"the series (DELETE /v1/datasets/{dataset.name}/observations?series={quote(series)}) and send them again, or restore a backup",
        dataset=dataset.name,
        series=series,
        start=start,
        end=end,
    )


def find_cutoffs(session: Session, ids: Ints, cutoff_step: int) -> tuple[Ints, NDArray[np.bool_]]:
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
    found = session.execute(_newest_of_pairs(is_on_sqlite(session)), _pack_pairs(session, ids, numbers))
    newest = {row[0]: row[1] for row in found if row[1] is not None}
    stored = np.array([id_ in newest for id_ in ids.tolist()], np.bool_)
    return np.array([newest.get(id_, 0) for id_ in ids.tolist()], np.int64), stored


def insert_into(table: type[Base], *, is_sqlite: bool) -> Any:
    """An INSERT that can say what to do ON CONFLICT, which both dialects spell alike."""
    return (sqlite if is_sqlite else postgresql).insert(table)
