"""What a search may ask for, and how its trials are shown."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from app.contract import StrictInput
from app.training.parts import ContextLength, FitInput, NetworkInput, Positive

MAX_TRIALS = 1000


class NumberRange(StrictInput):
    """From `low` to `high`, both included; with `log` as many between 0.001 and 0.01 as between 0.01 and 0.1."""

    low: Annotated[float, Field(allow_inf_nan=False)]
    high: Annotated[float, Field(allow_inf_nan=False)]
    log: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> "NumberRange":
        if self.low > self.high or (self.log and self.low <= 0):
            raise ValueError(f"expected low <= high, and low > 0 with log, found {self.low} and {self.high}")
        return self


class CountRange(NumberRange):
    low: int
    high: int


class SpaceInput(StrictInput):
    """Choices, or a range, of each value that is to be searched for. What is not named stays as the request has it."""

    learning_rate: NumberRange | Annotated[list[float], Field(min_length=1, max_length=100)] | None = None
    hidden_size: CountRange | Annotated[list[int], Field(min_length=1, max_length=100)] | None = None
    num_layers: CountRange | Annotated[list[int], Field(min_length=1, max_length=100)] | None = None
    dropout: NumberRange | Annotated[list[float], Field(min_length=1, max_length=100)] | None = None
    context_length: CountRange | Annotated[list[int], Field(min_length=1, max_length=100)] | None = None
    activation: Annotated[list[str], Field(min_length=1)] | None = None
    optimizer: Annotated[list[str], Field(min_length=1)] | None = None
    loss: Annotated[list[str], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _possible(self) -> "SpaceInput":
        """Every value, and both ends of every range, could stand in a request."""
        for name in self.model_fields_set:
            choice = getattr(self, name)
            if choice is None:
                continue
            home = next(kind for kind in (FitInput, NetworkInput, _Context) if name in kind.model_fields)
            for value in choice if isinstance(choice, list) else (choice.low, choice.high):
                try:
                    home.model_validate({name: value})
                except ValidationError as error:
                    raise ValueError(f"{name} {value!r}: {error.errors()[0]['msg']}") from None
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise ValueError(f"expected at least one of {', '.join(type(self).model_fields)}")
        return self


class SearchInput(StrictInput):
    """Trials are trainings of their own that only do the backtest; the best one's request is then trained for good."""

    trials: Annotated[int, Field(ge=1, le=MAX_TRIALS)] = 20
    max_seconds: Positive | None = Field(None, description="No new trial is begun after so many seconds.")
    space: SpaceInput | None = Field(None, description="Where to look; null: the usual ranges of the architecture.")


class _Context(StrictInput):
    context_length: ContextLength | None = None


class TrialOutput(BaseModel):
    """`tried` are the values of the search's space; `score` is the backtest's weighted quantile loss, less is better; `seconds`, what it
    cost. One that was ended early has the problem `trial-dropped`."""

    number: int
    id: str
    status: str
    tried: dict[str, Any]
    score: float | None
    skill: float | None
    seconds: float | None
    is_best: bool
    problem: dict[str, Any] | None
    started_at: datetime | None
    finished_at: datetime | None


class TrialList(BaseModel):
    items: list[TrialOutput]
    next_cursor: str | None
