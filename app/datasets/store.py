"""Chunk rows and series rows, in bulk: what reading and writing both stand on. Pairs are (series id, chunk number)."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.datasets.chunks import Floats, decode, make_absent
from app.tables import Chunk, Series

Ints = NDArray[np.int64]

SERIES_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,256}")
"""Any text but control characters and halves of a surrogate pair, which no database could store."""
IDS_PER_STATEMENT = 5_000
"""PostgreSQL takes 65,535 parameters in one statement, SQLite half of that."""
CHUNKS_AT_ONCE = 512
"""Rows fetched and decoded together: 4 MiB of values."""

_WANTED = {
    "postgresql": "SELECT unnest(CAST(:ids AS bigint[])) AS series_id, unnest(CAST(:numbers AS bigint[])) AS number",
    "sqlite": "SELECT i.value AS series_id, n.value AS number FROM json_each(:ids) i JOIN json_each(:numbers) n ON n.key = i.key",
}


class SeriesRow(NamedTuple):
    """A series as readers need it. Steps are None while it holds nothing; `cutoff_step` also while it holds only missing values."""

    id: int
    name: str
    revision: int
    first_step: int | None
    last_step: int | None
    cutoff_step: int | None
    values: int


SERIES_ROW = (
    Series.id,
    Series.name,
    Series.revision,
    Series.first_step,
    Series.last_step,
    Series.cutoff_step,
    Series.count - Series.missing,
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


def upsert_statement(session: Session, table: type[Any]) -> Any:
    """An INSERT of this session's dialect, which both spell alike."""
    return (postgresql if session.get_bind().dialect.name == "postgresql" else sqlite).insert(table)
