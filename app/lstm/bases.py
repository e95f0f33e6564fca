"""Classical forecasts with nothing to fit, each a linear map of the window: the network gates over them.

Every base follows a shift and a scaling of the window.
"""

import numpy as np
import torch
from torch import Tensor

from app.lstm.windows import Floats

SMOOTHING = 0.5
DAMPING = 0.9
PLAIN = ("last", "ses", "drift", "damped")
SEASONAL = {"naive": 1, "shape_2": 2, "shape_4": 4, "shape_all": None}
"""How many seasons each looks at."""
SLOW, MIDDLE, FAST = 0.2, 0.3, 0.5
DESEASONED = ("slow", "fast", "line")
"""Smoothed without the season, slowly and fast, and a theta: with half of the line through the last `LINED` seasons."""
LINED = 3


class FixedBases:
    """Last value, smoothing and two drifts; for each season the last one and mean shapes, and with `deseasoned` also smoothing
    without the season. Seasonal names end in the rank of their season, .0 or .1; those that do not fit into the history are
    not there."""

    def __init__(
        self, length: int, horizon: int, season_lengths: tuple[int, ...], device: torch.device, *, deseasoned: bool = False
    ) -> None:
        points = (min(length, max(8, horizon)), min(length, 6))
        stats = [recent_mean(length, 1), smoothing(length, SMOOTHING), *(slope(length, n) for n in points)]
        self._stats = torch.tensor(np.stack(stats, 1), dtype=torch.float32, device=device)  # [R, 4]
        steps = np.arange(1, horizon + 1)  # [H]
        damped = np.cumsum(DAMPING**steps)  # [H], Gardner & McKenzie (1985)
        self._steps = torch.tensor(np.stack([0.5 * steps, damped]), dtype=torch.float32, device=device)  # [2, H]
        self._seasons = [
            (f"{name}.{rank}", m, n)
            for rank, m in enumerate(season_lengths)
            for name, n in ((name, length // m if n is None else n) for name, n in SEASONAL.items())
            if (n >= 2 or name == "naive") and n * m <= length
        ]
        self._smoothed = [
            (rank, m, self._smooth_without(length, m, device))
            for rank, m in enumerate(season_lengths)
            if deseasoned and 2 * m <= length
        ]
        self.names = (
            *PLAIN,
            *(name for name, _, _ in self._seasons),
            *(f"{name}.{rank}" for rank, _, _ in self._smoothed for name in DESEASONED),
        )

    def _smooth_without(self, length: int, m: int, device: torch.device) -> Tensor:
        """The maps [R, 4] of a history without its season: three levels and the slope."""
        maps = [*(smoothing(length, alpha) for alpha in (SLOW, FAST, MIDDLE)), slope(length, min(length, LINED * m))]
        return torch.tensor(np.stack(maps, 1), dtype=torch.float32, device=device)

    def __call__(self, history: Tensor) -> Tensor:
        """history [B, R] without gaps -> [B, H, K]."""
        last, level, slow, fast = torch.split(history @ self._stats, 1, -1)  # [B, 1] each
        still = torch.zeros_like(self._steps[0])  # [H]
        forecasts = [last + still, level + still, level + slow * self._steps[0], last + fast * self._steps[1]]
        for _, m, n in self._seasons:
            shape = mean_season(history, m, n)  # [B, m]
            level = history[:, -m:].mean(1, keepdim=True) - shape.mean(1, keepdim=True)  # [B, 1]
            forecasts.append(level + repeat_ahead(shape, len(still)))
        for _, m, maps in self._smoothed:
            plain, shape = remove_season(history, m, history.shape[1] // m)  # [B, R], [B, m]
            slow, fast, middle, line = torch.split(plain @ maps, 1, -1)  # [B, 1] each
            ahead = repeat_ahead(shape, len(still))  # [B, H]
            forecasts += [slow + ahead, fast + ahead, middle + line * self._steps[0] + ahead]
        return torch.stack(forecasts, -1)


def mean_season(history: Tensor, m: int, seasons: int) -> Tensor:
    """The mean of each phase over the last `seasons` of m steps, [B, m]; the first phase is that of the next step."""
    return history[:, -m * seasons :].reshape(len(history), seasons, m).mean(1)


def repeat_ahead(shape: Tensor, horizon: int) -> Tensor:
    """[B, m] again and again -> [B, H]."""
    return shape.repeat(1, -(-horizon // shape.shape[1]))[:, :horizon]


def remove_season(history: Tensor, m: int, seasons: int) -> tuple[Tensor, Tensor]:
    """The history without its mean seasonal shape [B, R], and that shape about zero [B, m]."""
    shape = mean_season(history, m, seasons)  # [B, m]
    shape = shape - shape.mean(1, keepdim=True)
    length = history.shape[1]
    return history - shape.repeat(1, -(-length // m))[:, -length:], shape


def smoothing(length: int, alpha: float) -> Floats:
    """Weights [R] of simple exponential smoothing (Brown, 1956), the first value being the start."""
    weights: Floats = alpha * (1 - alpha) ** np.arange(length - 1, -1, -1.0)
    weights[0] = (1 - alpha) ** (length - 1)
    return weights


def slope(length: int, points: int) -> Floats:
    """Weights [R] of the least-squares slope of the last `points`; of one point it is zero."""
    weights = np.zeros(length)
    centred = np.arange(points) - (points - 1) / 2
    weights[-points:] = centred / max(float(centred @ centred), 1e-9)
    return weights


def recent_mean(length: int, points: int) -> Floats:
    """Weights [R] of the mean of the last `points`."""
    weights = np.zeros(length)
    weights[-points:] = 1 / points
    return weights
