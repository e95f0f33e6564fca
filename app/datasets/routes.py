"""The door to datasets and observations."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from sqlalchemy.orm import Session

from app import contract, quotas
from app.calendar import Grid
from app.combining import Combiner
from app.contract import parse_moment
from app.datasets import answers, erasing, formats, ingest, openapi, overview, preview, reading, schemas, service
from app.datasets.bounds import Bounds
from app.datasets.columns import ColumnOptions
from app.datasets.store import SeriesRow
from app.datasets.storing import Posted, store
from app.dependencies import (
    AuditNeeded,
    DatabaseNeeded,
    PageNeeded,
    ReadCaller,
    ReadSession,
    SettingsNeeded,
    WriteCaller,
    WriteSession,
    choose_media_type,
    demand,
)
from app.errors import AnswerTooLarge
from app.idempotency import OnceNeeded
from app.tables import NAME_PATTERN, Dataset

router = APIRouter(prefix="/v1", tags=["datasets"])

JSON_SHARE = 20
"""A JSON answer takes so many times the memory of one in arrays, and may hold so many times less."""

DatasetName = Annotated[str, Path(pattern=NAME_PATTERN, description="Begins with a letter or digit; up to 64 of a-z 0-9 . _ -")]
Start = Annotated[
    str | None, Query(max_length=64, description="First timestamp, inclusive (RFC 3339; an integer where freq is step).")
]
End = Annotated[str | None, Query(max_length=64, description="Last timestamp, inclusive.")]


async def get_combiner(request: Request) -> Combiner:
    combiner: Combiner = request.app.state.combiner
    return combiner


async def read_body(request: Request) -> bytes:
    """The whole body; the middleware has bounded and unpacked it."""
    return await request.body()


async def choose_columns(
    series_column: Annotated[str | None, Query(max_length=256, description="The column that holds the series id.")] = None,
    timestamp_column: Annotated[str | None, Query(max_length=256, description="The column that holds the timestamp.")] = None,
    value_column: Annotated[str | None, Query(max_length=256, description="The column that holds the value.")] = None,
    ignore_columns: Annotated[bool, Query(description="Leave other columns unread instead of refusing them.")] = False,
) -> ColumnOptions:
    return ColumnOptions(series_column, timestamp_column, value_column, ignore_columns)


@router.put(
    "/datasets/{dataset}",
    responses={
        200: openapi.DATASET_LINKS,
        201: {"model": schemas.DatasetOut, "description": "The dataset is new.", **openapi.DATASET_LINKS},
    },
)
def put_dataset(
    dataset: DatasetName, body: schemas.DatasetPut, session: WriteSession, caller: WriteCaller, response: Response
) -> schemas.DatasetOut:
    """Makes a dataset, or says what an existing one is. freq, time zone and aggregate change only while it is empty."""
    found, is_new = service.put_dataset(session, caller.workspace_id, dataset, body)
    answer = _to_answers(session, [found])[0]
    session.commit()
    response.status_code = 201 if is_new else 200
    return answer


@router.get("/datasets")
def list_datasets(session: ReadSession, caller: ReadCaller, page: PageNeeded) -> schemas.DatasetPage:
    """All datasets, ordered by name."""
    found = service.list_datasets(session, caller.workspace_id, page.after(str), page.limit)
    return schemas.DatasetPage(items=_to_answers(session, found), next_cursor=page.to_cursor([each.name for each in found]))


@router.get("/datasets/{dataset}")
def get_dataset(dataset: DatasetName, session: ReadSession, caller: ReadCaller) -> schemas.DatasetOut:
    return _to_answers(session, [service.get_dataset(session, caller.workspace_id, dataset)])[0]


@router.patch("/datasets/{dataset}")
def patch_dataset(
    dataset: DatasetName, body: schemas.DatasetPatch, session: WriteSession, caller: WriteCaller, audit: AuditNeeded
) -> schemas.DatasetOut:
    """Renames or describes a dataset. Models keep to it under its new name."""
    found = service.patch_dataset(session, caller.workspace_id, dataset, name=body.name, description=body.description)
    if found.name != dataset:
        audit.note(session, caller, "rename dataset", dataset, found.name)
    answer = _to_answers(session, [found])[0]
    session.commit()
    return answer


@router.delete("/datasets/{dataset}", status_code=204)
def delete_dataset(
    dataset: DatasetName,
    session: WriteSession,
    caller: WriteCaller,
    audit: AuditNeeded,
    cascade: Annotated[bool, Query(description="Delete the versions learned from it as well.")] = False,
) -> None:
    """Deletes a dataset with all its observations. 409 while versions learned from it exist, unless `cascade`, which needs `train` too."""
    if cascade:
        demand(caller, "train")
    service.delete_dataset(session, caller.workspace_id, dataset, cascade=cascade)
    audit.note(session, caller, "delete dataset with its models" if cascade else "delete dataset", dataset)
    session.commit()


@router.post(
    "/datasets/{dataset}/observations",
    openapi_extra=openapi.OBSERVATIONS_BODY,
    responses={200: openapi.OBSERVATIONS_LINKS},
)
def post_observations(
    dataset: DatasetName,
    request: Request,
    body: Annotated[bytes, Depends(read_body)],
    columns: Annotated[ColumnOptions, Depends(choose_columns)],
    database: DatabaseNeeded,
    combiner: Annotated[Combiner, Depends(get_combiner)],
    caller: WriteCaller,
    settings: SettingsNeeded,
    once: OnceNeeded,
    on_conflict: Annotated[
        schemas.OnConflict,
        Query(description="What becomes of a step that holds another value: replace it, keep it, or refuse the request (409)."),
    ] = "replace",
) -> schemas.Receipt:
    """Stores observations, all or none of them; the dataset is made if need be. Sending the same request twice changes nothing."""
    posted = Posted(dataset, body, request.headers.get("content-type", ""), columns, on_conflict)
    return store(posted, caller, once, database, combiner, settings)


@router.post("/datasets/{dataset}/observations/preview", openapi_extra=openapi.OBSERVATIONS_BODY)
def preview_observations(
    dataset: DatasetName,
    request: Request,
    body: Annotated[bytes, Depends(read_body)],
    columns: Annotated[ColumnOptions, Depends(choose_columns)],
    session: WriteSession,
    caller: WriteCaller,
    settings: SettingsNeeded,
) -> schemas.Preview:
    """What posting this body would do, or why it would be refused. Nothing is stored, and no dataset is made."""
    observations = formats.parse(body, request.headers.get("content-type", ""), columns, dataset, Bounds.of(settings))
    held = service.open_dataset(session, caller.workspace_id, dataset)
    receipt = ingest.upsert(session, held, observations, "replace", settings.max_span_steps)
    quotas.charge_observations(session, settings, caller.workspace_id, len(body))
    first, named, zone = preview.show_first(observations, held), preview.name_columns(observations, dataset), held.time_zone
    session.rollback()
    return schemas.Preview(columns=named, time_zone=zone, observations=first, receipt=receipt)


@router.get("/datasets/{dataset}/series")
def list_series(
    dataset: DatasetName,
    session: ReadSession,
    caller: ReadCaller,
    page: PageNeeded,
    prefix: Annotated[str, Query(max_length=256, description="Only series whose id begins with this.")] = "",
) -> schemas.SeriesPage:
    """The series that hold observations, ordered by id."""
    found = service.get_dataset(session, caller.workspace_id, dataset)
    rows = service.list_series(session, found.id, prefix, page.after(str), page.limit)
    items = [_to_series(row, service.grid_of(found)) for row in rows]
    return schemas.SeriesPage(items=items, next_cursor=page.to_cursor([row.name for row in rows]))


@router.get("/datasets/{dataset}/observations", response_model=schemas.ObservationsOut, responses=openapi.OBSERVATIONS_ANSWER)
def get_observations(
    dataset: DatasetName,
    request: Request,
    session: ReadSession,
    caller: ReadCaller,
    settings: SettingsNeeded,
    series: Annotated[
        list[str] | None, Query(description="Ids of series, the parameter repeated; all of them if not given.")
    ] = None,
    start: Start = None,
    end: End = None,
) -> Response:
    """Observations by Accept: JSON (at most 1,000,000), CSV, Parquet or an Arrow stream (at most 20,000,000)."""
    media_type = choose_media_type(request.headers.get("accept", "*/*"), answers.MEDIA_TYPES)
    found = service.get_dataset(session, caller.workspace_id, dataset)
    rows = service.select_series(session, found.id, series, None)
    grid = service.grid_of(found) if rows else Grid("step")
    first, last = _read_range(grid, start, end) if rows else (None, None)
    most = settings.max_answer_observations
    _check_size(rows, first, last, most // JSON_SHARE if media_type == contract.JSON else most)
    stored = reading.read_observations(session, rows, first, last)
    return Response(answers.write(stored, grid, media_type), media_type=media_type)


@router.get("/datasets/{dataset}/overview", response_model=schemas.Overview)
def get_overview(
    dataset: DatasetName,
    session: ReadSession,
    caller: ReadCaller,
    settings: SettingsNeeded,
    series: Annotated[str, Query(max_length=256, description="Id of the series.")],
    start: Start = None,
    end: End = None,
    max_points: Annotated[int, Query(ge=4, le=20_000, description="How many points to give at most; a line needs few.")] = 2000,
) -> Response:
    """One series as a screen can show it: of a long one the first, lowest, highest and last value of each pixel, and where values are
    missing. A narrower range shows more."""
    found = service.get_dataset(session, caller.workspace_id, dataset)
    [row] = service.select_series(session, found.id, [series], None)
    grid = service.grid_of(found)
    first, last = _read_range(grid, start, end)
    low, high = row.first_step or 0, row.last_step or 0
    low, high = low if first is None else max(low, first), high if last is None else min(high, last)
    held = overview.read_overview(session, row, low, high, max_points)
    return Response(answers.write_overview(held, found.name, series, grid), media_type=contract.JSON)


@router.delete("/datasets/{dataset}/observations")
def delete_observations(
    dataset: DatasetName,
    session: WriteSession,
    caller: WriteCaller,
    audit: AuditNeeded,
    series: Annotated[list[str], Query(description="Ids of series, the parameter repeated.")],
    start: Start = None,
    end: End = None,
) -> schemas.Deletion:
    """Deletes the observations of some series from `start` to `end`, both inclusive; without both the series themselves, with the
    kept backtests of them. Versions that were learned from them stay: `engram erase` lists them."""
    found = service.get_dataset(session, caller.workspace_id, dataset, hold=start is None and end is None)
    rows = service.select_series(session, found.id, series, None)
    first, last = _read_range(service.grid_of(found), start, end)
    if start is None and end is None:
        deleted = erasing.erase_series(session, rows)
    else:
        deleted = reading.delete_observations(session, found, rows, first, last)
    audit.note(session, caller, "delete observations", dataset, ",".join(row.name for row in rows))
    session.commit()
    return schemas.Deletion(deleted=deleted)


def _to_answers(session: Session, datasets: Any) -> list[schemas.DatasetOut]:
    sizes = service.measure_datasets(session, [each.id for each in datasets])
    return [_to_answer(each, sizes[each.id]) for each in datasets]


def _to_answer(dataset: Dataset, size: service.DatasetSize) -> schemas.DatasetOut:
    ends = [
        None if step is None else service.grid_of(dataset).to_labels(np.array([step]))[0]
        for step in (size.first_step, size.last_step)
    ]
    return schemas.DatasetOut(
        name=dataset.name,
        description=dataset.description,
        freq=dataset.freq,
        phase_seconds=None if dataset.phase_us is None else dataset.phase_us / 1e6,
        time_zone=dataset.time_zone,
        aggregate=dataset.aggregate,
        series=size.series,
        observations=size.observations,
        first_timestamp=ends[0],
        last_timestamp=ends[1],
        created_at=dataset.created_at,
        updated_at=dataset.updated_at,
    )


def _to_series(row: SeriesRow, grid: Grid) -> schemas.SeriesOut:
    first, last = grid.to_labels(np.array([row.first_step, row.last_step]))
    return schemas.SeriesOut(id=row.name, count=row.count, missing=row.missing, first_timestamp=first, last_timestamp=last)


def _read_range(grid: Grid, start: str | None, end: str | None) -> tuple[int | None, int | None]:
    first = None if start is None else grid.step_at_or_after(parse_moment(start, grid, {"in": "query", "name": "start"}))
    last = None if end is None else grid.step_at_or_before(parse_moment(end, grid, {"in": "query", "name": "end"}))
    return first, last


def _check_size(rows: list[SeriesRow], first: int | None, last: int | None, most: int) -> None:
    """Refuses an answer that could hold more than `most` observations."""
    low, high = float("-inf") if first is None else first, float("inf") if last is None else last
    count = sum(min(max(min(row.last_step or 0, high) - max(row.first_step or 0, low) + 1, 0), row.count) for row in rows)
    if count > most:
        raise AnswerTooLarge(
            f"the answer could hold {count:.0f} observations, at most {most} are given at once; ask for fewer series, for a range with start "
            "and end, or for CSV, Parquet or Arrow (ENGRAM_MAX_ANSWER_OBSERVATIONS)",
            max_observations=most,
        )
