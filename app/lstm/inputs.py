"""From raw contexts to what the network eats. The same for training and for serving, so that both see the same."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from app.lstm.bases import base_maps
from app.lstm.config import Config
from app.lstm.scaling import Scaling, fill, fit_scaling
from app.lstm.windows import Floats


@dataclass(frozen=True)
class Inputs:
    """B windows in their own units, float32."""

    window: Tensor  # [B, L], missing ones filled
    mask: Tensor  # [B, L], 1 where observed
    features: Tensor  # [B, F]
    bases: Tensor  # [B, H, K]

    def __getitem__(self, rows: "Tensor | slice") -> "Inputs":
        return Inputs(self.window[rows], self.mask[rows], self.features[rows], self.bases[rows])


class Preparation:
    """Scales contexts and lays the bases beside them."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device
        maps = base_maps(config.context_length, config.horizon, config.season_lengths)
        self.base_names = tuple(maps)
        stacked = np.stack(list(maps.values()), -1).reshape(config.context_length, -1)  # [L, H * K]
        self._maps = torch.tensor(stacked, dtype=torch.float32, device=device)

    @property
    def feature_count(self) -> int:
        return 4 + len(self.base_names)

    def __call__(self, contexts: Floats) -> tuple[Inputs, Scaling]:
        """Contexts [B, any length], NaN = missing, the cutoff in the last column."""
        contexts = fit_length(contexts, self.config.context_length)  # [B, L]
        season = max(self.config.season_lengths, default=1)
        season = season if season <= self.config.context_length else self.config.season_length
        scaling = fit_scaling(contexts, season, self.config.transformation)
        scaled = scaling.apply(contexts)  # [B, L]
        seen = np.isfinite(scaled)  # [B, L]
        window = self.to_tensor(fill(scaled, self.config.season_length))  # [B, L]
        bases = (window @ self._maps).view(len(window), self.config.horizon, -1)  # [B, H, K]
        steps = window.diff(dim=1).abs().mean(1, keepdim=True) if window.shape[1] > 1 else window.abs()  # [B, 1]
        features = torch.cat(
            [
                self.to_tensor(np.log(scaling.scale)),
                self.to_tensor(seen.mean(1, keepdims=True)),
                self.to_tensor(scaling.log.astype(np.float64)),
                (steps + 0.01).log(),
                bases.mean(1),
            ],
            1,
        )  # [B, F]
        return Inputs(window, self.to_tensor(seen), features, bases), scaling

    def to_tensor(self, array: "Floats | np.ndarray[tuple[int, ...], np.dtype[np.bool_]]") -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(self.device)


def fit_length(contexts: Floats, length: int) -> Floats:
    """The last `length` columns, NaN in front where there are fewer."""
    missing = length - contexts.shape[1]
    if missing <= 0:
        return contexts[:, -length:]
    return np.concatenate([np.full((len(contexts), missing), np.nan), contexts], 1)  # [B, length]
