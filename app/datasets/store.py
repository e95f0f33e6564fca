"""Chunk rows and series rows, in bulk: what reading and writing both stand on. Pairs are (series id, chunk number)."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.database import Base
from app.datasets.chunks import STEP_BITS, STEPS_PER_CHUNK, Floats, decode, make_absent
from app.tables import Chunk, Series

Ints = NDArray[np.int64]

SERIES_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,256}")
"""Any text but control characters and halves of a surrogate pair, which no database could store."""
BEFORE_ALL = -(2**62)
"""A step before every other."""
IDS_PER_STATEMENT = 5_000
"""PostgreSQL takes 65,535 parameters in one statement, SQLite half of that."""
CHUNKS_AT_ONCE = 512
"""Rows fetched and decoded together: 4 MiB of values."""

_WANTED = {
    "postgresql": "SELECT unnest(CAST(:ids AS bigint[])) AS series_id, unnest(CAST(:numbers AS bigint[])) AS number",
    "sqlite": "SELECT i.value AS series_id, n.value AS number FROM json_each(:ids) i JOIN json_each(:numbers) n ON n.key = i.key",
}


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


def in_batches(items: Sequence[Any], size: int = IDS_PER_STATEMENT) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def read_pairs(session: Session, ids: Ints, numbers: Ints) -> Floats:
    """[K, 1024] of the K pairs asked for, in their order; a chunk that is not stored is all absent."""
    values = make_absent(len(ids))
    if not len(ids):
        return values
    position = {pair: row for row, pair in enumerate(zip(ids.tolist(), numbers.tolist(), strict=True))}
    as_list = orjson.dumps if session.get_bind().dialect.name == "sqlite" else list
    statement = sa.text(
        f"SELECT c.series_id, c.number, c.data FROM ({_WANTED[session.get_bind().dialect.name]}) AS wanted "
        "JOIN chunks AS c ON c.series_id = wanted.series_id AND c.channel = 0 AND c.number = wanted.number"
    )
    rows = session.execute(statement, {"ids": as_list(ids.tolist()), "numbers": as_list(numbers.tolist())}).all()
    for batch in in_batches(rows, CHUNKS_AT_ONCE):
        values[[position[row[0], row[1]] for row in batch]] = decode([row[2] for row in batch])
    return values


def stream_chunks(session: Session, ids: Sequence[int], first: int, last: int) -> Iterator[tuple[Ints, Ints, Floats]]:
    """(series ids, numbers, values [K, 1024]) of all chunks numbered first..last inclusive, ordered by both, a few at a time."""
    for batch in in_batches(sorted(ids)):
        statement = (
            sa.select(Chunk.series_id, Chunk.number, Chunk.data)
            .where(Chunk.series_id.in_(batch), Chunk.channel == 0, Chunk.number.between(first, last))
            .order_by(Chunk.series_id, Chunk.number)
            .execution_options(yield_per=CHUNKS_AT_ONCE)
        )
        for rows in session.execute(statement).partitions():
            yield np.array([row[0] for row in rows]), np.array([row[1] for row in rows]), decode([row[2] for row in rows])


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
    newest: dict[int, int] = {}
    for batch in in_batches(list(zip(ids.tolist(), numbers.tolist(), strict=True)), 500):
        either = sa.or_(*(sa.and_(Chunk.series_id == id_, Chunk.number <= number) for id_, number in batch))
        statement = (
            sa.select(Chunk.series_id, sa.func.max(Chunk.number)).where(either, Chunk.channel == 0).group_by(Chunk.series_id)
        )
        newest.update((row[0], row[1]) for row in session.execute(statement))
    stored = np.array([id_ in newest for id_ in ids.tolist()], np.bool_)
    return np.array([newest.get(id_, 0) for id_ in ids.tolist()], np.int64), stored


def insert_into(session: Session, table: type[Base]) -> Any:
    """An INSERT that can say what to do ON CONFLICT, which both dialects spell alike."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    return dialect.insert(table)
