"""What goes in and out of the door as JSON, the observations themselves aside: those are read by formats.py."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.calendar import parse_freq
from app.errors import InvalidRequest
from app.tables import NAME_PATTERN
from app.zones import load_zone

OnConflict = Literal["replace", "keep", "error"]
Aggregate = Literal["mean", "sum", "min", "max", "last"]


def check_freq(freq: str) -> str:
    """The canonical spelling, for pydantic."""
    try:
        return parse_freq(freq).text
    except InvalidRequest as error:
        raise PydanticCustomError("freq", "{detail}", {"detail": error.detail}) from error


def _check_zone(name: str) -> str:
    try:
        load_zone(name)
    except InvalidRequest as error:
        raise PydanticCustomError("time_zone", "{detail}", {"detail": error.detail}) from error
    return name


def _check_text(text: str) -> str:
    if "\x00" in text:
        raise PydanticCustomError("text", "expected text without null characters")
    return text


Freq = Annotated[str, AfterValidator(check_freq)]
TimeZone = Annotated[str, Field(max_length=64), AfterValidator(_check_zone)]
Description = Annotated[str, Field(max_length=10_000), AfterValidator(_check_text)]


class DatasetPut(BaseModel):
    """What a dataset is. A field that is not given stays as it is, or takes its default in a new dataset."""

    model_config = ConfigDict(strict=True, extra="forbid")
    freq: Freq | None = Field(
        None, description="s, min, h with a multiple, D, B, W-MON to W-SUN, MS, ME, QS, QE, YS, YE, step; null: inferred."
    )
    time_zone: TimeZone = Field(
        "UTC", description="Whose calendar days and longer follow, and to which naive timestamps are local."
    )
    description: Description = ""
    aggregate: Aggregate | None = Field(
        None, description="How a request's points are folded into their step; null: they must lie on the grid."
    )


class DatasetPatch(BaseModel):
    """What may change at any time."""

    model_config = ConfigDict(strict=True, extra="forbid")
    name: Annotated[str, Field(pattern=NAME_PATTERN)] | None = None
    description: Description | None = None


class DatasetOut(BaseModel):
    name: str
    description: str
    freq: str | None = Field(description="null until the first observations.")
    phase_seconds: float | None = Field(
        description="Where the grid lies: from the epoch, or from the beginning of the day, week or month."
    )
    time_zone: str
    aggregate: Aggregate | None
    series: int
    observations: int
    first_timestamp: str | int | None = Field(description="Of all series; null while there is none.")
    last_timestamp: str | int | None
    created_at: datetime
    updated_at: datetime


class DatasetPage(BaseModel):
    items: list[DatasetOut]
    next_cursor: str | None


class SeriesOut(BaseModel):
    id: str
    count: int = Field(description="Observations that are stored, missing values included.")
    missing: int = Field(description="Of these, missing values.")
    first_timestamp: str | int
    last_timestamp: str | int


class SeriesPage(BaseModel):
    items: list[SeriesOut]
    next_cursor: str | None


class Receipt(BaseModel):
    """What a request did."""

    dataset: str
    freq: str
    series: int
    received: int = Field(description="Observations in the body.")
    inserted: int = Field(description="Steps that held nothing before.")
    updated: int = Field(description="Steps that held another value before.")
    unchanged: int = Field(description="Steps that held this value before, or kept theirs.")
    missing: int = Field(description="Missing values in the body.")
    gaps: int = Field(description="Steps within the touched series, from their first to their last, that hold nothing.")
    first_timestamp: str | int
    last_timestamp: str | int
    warnings: list[str]


class PreviewColumns(BaseModel):
    """Which column plays which role."""

    series: str | None = Field(description="null: all rows are one series, named as the dataset.")
    timestamp: str
    value: str


class PreviewRow(BaseModel):
    series: str
    timestamp: str | int
    value: float | None


class Preview(BaseModel):
    """What the same request would store."""

    columns: PreviewColumns | None = Field(description="null of JSON, which has none.")
    time_zone: str
    observations: list[PreviewRow] = Field(description="The first ones, by series and time.")
    receipt: Receipt


class Hole(BaseModel):
    """Steps without a value, one after the other, from `start` to `end`, both inclusive."""

    start: str | int
    end: str | int
    absent: int = Field(description="How many of them were never sent; the others were sent as missing.")


class Overview(BaseModel):
    """A series as a screen can show it: nothing that sticks out is left out."""

    dataset: str
    series: str
    freq: str
    steps: int = Field(description="Steps from the first to the last of the range.")
    thinned: bool = Field(description="Whether some steps were left out.")
    timestamps: list[str | int]
    values: list[float | None] = Field(description="null where the line breaks.")
    holes: list[Hole]


class Deletion(BaseModel):
    deleted: int = Field(description="Observations that were stored and are no more.")


class SeriesObservations(BaseModel):
    id: str
    timestamps: list[str | int]
    values: list[float | None]


class ObservationsOut(BaseModel):
    series: list[SeriesObservations]
