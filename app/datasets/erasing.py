"""Series erased for good: their rows, and with them values, revisions and kept backtests; and what is left that was learned from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.datasets.store import SeriesRow, one_of
from app.tables import Alias, BacktestWindow, Chunk, Dataset, Model, Series, Training, Version


@dataclass(frozen=True)
class Traces:
    """Where series are: what an erasure removes, and what it leaves."""

    series: list[dict[str, Any]]
    """{"id", "observations", "chunks", "backtest_windows"}: these go."""
    versions: list[dict[str, Any]]
    """{"model", "version", "aliases"}: learned from at least one of them. Weights hold no series, and were still shaped by it."""
    trainings: list[dict[str, Any]]
    """{"id", "model", "status"}: name one of them in their request, or learn from one now."""


def find_traces(session: Session, dataset: Dataset, rows: Sequence[SeriesRow]) -> Traces:
    """All places that know one of these series of the dataset."""
    ids = [row.id for row in rows]
    counts = [
        dict(session.execute(sa.select(column, sa.func.count()).where(one_of(session, column, ids)).group_by(column)).all())
        for column in (Chunk.series_id, BacktestWindow.series_id)
    ]
    series = [
        {
            "id": row.name,
            "observations": row.count,
            "chunks": counts[0].get(row.id, 0),
            "backtest_windows": counts[1].get(row.id, 0),
        }
        for row in rows
    ]
    return Traces(series, _find_versions(session, dataset, rows), _find_trainings(session, dataset, rows))


def erase_series(session: Session, rows: Sequence[SeriesRow]) -> int:
    """Deletes the series with everything that is of them alone; how many observations there were. The caller holds the dataset, so that
    nobody writes to it meanwhile. SQLite overwrites what was there."""
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    if is_sqlite:
        session.connection().exec_driver_sql("PRAGMA secure_delete = ON")
    session.execute(sa.delete(Series).where(one_of(session, Series.id, [row.id for row in rows])))
    if is_sqlite:
        session.connection().exec_driver_sql("PRAGMA secure_delete = OFF")
    return sum(row.count for row in rows)


def _find_versions(session: Session, dataset: Dataset, rows: Sequence[SeriesRow]) -> list[dict[str, Any]]:
    query = sa.select(Version.id, Version.number, Version.cutoff_step, Model.name, Training.request)
    query = query.join(Model, Model.id == Version.model_id).join(Training, Training.id == Version.training_id, isouter=True)
    found = session.execute(query.where(Version.dataset_id == dataset.id).order_by(Model.name, Version.number)).all()
    learned = [version for version in found if any(_has_learned(row, version.request, version.cutoff_step) for row in rows)]
    aliases: dict[int, list[str]] = {version.id: [] for version in learned}
    moved = sa.select(Alias.version_id, Alias.name).where(Alias.version_id.in_(aliases)).order_by(Alias.name)
    for version_id, name in session.execute(moved):
        aliases[version_id].append(name)
    return [{"model": one.name, "version": one.number, "aliases": aliases[one.id]} for one in learned]


def _find_trainings(session: Session, dataset: Dataset, rows: Sequence[SeriesRow]) -> list[dict[str, Any]]:
    query = sa.select(Training.public_id, Training.status, Training.request, Training.cutoff_step, Model.name)
    query = query.join(Model, Model.id == Training.model_id).where(Training.dataset_id == dataset.id).order_by(Training.id)
    names = {row.name for row in rows}
    return [
        {"id": one.public_id, "model": one.name, "status": one.status}
        for one in session.execute(query)
        if names & set(one.request.get("series") or ())
        or (one.status in ("queued", "running") and any(_has_learned(row, one.request, one.cutoff_step) for row in rows))
    ]


def _has_learned(row: SeriesRow, request: dict[str, Any] | None, cutoff_step: int) -> bool:
    """Whether a training with this request saw the series. Where nobody knows its request any more, it may have."""
    if row.first_step is None or row.first_step > cutoff_step:
        return False
    if request is None:
        return True
    chosen, prefix = request.get("series"), request.get("series_prefix")
    return (chosen is None or row.name in chosen) and (prefix is None or row.name.startswith(prefix))
