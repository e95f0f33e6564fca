"""Checks that read everything there is: each chunk, each artifact, each count. They take as long as reading the database does."""

import hashlib
from collections.abc import Iterator

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.database import Database
from app.datasets.chunks import STEP_BITS, decode, is_absent
from app.datasets.observations import Bools
from app.datasets.store import name_damage
from app.doctor.finding import Finding, fail, ok
from app.errors import ObservationsCorrupt
from app.settings import Settings
from app.tables import Artifact, Chunk, Model, Series, TrainingState, Version

AT_ONCE = 256
NAMED = 5
"""How many of many damages a finding names."""


def check_pages(settings: Settings, database: Database) -> Finding:
    """Whether the database itself finds its pages, rows and references whole."""
    if database.dialect != "sqlite":
        return ok("pages", "PostgreSQL looks after its own (pg_amcheck, and data checksums where they are on)")
    with database.engine.connect() as connection:
        found = [row[0] for row in connection.exec_driver_sql(f"PRAGMA integrity_check({NAMED})") if row[0] != "ok"]
        found += [
            f"row {row[1]} of {row[0]} refers to nothing" for row in connection.exec_driver_sql("PRAGMA foreign_key_check")
        ]
    if found:
        return fail(
            "pages", "; ".join(found[:NAMED]), "stop the service and restore a backup (`engram restore FILE --replace`)"
        )
    return ok("pages", "integrity_check and foreign_key_check find nothing")


def check_observations(settings: Settings, database: Database) -> Finding:
    """Whether each chunk has the checksum it was stored with, and each series the counts and ends that its chunks have."""
    damages: list[str] = []
    chunks = series = 0
    with database.read() as session:
        for rows in session.execute(_chunks_by_series()).partitions():
            chunks += len(rows)
            damages += _find_damaged(session, [(row[0], row[1], row[2]) for row in rows])
        if not damages:
            for told, found in _count_again(session):
                series += 1
                if told != found:
                    damages.append(
                        f"series {told[0]} holds {found[1:]} and says {told[1:]} (count, missing, first, last, cutoff)"
                    )
    if damages:
        more = f" (and {len(damages) - NAMED} more)" if len(damages) > NAMED else ""
        cure = "delete the observations of these series and send them again, or restore a backup; and look at the disk"
        return fail("observations", "; ".join(damages[:NAMED]) + more, cure)
    return ok("observations", f"{chunks} chunks of {series} series are as they were stored")


def check_artifacts(settings: Settings, database: Database) -> Finding:
    """Whether each version can be served, and each state gone on from."""
    query = sa.select(Model.name, Version.number, Artifact.sha256, Artifact.data)
    query = query.join(Version, Version.model_id == Model.id).join(Artifact, Artifact.version_id == Version.id)
    count, damages = 0, []
    with database.read() as session:
        for name, number, sha256, data in session.execute(query.execution_options(yield_per=16)):
            count += 1
            if hashlib.sha256(data).hexdigest() != sha256:
                damages.append(f"version {number} of model {name!r}")
        lacking = sa.select(Model.name, Version.number).join(Version, Version.model_id == Model.id)
        for name, number in session.execute(lacking.where(~sa.exists().where(Artifact.version_id == Version.id))):
            damages.append(f"version {number} of model {name!r}, which has none")
        states = session.execute(sa.select(TrainingState.sha256, TrainingState.data).execution_options(yield_per=16))
        broken = sum(hashlib.sha256(data).hexdigest() != sha256 for sha256, data in states)
    if damages:
        more = f" (and {len(damages) - NAMED} more)" if len(damages) > NAMED else ""
        cure = "move the alias to another version (PUT /v1/models/{model}/aliases/champion, or engram promote), and train again"
        return fail("artifacts", f"damaged: {', '.join(damages[:NAMED])}{more}", cure)
    left = f"; {broken} states of trainings under way are damaged: these begin anew" if broken else ""
    return ok("artifacts", f"{count} artifacts are as they were stored{left}")


def _chunks_by_series() -> sa.Select[int, int, bytes]:
    query = sa.select(Chunk.series_id, Chunk.number, Chunk.data).where(Chunk.channel == 0)
    return query.order_by(Chunk.series_id, Chunk.number).execution_options(yield_per=AT_ONCE)


def _find_damaged(session: Session, rows: list[tuple[int, int, bytes]]) -> list[str]:
    try:
        decode([data for _, _, data in rows])
    except ObservationsCorrupt:
        if len(rows) == 1:
            error = name_damage(session, rows[0][0], rows[0][1], "its checksum is wrong")
            facts = error.facts
            return [f"series {facts['series']!r} of dataset {facts['dataset']!r} from {facts['start']} to {facts['end']}"]
        return [damage for row in rows for damage in _find_damaged(session, [row])]
    return []


def _count_again(session: Session) -> Iterator[tuple[tuple[object, ...], tuple[object, ...]]]:
    """Of each series what its row says and what its chunks hold: (name, count, missing, first, last, cutoff)."""
    found: dict[int, list[int | None]] = {}
    for rows in session.execute(_chunks_by_series()).partitions():
        values = decode([row[2] for row in rows])
        held, missing = ~is_absent(values), np.isnan(values)
        for row, is_held, is_missing in zip(rows, held, missing, strict=True):
            _add(found.setdefault(row[0], [0, 0, None, None, None]), row[1] << STEP_BITS, is_held, is_missing)
    columns = (Series.count, Series.missing, Series.first_step, Series.last_step, Series.cutoff_step)
    for id_, name, *told in session.execute(sa.select(Series.id, Series.name, *columns).execution_options(yield_per=1000)):
        yield (name, *told), (name, *found.get(id_, [0, 0, None, None, None]))


def _add(sums: list[int | None], start: int, is_held: Bools, is_missing: Bools) -> None:
    steps = np.flatnonzero(is_held)
    if not len(steps):
        return
    sums[0] = (sums[0] or 0) + len(steps)
    sums[1] = (sums[1] or 0) + int((is_held & is_missing).sum())
    sums[2] = start + int(steps[0]) if sums[2] is None else sums[2]
    sums[3] = start + int(steps[-1])
    if len(values := np.flatnonzero(is_held & ~is_missing)):
        sums[4] = start + int(values[-1])
