"""What a training request may say, and what a training shows. Everything but dataset and horizon is chosen from the data if not said."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

from app.contract import SeriesId, Step, StrictInput
from app.tables import NAME_PATTERN, TRAINING_STATUSES
from app.training.parts import ContextLength, Count, FitInput, NetworkInput
from app.training.search_schemas import SearchInput

DEFAULT_QUANTILE_LEVELS = [0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975]
MAX_SERIES_NAMED = 10_000


def _sort_levels(levels: list[float]) -> list[float]:
    """Sorted, once each, and with the median."""
    return sorted({*levels, 0.5})


QuantileLevels = Annotated[
    list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1, max_length=99), AfterValidator(_sort_levels)
]


class BacktestInput(StrictInput):
    n_windows: Annotated[int, Field(ge=1, le=100)] = 1
    step_size: Count | None = None


class TrainingInput(StrictInput):
    """`{}` on a model that exists trains as last time; any other body starts from the defaults."""

    dataset: Annotated[str, Field(pattern=NAME_PATTERN)] | None = None
    horizon: Annotated[int, Field(ge=1)] | None = None
    series: Annotated[list[SeriesId], Field(min_length=1, max_length=MAX_SERIES_NAMED)] | None = None
    series_prefix: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    end: Step | None = Field(None, description="The cutoff: the last timestamp that is learned from, inclusive.")
    context_length: ContextLength | None = None
    season_lengths: Annotated[list[Annotated[int, Field(ge=2, le=10_000)]], Field(max_length=2)] | None = None
    quantile_levels: QuantileLevels = DEFAULT_QUANTILE_LEVELS
    network: NetworkInput = NetworkInput()
    fit: FitInput = FitInput()
    backtest: BacktestInput = BacktestInput()
    search: SearchInput | None = Field(None, description="Try configurations, and train the best.")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    promote: Literal["always", "if_better", "never"] = "always"

    @model_validator(mode="after")
    def _one_selection(self) -> "TrainingInput":
        if self.series is not None and self.series_prefix is not None:
            raise ValueError("expected either series or series_prefix, found both")
        return self


class ProgressOutput(BaseModel):
    """`step` of `steps` over the whole training, backtest and final fit; losses are null until one was seen."""

    fraction: float
    step: int
    steps: int
    loss: float | None
    validation_loss: float | None
    eta_seconds: float | None


class TrainingOutput(BaseModel):
    id: str
    model: str
    dataset: str
    status: str = Field(json_schema_extra={"enum": list(TRAINING_STATUSES)})
    progress: ProgressOutput
    request: dict[str, Any]
    config: dict[str, Any] | None
    data: dict[str, Any] | None
    version: int | None
    metrics: dict[str, Any] | None
    warnings: list[str]
    problem: dict[str, Any] | None
    attempt: int
    device: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class TrainingList(BaseModel):
    items: list[TrainingOutput]
    next_cursor: str | None


class HistoryItem(BaseModel):
    """One point of the learning curve."""

    phase: str
    step: int
    steps: int
    fraction: float
    loss: float | None
    validation_loss: float | None
    learning_rate: float | None
    gradient_norm: float | None
    seconds: float
    attempt: int


class HistoryOutput(BaseModel):
    id: str
    items: list[HistoryItem]
