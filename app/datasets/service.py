"""Datasets and their series, and the two ways in which the rest of the house reads what was observed. Flushes, never commits."""

import hashlib
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from app.calendar import Grid
from app.database import Glance, utc_now
from app.datasets.chunks import STEP_BITS, STEPS_PER_CHUNK, Floats
from app.datasets.schemas import DatasetPut
from app.datasets.store import (
    SERIES_ID,
    SERIES_ROW,
    Ints,
    SeriesRow,
    among,
    find_cutoffs,
    insert_into,
    one_of,
    pack,
    parameter,
    read_pairs,
    stream_chunks,
)
from app.errors import AlreadyExists, Conflict, DatasetInUse, DatasetNotEmpty, FreqUndetermined, NotFound
from app.statements import Statement, is_on_sqlite
from app.tables import Dataset, Model, Series, Version

HOLD_ATTEMPTS = 5
MAX_NAMED = 20
"""How many of many names an error tells."""


def get_dataset(session: Session, workspace_id: int, name: str, *, hold: bool = False) -> Dataset:
    """The dataset called `name`; with `hold` nobody else changes, deletes or writes to it until the transaction ends. Raises NotFound."""
    statement = _called(workspace_id, name)
    dataset = session.scalars(statement.with_for_update() if hold else statement).one_or_none()
    if dataset is None:
        raise NotFound(f"there is no dataset {name!r}; the first observations posted to it create it", dataset=name)
    return dataset


@dataclass(frozen=True, slots=True)
class Opened:
    """A dataset as whoever writes observations to it found it."""

    id: int
    workspace_id: int
    name: str
    freq: str | None
    phase_us: int | None
    time_zone: str
    aggregate: str | None


_OPENED = Statement(
    lambda _: sa.select(
        *(Dataset.id, Dataset.workspace_id, Dataset.name),
        *(Dataset.freq, Dataset.phase_us, Dataset.time_zone, Dataset.aggregate),
    ).where(Dataset.workspace_id == sa.bindparam("workspace_id"), Dataset.name == sa.bindparam("name"))
)


def open_dataset(session: Session, workspace_id: int, name: str) -> Opened:
    """The dataset to write observations to, made if there is none, and held until the transaction ends: nobody deletes it
    meanwhile, and while it has no freq nobody else writes."""
    if is_on_sqlite(session):  # whose one writer this is: what it found stands
        for row in _OPENED.rows(session, workspace_id=workspace_id, name=name):
            return Opened(*row)
    dataset, _ = _hold_dataset(session, workspace_id, name, alone=False)
    return Opened(*(getattr(dataset, each.name) for each in fields(Opened)))


def put_dataset(session: Session, workspace_id: int, name: str, wanted: DatasetPut) -> tuple[Dataset, bool]:
    """(dataset, whether it is new). Raises DatasetNotEmpty where freq, time zone or aggregate would change under observations."""
    dataset, is_new = _hold_dataset(session, workspace_id, name, alone=True)
    given = {field: getattr(wanted, field) for field in wanted.model_fields_set}
    changes = {field: value for field, value in given.items() if getattr(dataset, field) != value}
    count = measure_datasets(session, [dataset.id])[dataset.id].observations
    if count and changes.get("freq", "") is None:
        del changes["freq"]  # null means inferred, which it was
    firm = sorted(changes.keys() - {"description"})
    if count and firm:
        told = "; ".join(f"{field} is {getattr(dataset, field)!r}, not {changes[field]!r}" for field in firm)
        raise DatasetNotEmpty(
            f"dataset {name!r} holds {count} observations, which stand on its grid: {told}. Delete them first, or PUT another dataset",
            dataset=name,
            observations=count,
        )
    for field, value in changes.items():
        setattr(dataset, field, value)
    if firm:
        dataset.phase_us = 0 if dataset.freq == "step" else None
    if changes:
        dataset.updated_at = utc_now()
    session.flush()
    return dataset, is_new


def _hold_dataset(session: Session, workspace_id: int, name: str, *, alone: bool) -> tuple[Dataset, bool]:
    """(dataset, whether it is new), locked: against all others where `alone` or while it has no freq, else against its deletion."""
    found = _called(workspace_id, name)
    for _ in range(HOLD_ATTEMPTS):
        freq = session.execute(found.with_only_columns(Dataset.freq)).one_or_none()
        is_new = freq is None and _insert_dataset(session, workspace_id, name)
        shared = not alone and freq is not None and freq[0] is not None
        held = found.with_for_update(read=shared, key_share=shared).execution_options(populate_existing=True)
        dataset = session.scalars(held).one_or_none()
        if dataset is not None:
            return dataset, is_new
    raise Conflict(f"dataset {name!r} is being deleted by someone else; send the request again", dataset=name)


def _called(workspace_id: int, name: str) -> sa.Select[Dataset]:
    return sa.select(Dataset).where(Dataset.workspace_id == workspace_id, Dataset.name == name)


def _insert_dataset(session: Session, workspace_id: int, name: str) -> bool:
    """Whether the dataset is new. One of two who make it at once waits for the other, and then finds it."""
    now = utc_now()
    values = {"workspace_id": workspace_id, "name": name, "created_at": now, "updated_at": now}
    statement = (
        insert_into(Dataset, is_sqlite=is_on_sqlite(session)).values(**values).on_conflict_do_nothing().returning(Dataset.id)
    )
    return session.connection().execute(statement).scalar() is not None


def patch_dataset(session: Session, workspace_id: int, old_name: str, *, name: str | None, description: str | None) -> Dataset:
    """The changed dataset. Raises NotFound, and AlreadyExists where another dataset has the name."""
    dataset = get_dataset(session, workspace_id, old_name, hold=True)
    dataset.name = dataset.name if name is None else name
    dataset.description = dataset.description if description is None else description
    if session.is_modified(dataset):
        dataset.updated_at = utc_now()
    try:
        with session.begin_nested():
            session.flush()
    except sa.exc.IntegrityError as error:
        raise AlreadyExists(f"there is a dataset {name!r} already", dataset=name) from error
    return dataset


def delete_dataset(session: Session, workspace_id: int, name: str, *, cascade: bool) -> None:
    """With all its observations. Raises NotFound, and DatasetInUse while versions learned from it exist, unless `cascade` takes
    them along."""
    dataset = get_dataset(session, workspace_id, name, hold=True)
    if not cascade:
        statement = sa.select(Model.name).join(Version, Version.model_id == Model.id).where(Version.dataset_id == dataset.id)
        models = session.scalars(statement.distinct().order_by(Model.name).limit(MAX_NAMED)).all()
        if models:
            raise DatasetInUse(
                f"versions of {', '.join(map(repr, models))} were learned from dataset {dataset.name!r}; delete them first, or send "
                "?cascade=true to delete them with it",
                dataset=dataset.name,
                models=list(models),
            )
    session.execute(sa.delete(Dataset).where(Dataset.id == dataset.id))


@dataclass(frozen=True)
class DatasetSize:
    """How many series hold observations, how many observations they hold, and from which step to which; None while there is none."""

    series: int
    observations: int
    first_step: int | None = None
    last_step: int | None = None


def measure_datasets(session: Session, dataset_ids: Sequence[int]) -> dict[int, DatasetSize]:
    statement = (
        sa.select(
            *(Series.dataset_id, sa.func.count(), sa.func.sum(Series.count)),
            *(sa.func.min(Series.first_step), sa.func.max(Series.last_step)),
        )
        .where(Series.dataset_id.in_(dataset_ids), Series.count > 0)
        .group_by(Series.dataset_id)
    )
    sizes = {row[0]: DatasetSize(row[1], int(row[2]), row[3], row[4]) for row in session.execute(statement)}
    return {id_: sizes.get(id_, DatasetSize(0, 0)) for id_ in dataset_ids}


def list_datasets(session: Session, workspace_id: int, after: str | None, limit: int) -> Sequence[Dataset]:
    """Ordered by name, those after the name `after`."""
    statement = sa.select(Dataset).where(Dataset.workspace_id == workspace_id).order_by(Dataset.name).limit(limit)
    return session.scalars(statement if after is None else statement.where(Dataset.name > after)).all()


def list_series(session: Session, dataset_id: int, prefix: str, after: str | None, limit: int) -> list[SeriesRow]:
    """The series that hold observations, ordered by name, those after the name `after`."""
    statement = sa.select(*SERIES_ROW).where(Series.dataset_id == dataset_id, Series.count > 0, *_begins_with(prefix))
    statement = statement.order_by(Series.name).limit(limit)
    rows = session.execute(statement if after is None else statement.where(Series.name > after))
    return [SeriesRow(*row) for row in rows]


def _begins_with(prefix: str) -> list[sa.ColumnElement[bool]]:
    if not prefix:
        return []
    if not SERIES_ID.fullmatch(prefix):
        return [sa.false()]
    return [Series.name >= prefix, sa.func.substr(Series.name, 1, len(prefix)) == prefix]


def grid_of(dataset: Dataset) -> Grid:
    """The grid of a dataset that has one. Raises FreqUndetermined before its first observations."""
    if dataset.freq is None or dataset.phase_us is None:
        raise FreqUndetermined(
            f"dataset {dataset.name!r} has no observations yet, so its timestamps have no grid", dataset=dataset.name
        )
    return Grid(dataset.freq, dataset.phase_us, dataset.time_zone)


def select_series(
    session: Session, dataset_id: int, names: list[str] | None, prefix: str | None, *, with_empty: bool = False
) -> list[SeriesRow]:
    """The series that hold observations (`with_empty`: or did), ordered by name: those of `names` (None: all) that begin with `prefix`.
    Raises NotFound."""
    held = [] if with_empty else [Series.count > 0]
    statement = sa.select(*SERIES_ROW).where(Series.dataset_id == dataset_id, *held, *_begins_with(prefix or ""))
    statement = statement.order_by(Series.name)
    if names is None:
        return [SeriesRow(*row) for row in session.execute(statement)]
    wanted = sorted({name for name in names if SERIES_ID.fullmatch(name)})
    rows = [SeriesRow(*row) for row in session.execute(statement.where(one_of(session, Series.name, wanted)))]
    check_found([name for name in names if not prefix or name.startswith(prefix)], {row.name for row in rows})
    return rows


def find_series(session: Session | Glance, dataset_id: int, names: Iterable[str]) -> list[SeriesRow]:
    """The series of these names that hold observations, in any order, with one SELECT; the others are left out."""
    wanted = [name for name in names if SERIES_ID.fullmatch(name)]
    return [SeriesRow(*row) for row in _NAMED.rows(session, dataset_id=dataset_id, names=pack(session, wanted))]


def _select_named(is_sqlite: bool) -> Any:
    here = among(is_sqlite, Series.name, parameter(is_sqlite, "names", Series.name))
    return sa.select(*SERIES_ROW).where(Series.dataset_id == sa.bindparam("dataset_id"), Series.count > 0, here)


_NAMED = Statement(_select_named)


def check_found(names: Sequence[str], found: Container[str]) -> None:
    """Raises NotFound, which tells the names that were not found."""
    absent = [name for name in dict.fromkeys(names) if name not in found]
    if absent:
        more = f" and {len(absent) - MAX_NAMED} more" if len(absent) > MAX_NAMED else ""
        raise NotFound(
            f"the dataset holds no observations of series {', '.join(map(repr, absent[:MAX_NAMED]))}{more}",
            series=absent[:MAX_NAMED],
        )


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
    statement = sa.select(*SERIES_ROW).where(one_of(session, Series.id, series_ids))
    known = {row.id: SeriesRow(*row) for row in session.execute(statement)}
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
        cutoffs[beyond], has_value[beyond] = find_cutoffs(session, ids[beyond], cutoff_step)
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
