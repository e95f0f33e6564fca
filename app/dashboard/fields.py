"""The form "train again with changes": a field for each of what a training request may say, from its schema, and what each does."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from app.training.schemas import TrainingInput

MEANINGS = {
    "horizon": "How many steps ahead the model forecasts.",
    "series": "Only these series, their ids separated by commas.",
    "series_prefix": "Only series whose id begins with this.",
    "end": "The last timestamp that is learned from, inclusive: the model sees nothing after it.",
    "context_length": "How many past steps the model looks at for each forecast.",
    "season_lengths": "Steps in a season, up to two, separated by commas. Chosen, a season must show in the data.",
    "quantile_levels": "Which quantiles are learned; pairs around 0.5 become bands.",
    "network.architecture": "The form of the network.",
    "network.hidden_size": "Width of the LSTM. Wider learns more, slower, and needs more data.",
    "network.num_layers": "LSTM layers on top of each other.",
    "network.activation": "The function between the layers of the network.",
    "network.dropout": "Part of the units switched off at random in each step, against learning by heart.",
    "fit.loss": "What the network is taught to make small.",
    "fit.optimizer": "How the weights are moved.",
    "fit.learning_rate": "How far each step moves the weights.",
    "fit.batch_size": "Windows that each step learns from.",
    "fit.max_epochs": "At most so many passes over all windows.",
    "fit.max_steps": "At most so many steps of the optimizer.",
    "fit.max_seconds": "About how long it may take; more time is used for more steps, then more networks.",
    "fit.target_loss": "Stop when the validation loss is as low as this.",
    "fit.weight_decay": "Pull of the weights towards zero, in proportion to them.",
    "fit.l1": "Pull of the weights towards zero, the same for small and large ones.",
    "fit.gradient_clip": "Longest gradient that a step may follow.",
    "fit.input_noise": "Noise added to what the network sees while it learns, against learning by heart.",
    "fit.seed": "Beginning of the random numbers: the same seed and data give the same model.",
    "backtest.n_windows": "How many cutoffs the backtest forecasts from, for each series.",
    "backtest.step_size": "Steps between two cutoffs of the backtest.",
    "search.trials": "Tries so many configurations on the same backtest and trains the best.",
    "search.max_seconds": "Begins no new trial after so many seconds.",
    "device": "Where it is trained; auto takes a free GPU, else the CPU.",
    "promote": "Whether the new version serves at once: always, only if it beats the serving one on the same windows, or never.",
}
TITLES = {"": "What is learned", "network": "Network", "fit": "Fit", "backtest": "Backtest", "search": "Search"}
BY_DATA = "chosen from the data"
DEFAULTS = {
    "horizon": "as before",
    "series": "all",
    "series_prefix": "all",
    "end": "all there is",
    "fit.max_seconds": "no limit",
    "fit.max_epochs": "no limit",
    "fit.target_loss": "none",
    "backtest.step_size": "the horizon",
    "search.trials": "no search",
    "search.max_seconds": "no limit",
}
"""What leaving a field empty means, where it is not "chosen from the data"."""


@dataclass(frozen=True)
class FormField:
    """`kind`: number, whole (a number without a fraction), mixed (that or a word), numbers (a list), texts (a list), text or choice."""

    path: str
    kind: str
    meaning: str
    default: str
    choices: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return self.path.rpartition(".")[2].replace("_", " ").capitalize()


def list_groups() -> list[tuple[str, list[FormField]]]:
    """(title, fields), in the order of the schema."""
    groups: dict[str, list[FormField]] = {}
    for path, field in _walk(TrainingInput, ""):
        groups.setdefault(path.rpartition(".")[0], []).append(_to_form_field(path, field))
    return [(TITLES.get(group, group), fields) for group, fields in groups.items()]


def _walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    """The fields of the request and of its parts; not those of parts of parts, which are for people who write JSON."""
    for name, field in model.model_fields.items():
        part = next((one for one in (field.annotation, *get_args(field.annotation)) if _is_model(one)), None)
        if part is not None and not prefix:
            yield from _walk(part, f"{name}.")
        elif part is None and name != "dataset":
            yield prefix + name, field


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _to_form_field(path: str, field: FieldInfo) -> FormField:
    choices = _choices(field.annotation)
    kind = "choice" if choices else _kind(field.annotation)
    default = None if field.default is PydanticUndefined else field.default
    shown = ", ".join(map(str, default)) if isinstance(default, list) else str(default)
    if default is None or path in DEFAULTS:
        shown = DEFAULTS.get(path, BY_DATA)
    return FormField(path, kind, MEANINGS.get(path) or field.description or "", shown, choices)


def _choices(annotation: Any) -> tuple[str, ...]:
    return tuple(get_args(annotation)) if get_origin(annotation) is Literal else ()


def _kind(annotation: Any) -> str:
    """Of `int | None` and the like, what is not None decides."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin is UnionType or str(origin) == "typing.Union":
        kinds = {_kind(one) for one in get_args(annotation) if one is not type(None)}
        return kinds.pop() if len(kinds) == 1 else "mixed"
    if origin is list:
        return "texts" if _kind(get_args(annotation)[0]) == "text" else "numbers"
    return {int: "whole", float: "number"}.get(annotation, "text")
