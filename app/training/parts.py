"""The parts of a training request that a search may also vary."""

from typing import Annotated, Literal

from pydantic import Field

from app.contract import StrictInput

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
ContextLength = Annotated[int, Field(ge=1, le=1024)]


class NetworkInput(StrictInput):
    architecture: Literal["auto", "plain"] = "auto"
    hidden_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    num_layers: Annotated[int, Field(ge=1, le=16)] | None = None
    activation: Literal["tanh", "relu", "sigmoid"] = "tanh"
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None


class FitInput(StrictInput):
    loss: Literal["quantile", "mse", "mae", "huber"] = "quantile"
    optimizer: Literal["adamw", "adam", "sgd", "momentum", "rmsprop"] = "adamw"
    learning_rate: Positive | None = None
    batch_size: Annotated[int, Field(ge=1, le=65_536)] | Literal["all"] | None = None
    max_epochs: Count | None = None
    max_steps: Count | None = None
    max_seconds: Positive | None = None
    target_loss: NonNegative | None = None
    weight_decay: NonNegative | None = None
    l1: NonNegative = 0.0
    gradient_clip: Positive | None = None
    input_noise: NonNegative = 0.0
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
