"""From contexts to answers: computed together, written one by one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from app.serving import service
from app.serving.service import Contexts, Target
from app.serving.wanted import Answer, Key, Wanted
from app.telemetry import FORECAST_SECONDS, FORECAST_SERIES

if TYPE_CHECKING:
    from app.lstm import Forecaster

Replies = list[tuple[Wanted, Answer | BaseException]]


class Task:
    """One request whose contexts [B, L] are here: what is left is arithmetic."""

    def __init__(
        self,
        wanted: Wanted,
        target: Target,
        contexts: Contexts,
        forecaster: "Forecaster | None",
        next_cursor: str | None,
        made_by: Key,
    ) -> None:
        self.wanted = wanted
        self.target = target
        self.contexts = contexts
        self._forecaster = forecaster
        self._next_cursor = next_cursor
        self._made_by = made_by
        self._quantiles: list[np.ndarray] = []
        self._done = 0

    def __len__(self) -> int:
        return len(self.contexts.names)

    @property
    def forecaster(self) -> "Forecaster":
        if self._forecaster is None:
            raise ValueError("only a task without series has no forecaster")
        return self._forecaster

    def advance(self, rows: int) -> bool:
        """Predicts the next so many series; whether all are done."""
        part = self.contexts.values[self._done : self._done + rows]
        self.take(predict(self.forecaster, part))
        return self._done >= len(self)

    def take(self, quantiles: np.ndarray) -> None:
        """quantiles [B, H, Q] of the next series, as the forecaster learned them."""
        self._quantiles.append(self.forecaster.select(quantiles, self.target.predicted_levels, self.target.horizon))
        self._done += len(quantiles)

    def finish(self) -> Answer:
        levels = len(self.target.predicted_levels)
        parts = self._quantiles or [np.empty((0, self.target.horizon, levels))]
        quantiles = parts[0] if len(parts) == 1 else np.concatenate(parts)
        forecasts = service.lay_out(self.target, self.contexts, quantiles)
        return self.wanted.finish(self.wanted.write(forecasts, self._next_cursor), self._next_cursor, self._made_by)


def predict(forecaster: "Forecaster", contexts: np.ndarray) -> np.ndarray:
    FORECAST_SERIES.observe(len(contexts))
    with FORECAST_SECONDS.time():
        return forecaster.predict_all(contexts)


def compute(tasks: Sequence[Task], replies: Replies) -> None:
    """One call of the model for small tasks of one version, then an answer for each."""
    filled = [task for task in tasks if len(task)]
    if filled:
        quantiles = predict(filled[0].forecaster, np.concatenate([task.contexts.values for task in filled]))
        at = 0
        for task in filled:
            task.take(quantiles[at : at + len(task)])
            at += len(task)
    for task in tasks:
        try:
            replies.append((task.wanted, task.finish()))
        except Exception as error:  # noqa: BLE001 - of this request, and not of the others
            replies.append((task.wanted, error))
