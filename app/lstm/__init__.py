"""The workshop: arrays in, arrays out. Importing it is cheap; the names below are loaded when first used, and bring torch with them
but for `Forecaster`, which has compiled code."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from app.lstm.config import Request as Request
from app.lstm.windows import Series as Series

if TYPE_CHECKING:
    from app.lstm.evaluation import BacktestForecasts as BacktestForecasts
    from app.lstm.forecaster import Forecaster as Forecaster
    from app.lstm.learning import Learned as Learned
    from app.lstm.learning import Progress as Progress
    from app.lstm.learning import learn as learn

_HOMES = {
    "Forecaster": "app.lstm.forecaster",
    "BacktestForecasts": "app.lstm.evaluation",
    "Learned": "app.lstm.learning",
    "Progress": "app.lstm.learning",
    "learn": "app.lstm.learning",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
