"""Classical forecasts with nothing to fit, each a linear map of the window: the network gates over them.

Every base follows a shift and a scaling of the window.
"""

import torch
from torch import Tensor

from app.lstm.tables import DESEASONED, PLAIN, count_steps, list_deseasoned, list_shapes, map_window, map_without_season
from app.lstm.windows import Floats


class FixedBases:
    """Last value, smoothing and two drifts; for each season the last one and mean shapes, and with `deseasoned` also smoothing
    without the season. Seasonal names end in the rank of their season, .0 or .1; those that do not fit into the history are
    not there."""

    def __init__(
        self, length: int, horizon: int, season_lengths: tuple[int, ...], device: torch.device, *, deseasoned: bool = False
    ) -> None:
        self._stats = to_tensor(map_window(length, horizon).T, device)  # [R, 4]
        self._steps = to_tensor(count_steps(horizon), device)  # [2, H]
        self._seasons = list_shapes(length, season_lengths)
        self._smoothed = [
            (rank, m, to_tensor(map_without_season(length, m).T, device))  # [R, 4]
            for rank, m in (list_deseasoned(length, season_lengths) if deseasoned else ())
        ]
        self.names = (
            *PLAIN,
            *(name for name, _, _ in self._seasons),
            *(f"{name}.{rank}" for rank, _, _ in self._smoothed for name in DESEASONED),
        )

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


def to_tensor(table: Floats, device: torch.device) -> Tensor:
    return torch.tensor(table, dtype=torch.float32, device=device)
