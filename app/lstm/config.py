"""What may be asked of a training, and what became of it. No torch here: the API and the Celery process import this."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from app.errors import InvalidRequest

MAX_CONTEXT_LENGTH = 1024

ACTIVATIONS = ("tanh", "relu", "sigmoid")
LOSSES = ("quantile", "mse", "mae", "huber")
OPTIMIZERS = ("adamw", "adam", "sgd", "momentum", "rmsprop")
SUPPORTED: dict[str, dict[str, tuple[object, ...]]] = {
    "auto": {"activation": ("tanh",), "loss": ("quantile",), "optimizer": OPTIMIZERS, "input_noise": (0.0,)},
    "plain": {"activation": ACTIVATIONS, "loss": LOSSES, "optimizer": OPTIMIZERS},
}
"""What each architecture can be asked for; where it says nothing, anything."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked; None = choose from the data. `season_lengths` are law, the candidates are subject to a test."""

    horizon: int
    season_lengths: tuple[int, ...] | None = None
    candidate_season_lengths: tuple[int, ...] = ()
    context_length: int | None = None
    quantile_levels: tuple[float, ...] = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
    architecture: str = "auto"
    hidden_size: int | None = None
    num_layers: int | None = None
    activation: str = "tanh"
    dropout: float | None = None
    loss: str = "quantile"
    optimizer: str = "adamw"
    learning_rate: float | None = None
    batch_size: int | Literal["all"] | None = None
    max_epochs: int | None = None
    max_steps: int | None = None
    max_seconds: float | None = None
    target_loss: float | None = None
    weight_decay: float | None = None
    l1: float = 0.0
    gradient_clip: float | None = None
    input_noise: float = 0.0
    seed: int = 0
    n_windows: int = 1
    step_size: int | None = None
    backtest_only: bool = False
    device: str = "auto"
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Config:
    """A training as resolved: enough to repeat it exactly. `reasons` says of each choice why, in a sentence."""

    architecture: str = "auto"
    activation: str = "tanh"
    loss: str = "quantile"
    optimizer: str = "adamw"
    horizon: int
    quantile_levels: tuple[float, ...]
    season_lengths: tuple[int, ...]
    context_length: int
    patch_length: int
    history_length: int = 0
    transformation: str
    bases: str = "all"
    hidden_size: int
    num_layers: int
    dropout: float
    learning_rate: float
    batch_size: int
    weight_decay: float
    l1: float
    gradient_clip: float | None
    input_noise: float = 0.0
    steps: int
    more_steps: int = 0
    epoch_steps: int = 1
    nets: int
    net_weight: float = 0.5
    stretches: tuple[float, ...] = ()
    spreads: tuple[float, ...] = ()
    scaling: tuple[float, ...] | None = None
    target_loss: float | None
    seed: int
    device: str
    precision: str = "float32"
    threads: int
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def is_textbook(self) -> bool:
        """Nothing but what was asked for: a constant learning rate, the last weights, one net, learned anew for the final fit."""
        return self.architecture == "plain"

    @property
    def season_length(self) -> int:
        """The shortest season, 1 where there is none: what seasonal naive and MASE count by."""
        return self.season_lengths[0] if self.season_lengths else 1

    def to_dict(self) -> dict[str, Any]:
        """As JSON would have it: lists, not tuples."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """The inverse of `to_dict`; fields that a later version wrote are passed over."""
        known: dict[str, Any] = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        known = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
        return cls(**known)


def check(request: Request) -> None:
    """Refuse, before anything is queued, what this workshop cannot learn; raises InvalidRequest naming what it can."""
    architecture = request.architecture
    if architecture not in SUPPORTED:
        raise InvalidRequest(
            f"architecture must be one of {', '.join(SUPPORTED)}, found {architecture!r}", field="architecture"
        )
    for name, supported in SUPPORTED[architecture].items():
        asked = getattr(request, name)
        if asked not in supported:
            raise InvalidRequest(
                f"{name} {asked!r} does not go with the architecture {architecture!r}, which takes "
                f"{', '.join(map(repr, supported))}; see the architecture 'plain' for others",
                field=name,
                supported=list(supported),
            )
    if request.context_length is not None and not 1 <= request.context_length <= MAX_CONTEXT_LENGTH:
        raise InvalidRequest(
            f"context_length must be 1..{MAX_CONTEXT_LENGTH}, found {request.context_length}", field="context_length"
        )
    levels = request.quantile_levels
    if 0.5 not in levels or list(levels) != sorted(set(levels)) or not all(0 < level < 1 for level in levels):
        raise InvalidRequest(
            "quantile_levels must be sorted, distinct, in (0, 1) and contain 0.5", field="quantile_levels", found=list(levels)
        )
