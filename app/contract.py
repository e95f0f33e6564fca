"""What the schemas of several rooms share: media types, strict bodies, ids of series, points in time, how long keys are kept, what may
be called next."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.calendar import MAX_STEP, Grid
from app.errors import InvalidRequest, Place
from app.zones import FIRST_YEAR, LAST_YEAR

JSON = "application/json"
NDJSON = "application/x-ndjson"
CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"
ARROW = "application/vnd.apache.arrow.stream"

KEPT_KEYS = timedelta(hours=24)
"""How long the same request under the same `Idempotency-Key` gets the first answer again."""

Step = int | str
"""A point of a dataset's grid: RFC 3339, or an integer where freq is `step`."""
SeriesId = Annotated[str, Field(min_length=1, max_length=256)]


class StrictInput(BaseModel):
    """An unknown field is refused, and no text becomes a number."""

    model_config = ConfigDict(extra="forbid", strict=True)


def link_to(*operations: str, **parameters: str) -> dict[str, Any]:
    """For `responses`: the operations, such as "GET /v1/datasets/{dataset}", that the OpenAPI document says may be called next, and where
    in this call or its answer their parameters stand."""
    links = {}
    for operation in operations:
        method, path = operation.split(" ")
        links[re.sub(r"\W+", "_", operation).strip("_")] = {
            "operationRef": f"#/paths/{path.replace('/', '~1')}/{method.lower()}",
            "parameters": {f"path.{name}": value for name, value in parameters.items() if f"{{{name}}}" in path},
        }
    return {"links": links}


def parse_moment(text: Step, grid: Grid, place: Place) -> datetime | int:
    """A client's point in time as the methods of `grid` want it; `place` is where it stood ({"pointer"} or {"in", "name"}).

    In a query everything is text: what looks like an integer is one, and a space after the T is a plus sign that was not escaped.
    Raises InvalidRequest.
    """
    if "in" in place and isinstance(text, str):
        if text.removeprefix("-").isdecimal() and len(text) < 20:
            text = int(text)
        elif "T" in text:
            text = text.replace(" ", "+")
    if grid.freq == "step":
        if isinstance(text, int) and abs(text) <= MAX_STEP:
            return text
        expected = f"an integer between {-MAX_STEP} and {MAX_STEP}, since the dataset's freq is step"
        raise _refuse(f"expected {expected}, found {str(text)[:40]!r}", place)
    try:
        moment = datetime.fromisoformat(text if isinstance(text, str) else "")
        (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        detail = f"expected a timestamp as RFC 3339 writes it (2024-01-31T12:00:00Z) or a date, found {str(text)[:40]!r}"
        raise _refuse(detail, place) from None
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise _refuse(f"expected a year between {FIRST_YEAR} and {LAST_YEAR}, found {moment.year}", place)
    return moment


def _refuse(detail: str, place: Place) -> InvalidRequest:
    where = place.get("pointer") or f"{place['in']} {place['name']}"
    return InvalidRequest(f"{where}: {detail}", errors=[{**place, "detail": detail}])
