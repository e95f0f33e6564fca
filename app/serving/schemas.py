"""What a forecast request may say, and what a forecast shows."""

from typing import Annotated

from pydantic import BaseModel, FailFast, Field, model_validator

from app.contract import SeriesId, Step, StrictInput

Level = Annotated[float, Field(gt=0, lt=1)]
VersionWanted = Annotated[int, Field(ge=1, le=2**31)] | Annotated[str, Field(min_length=1, max_length=64)]
MAX_CONTEXT_VALUES = 100_000
MAX_HORIZON = 2**31
"""What no model has learned; an answer that names it has to be able to write it."""


class ContextInput(StrictInput):
    """Values of one series, first to last on the dataset's grid, null where missing; they are forecast, not stored."""

    id: SeriesId
    start: Step
    values: Annotated[
        list[Annotated[float, Field(allow_inf_nan=False)] | None],
        Field(min_length=1, max_length=MAX_CONTEXT_VALUES),
        FailFast(),
    ]


class ForecastInput(StrictInput):
    series: Annotated[list[SeriesId], Field(min_length=1, max_length=1000)] | None = None
    horizon: Annotated[int, Field(ge=1, le=MAX_HORIZON)] | None = None
    quantile_levels: Annotated[list[Level], Field(min_length=1, max_length=99)] | None = None
    version: VersionWanted | None = Field(None, description="A number or an alias; absent: the one that serves.")
    cutoff: Step | None = Field(None, description="As of this time: nothing after it is seen.")
    context: Annotated[list[ContextInput], Field(min_length=1, max_length=1000)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "ForecastInput":
        if self.context is not None and (self.series is not None or self.cutoff is not None):
            raise ValueError("context is forecast from its own last value: expected neither series nor cutoff beside it")
        return self


class ForecastOutput(BaseModel):
    series: str
    cutoff: Step
    timestamps: list[Step]
    median: list[float]
    quantiles: dict[str, list[float]]
    warnings: list[str]


class ForecastsOutput(BaseModel):
    """Describes the answer for the OpenAPI document; the answer itself goes from arrays straight to JSON."""

    model: str
    version: int
    dataset: str
    freq: str
    horizon: int
    quantile_levels: list[float]
    forecasts: list[ForecastOutput]
    next_cursor: str | None
