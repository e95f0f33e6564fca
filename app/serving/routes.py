"""The door to forecasts."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from starlette.responses import StreamingResponse

from app import contract
from app.contract import SeriesId
from app.dependencies import DatabaseNeeded, ModelName, PageNeeded, PredictCaller, SettingsNeeded, choose_media_type
from app.errors import Place
from app.serving import formats, service
from app.serving.cache import Forecasters
from app.serving.schemas import ForecastInput, ForecastsOutput, Level
from app.serving.service import Contexts, Forecasts, Target

router = APIRouter(prefix="/v1/models", tags=["forecasts"])
STREAM_PAGE = 500
"""Series that are read and forecast at once while a stream runs."""
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ForecastsOutput | list[dict[str, Any]],
        "description": "JSON has a page of series; the others are the whole, NDJSON and CSV as a stream.",
        "content": {media_type: {} for media_type in formats.MEDIA_TYPES},
    }
}
Accept = Annotated[str, Header(description="JSON, NDJSON, CSV, Parquet or an Arrow stream.")]
Form = Annotated[Literal["rows"] | None, Query(alias="format", description="`rows`: a flat JSON array, one object a step.")]


def get_forecasters(request: Request) -> Forecasters:
    forecasters: Forecasters = request.app.state.forecasters
    return forecasters


class Asked:
    """What both verbs share: where from, for whom, which page, in which form."""

    def __init__(
        self,
        database: DatabaseNeeded,
        settings: SettingsNeeded,
        forecasters: Annotated[Forecasters, Depends(get_forecasters)],
        caller: PredictCaller,
        model: ModelName,
        page: PageNeeded,
        accept: Accept = contract.JSON,
        form: Form = None,
    ) -> None:
        self.database = database
        self.settings = settings
        self.forecasters = forecasters
        self.caller = caller
        self.model = model
        self.page = page
        self.form = form
        self.media_type = contract.JSON if form else choose_media_type(accept, formats.MEDIA_TYPES)


@router.post("/{model}/forecasts", response_class=Response, responses=ANSWERS)
def forecast(asked: Annotated[Asked, Depends()], body: ForecastInput | None = None) -> Response:
    """Forecasts of the version that serves, each series from its own last value, or of what `context` sends."""
    return _answer(asked, (body or ForecastInput()).model_dump(), {"pointer": "#/cutoff"})


@router.get("/{model}/forecasts", response_class=Response, responses=ANSWERS)
def get_forecasts(
    asked: Annotated[Asked, Depends()],
    series: Annotated[Sequence[SeriesId] | None, Query(max_length=1000)] = None,
    horizon: Annotated[int | None, Query(ge=1)] = None,
    quantile_levels: Annotated[Sequence[Level] | None, Query(max_length=99)] = None,
    version: Annotated[str | None, Query(max_length=64, description="A number or an alias.")] = None,
    cutoff: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """The same for dashboards and spreadsheets."""
    wanted = {
        "series": series,
        "horizon": horizon,
        "quantile_levels": quantile_levels,
        "version": int(version) if version is not None and version.isdecimal() and len(version) < 10 else version,
        "cutoff": cutoff,
        "context": None,
    }
    return _answer(asked, wanted, {"in": "query", "name": "cutoff"})


def _answer(asked: Asked, wanted: dict[str, Any], cutoff_place: Place) -> Response:
    keys: list[str] = []
    with asked.database.read() as session:
        target = service.resolve(session, asked.caller.workspace_id, asked.model, wanted, cutoff_place)
        if wanted["context"] is not None:
            contexts = service.place_contexts(target, wanted["context"])
        elif wanted["series"]:
            contexts = service.read_named(session, target, wanted["series"])
        elif asked.media_type in (contract.NDJSON, contract.CSV):
            return _stream(asked, target)
        elif asked.media_type in (contract.PARQUET, contract.ARROW):
            service.check_size(target, service.count_series(session, target), asked.settings)
            contexts = service.join(list(_read_pages(asked, target)))
        else:
            after = asked.page.after(str)
            contexts, keys = service.read_page(session, target, after=after, limit=asked.page.limit)
    service.check_size(target, len(contexts.names), asked.settings)
    forecasts = service.predict(asked.database, asked.forecasters, target, contexts)
    next_cursor = asked.page.to_cursor(keys) if keys else None
    headers = {"X-Next-Cursor": next_cursor} if next_cursor and asked.form == "rows" else {}  # a flat array has no place for it
    return Response(_write(forecasts, asked, next_cursor), media_type=asked.media_type, headers=headers)


def _write(forecasts: Forecasts, asked: Asked, next_cursor: str | None) -> bytes:
    if asked.form == "rows":
        return formats.to_rows_json(forecasts)
    if asked.media_type == contract.NDJSON:
        return formats.to_ndjson(forecasts)
    if asked.media_type == contract.CSV:
        return formats.to_csv(forecasts, header=True)
    if asked.media_type == contract.PARQUET:
        return formats.to_parquet(forecasts)
    if asked.media_type == contract.ARROW:
        return formats.to_arrow(forecasts)
    return formats.to_json(forecasts, next_cursor)


def _stream(asked: Asked, target: Target) -> StreamingResponse:
    """Page by page, so that memory stays flat; no session is open between two pages."""

    def parts() -> Iterator[bytes]:
        header = True
        for contexts in _read_pages(asked, target):
            forecasts = service.predict(asked.database, asked.forecasters, target, contexts)
            csv = asked.media_type == contract.CSV
            yield formats.to_csv(forecasts, header=header) if csv else formats.to_ndjson(forecasts)
            header = False

    return StreamingResponse(parts(), media_type=asked.media_type)


def _read_pages(asked: Asked, target: Target) -> Iterator[Contexts]:
    """At least one page, so that an empty table has its header."""
    after = None
    while True:
        with asked.database.read() as session:
            contexts, keys = service.read_page(session, target, after=after, limit=STREAM_PAGE)
        yield contexts
        if len(keys) < STREAM_PAGE:
            return
        after = keys[-1]
