"""The door to forecasts: the calls in all their forms. Plain ones are answered in front of it, by app/serving/door.py."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from app import contract
from app.contract import SeriesId
from app.dependencies import DatabaseNeeded, ModelName, Page, PageNeeded, PredictCaller, SettingsNeeded, choose_media_type
from app.errors import Place
from app.serving import formats, service
from app.serving.door import Reply, respond
from app.serving.engine import Engine
from app.serving.schemas import MAX_HORIZON, ForecastInput, ForecastsOutput, Level
from app.serving.service import Forecasts
from app.serving.wanted import Answer, Wanted

router = APIRouter(prefix="/v1/models", tags=["forecasts"])
STREAM_PAGE = 500
"""Series that are read and forecast at once while a stream runs."""
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ForecastsOutput | list[dict[str, Any]],
        "description": "JSON has a page of series; the others are the whole, NDJSON and CSV as a stream.",
        "content": {media_type: {} for media_type in formats.MEDIA_TYPES},
        "headers": {
            "ETag": {
                "schema": {"type": "string"},
                "description": "Of JSON. Sent back in If-None-Match, 304 says that it stands.",
            }
        },
    },
    304: {"description": "The answer that If-None-Match names still stands."},
}
Accept = Annotated[str, Header(description="JSON, NDJSON, CSV, Parquet or an Arrow stream.")]
Form = Annotated[Literal["rows"] | None, Query(alias="format", description="`rows`: a flat JSON array, one object a step.")]


@dataclass(frozen=True)
class Asked:
    """What both verbs share: where from, for whom, which page, in which form."""

    request: Request
    database: DatabaseNeeded
    settings: SettingsNeeded
    workspace_id: int
    model: str
    page: Page
    form: str | None
    media_type: str

    @property
    def engine(self) -> Engine:
        engine: Engine = self.request.app.state.engine
        return engine

    def want(self, body: ForecastInput, cutoff_place: Place, write: Callable[[Forecasts, str | None], Any]) -> Wanted:
        scope = self.request.scope
        return Wanted(self.workspace_id, self.model, body, cutoff_place, write, stamp=scope.get("stamp"))


async def get_asked(
    request: Request,
    database: DatabaseNeeded,
    settings: SettingsNeeded,
    caller: PredictCaller,
    model: ModelName,
    page: PageNeeded,
    accept: Accept = contract.JSON,
    form: Form = None,
) -> Asked:
    media_type = contract.JSON if form else choose_media_type(accept, formats.MEDIA_TYPES)
    return Asked(request, database, settings, caller.workspace_id, model, page, form, media_type)


@router.post("/{model}/forecasts", response_class=Response, responses=ANSWERS)
async def forecast(asked: Annotated[Asked, Depends(get_asked)], body: ForecastInput | None = None) -> Response:
    """Forecasts of the version that serves, each series from its own last value, or of what `context` sends."""
    return await _answer(asked, body or ForecastInput(), {"pointer": "#/cutoff"})


@router.get("/{model}/forecasts", response_class=Response, responses=ANSWERS)
async def get_forecasts(
    asked: Annotated[Asked, Depends(get_asked)],
    series: Annotated[Sequence[SeriesId] | None, Query(max_length=1000)] = None,
    horizon: Annotated[int | None, Query(ge=1, le=MAX_HORIZON)] = None,
    quantile_levels: Annotated[Sequence[Level] | None, Query(max_length=99)] = None,
    version: Annotated[str | None, Query(max_length=64, description="A number or an alias.")] = None,
    cutoff: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """The same for dashboards and spreadsheets."""
    wanted = ForecastInput.model_construct(
        series=list(series) if series else None,
        horizon=horizon,
        quantile_levels=list(quantile_levels) if quantile_levels else None,
        version=int(version) if version is not None and version.isdecimal() and len(version) < 10 else version,
        cutoff=cutoff,
        context=None,
    )
    return await _answer(asked, wanted, {"in": "query", "name": "cutoff"})


async def _answer(asked: Asked, body: ForecastInput, cutoff_place: Place) -> Response:
    pages = body.context is None and body.series is None
    if pages and asked.media_type in (contract.NDJSON, contract.CSV):
        return await _stream(asked, body, cutoff_place)
    if pages and asked.media_type in (contract.PARQUET, contract.ARROW):
        return await _answer_whole(asked, body, cutoff_place)
    wanted = asked.want(body, cutoff_place, _choose_writer(asked))
    if pages:
        wanted.after, wanted.limit, wanted.to_cursor = asked.page.after(str), asked.page.limit, asked.page.to_cursor
    headers = {}
    if asked.media_type == contract.JSON and body.context is None:
        wanted.key = asked.request.scope.get("forecast_key")
    answer = await asked.engine.answer(wanted)
    if answer.next_cursor and asked.form == "rows":
        headers["X-Next-Cursor"] = answer.next_cursor  # a flat array has no place for it
    return respond(Reply(answer, asked.media_type, asked.request.headers.get("if-none-match"), headers))


def _choose_writer(asked: Asked) -> Callable[[Forecasts, str | None], Any]:
    if asked.form == "rows":
        return lambda forecasts, _: formats.to_rows_json(forecasts)
    if asked.media_type == contract.NDJSON:
        return lambda forecasts, _: formats.to_ndjson(forecasts)
    if asked.media_type == contract.CSV:
        return lambda forecasts, _: formats.to_csv(forecasts, header=True)
    if asked.media_type in (contract.PARQUET, contract.ARROW):
        return lambda forecasts, _: _write_table(asked, forecasts)
    return formats.to_json


def _write_table(asked: Asked, forecasts: Forecasts) -> bytes:
    return formats.to_parquet(forecasts) if asked.media_type == contract.PARQUET else formats.to_arrow(forecasts)


async def _answer_whole(asked: Asked, body: ForecastInput, cutoff_place: Place) -> Response:
    """A table is written at its end, so it is bounded as JSON is."""
    pages: list[Forecasts] = []
    async for answer in _read_pages(asked, body, cutoff_place, lambda forecasts, _: forecasts):
        pages.append(answer.content)
        service.check_size(pages[0].target, sum(len(page.names) for page in pages), asked.settings)
    return Response(await run_in_threadpool(_write_table, asked, service.join(pages)), media_type=asked.media_type)


async def _stream(asked: Asked, body: ForecastInput, cutoff_place: Place) -> Response:
    """Page by page, so that memory stays flat; no session is open between two pages. What is wrong with the request is said before
    the first byte."""
    is_csv = asked.media_type == contract.CSV
    has_begun = False

    def write(forecasts: Forecasts, _: str | None) -> bytes:
        nonlocal has_begun
        part = formats.to_csv(forecasts, header=not has_begun) if is_csv else formats.to_ndjson(forecasts)
        has_begun = True
        return part

    pages = _read_pages(asked, body, cutoff_place, write)
    first = await anext(pages)

    async def parts() -> AsyncIterator[bytes]:
        yield first.content
        async for answer in pages:
            yield answer.content

    return StreamingResponse(parts(), media_type=asked.media_type)


async def _read_pages(
    asked: Asked, body: ForecastInput, cutoff_place: Place, write: Callable[[Forecasts, str | None], Any]
) -> AsyncIterator[Answer]:
    """At least one page, so that an empty table has its header."""
    after: str | None = None
    while True:
        names: list[str] = []

        def note(page: list[str], names: list[str] = names) -> None:
            names += page

        wanted = asked.want(body, cutoff_place, write)
        wanted.after, wanted.limit, wanted.to_cursor = after, STREAM_PAGE, note
        yield await asked.engine.answer(wanted)
        if len(names) < STREAM_PAGE:
            return
        after = names[-1]
