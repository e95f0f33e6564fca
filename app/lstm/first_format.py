"""Artifacts of format 1: read and served, never written by a training. There was no prior, and only fixed bases."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from app.lstm.bases import recent_mean, slope, smoothing
from app.lstm.config import Config
from app.lstm.ensemble import select, to_numpy
from app.lstm.inputs import fit_length
from app.lstm.network import spread_quantiles
from app.lstm.scaling import Scaling, fill, fit_scaling
from app.lstm.windows import Floats


class FirstEnsemble:
    """The nets of a format 1 artifact."""

    format = 1

    def __init__(self, config: Config, networks: "list[FirstNetwork]", device: torch.device) -> None:
        self.config = config
        self.networks = [network.eval() for network in networks]
        self.device = device
        self.reach = config.context_length
        maps = np.stack(list(base_maps(config).values()), -1)  # [L, H, K]
        self._maps = torch.tensor(maps.reshape(config.context_length, -1), dtype=torch.float32, device=device)

    def predict(self, contexts: Floats) -> Floats:
        """Contexts [B, L] -> quantiles [B, H, Q], finite and ordered along Q."""
        window, mask, features, bases, scaling = self._prepare(contexts)
        with torch.inference_mode():
            each = torch.stack([network(window, mask, features, bases) for network in self.networks])  # [nets, B, H, Q]
        scaled = to_numpy(each.double().mean(0))  # [B, H, Q]
        return scaling.undo(scaled.reshape(len(contexts), -1)).reshape(scaled.shape)

    def _prepare(self, contexts: Floats) -> tuple[Tensor, Tensor, Tensor, Tensor, Scaling]:
        """window [B, L], mask [B, L], features [B, F], bases [B, H, K] and what undoes the scaling."""
        config, L = self.config, self.config.context_length
        contexts = fit_length(contexts, L)  # [B, L]
        season = max(config.season_lengths, default=1)
        scaling = fit_scaling(contexts, L, season if season <= L else config.season_length, config.transformation)
        scaled = scaling.apply(contexts)  # [B, L]
        seen = np.isfinite(scaled)  # [B, L]
        window = self._to_tensor(fill(scaled, config.season_length))  # [B, L]
        bases = (window @ self._maps).view(len(window), config.horizon, -1)  # [B, H, K]
        steps = window.diff(dim=1).abs().mean(1, keepdim=True) if L > 1 else window.abs()  # [B, 1]
        facts = np.concatenate([np.log(scaling.scale), seen.mean(1, keepdims=True), scaling.log], 1)  # [B, 3]
        features = torch.cat([self._to_tensor(facts), (steps + 0.01).log(), bases.mean(1)], 1)  # [B, F]
        return window, self._to_tensor(seen.astype(np.float64)), features, bases, scaling

    def _to_tensor(self, array: Floats) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(self.device)

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything that was learned, by name; on the CPU."""
        return {
            f"nets.{number}.{name}": value.detach().cpu().contiguous()
            for number, network in enumerate(self.networks)
            for name, value in network.state_dict().items()
        }

    @classmethod
    def from_tensors(cls, config: Config, tensors: Mapping[str, Tensor], device: torch.device) -> "FirstEnsemble":
        """The inverse; raises RuntimeError where names or shapes do not fit."""
        networks = []
        for number in range(config.nets):
            network = FirstNetwork(config, len(base_maps(config)))
            network.load_state_dict(select(tensors, f"nets.{number}."))
            networks.append(network.to(device))
        return cls(config, networks, device)


class FirstNetwork(nn.Module):
    """Patches -> LSTM -> head -> a gate over the bases, residual and gaps."""

    def __init__(self, config: Config, base_count: int) -> None:
        super().__init__()
        self.patch = config.patch_length
        self.shape = (config.horizon, base_count, len(config.quantile_levels))
        self.middle = config.quantile_levels.index(0.5)
        H, K, Q = self.shape
        hidden = config.hidden_size
        self.lstm = nn.LSTM(2 * self.patch, hidden, config.num_layers, batch_first=True)
        self.head = nn.Sequential(
            nn.Linear(hidden + config.context_length + 4 + base_count, 2 * hidden),
            nn.GELU(),
            nn.Identity(),
            nn.Linear(2 * hidden, 2 * hidden),
            nn.GELU(),
        )
        self.out = nn.Linear(2 * hidden, H * (K + Q))

    def forward(self, window: Tensor, mask: Tensor, features: Tensor, bases: Tensor) -> Tensor:
        """-> quantiles [B, H, Q] in the window's units."""
        H, K, Q = self.shape
        B, L = window.shape
        lead = -L % self.patch
        patches = nn.functional.pad(window, (lead, 0)).view(B, -1, self.patch)  # [B, P, patch]
        masks = nn.functional.pad(mask, (lead, 0)).view(B, -1, self.patch)  # [B, P, patch]
        states, _ = self.lstm(torch.cat([patches, masks], -1))  # [B, P, hidden]
        out = self.out(self.head(torch.cat([states[:, -1], window, features], -1)))  # [B, H * (K + Q)]
        gate = out[:, : H * K].view(B, H, K).softmax(-1)  # [B, H, K]
        rest = out[:, H * K :].view(B, H, Q)  # [B, H, Q]
        median = (gate * bases).sum(-1) + rest[..., self.middle]  # [B, H]
        gaps = nn.functional.softplus(torch.cat([rest[..., : self.middle], rest[..., self.middle + 1 :]], -1))  # [B, H, Q - 1]
        return spread_quantiles(median, gaps, self.middle)


def base_maps(config: Config) -> dict[str, Floats]:
    """Name -> matrix [L, H] from a window to a classical forecast of it."""
    L, H = config.context_length, config.horizon
    steps, ones = np.arange(1, H + 1), np.ones(H)  # [H], [H]
    maps = {"last": np.outer(recent_mean(L, 1), ones)}
    for alpha in (0.5, 0.2):
        maps[f"ses_{alpha}"] = np.outer(smoothing(L, alpha), ones)
    if L >= 4:
        maps["drift"] = np.outer(smoothing(L, 0.5), ones) + 0.5 * np.outer(slope(L, min(L, max(8, H))), steps)
        maps["damped"] = np.outer(recent_mean(L, 1), ones) + np.outer(slope(L, min(L, 6)), np.cumsum(0.9**steps))
    for m in (m for m in config.season_lengths if m <= L):
        seasons = L // m
        maps[f"naive_{m}"] = phase_mean(L, H, m, 1)
        for n in sorted({min(2, seasons), min(4, seasons), seasons} - {1}):
            maps[f"shape_{m}_{n}"] = np.outer(recent_mean(L, m), ones) + season_shape(L, H, m, n)
        if seasons >= 2:
            n = min(4, seasons)
            clean = np.eye(L) - season_shape(L, m, m, n)[:, np.arange(-L, 0) % m]  # [L, L]
            ahead = season_shape(L, H, m, n)  # [L, H]
            for alpha in (0.5, 0.2):
                maps[f"deseasonalised_{m}_{alpha}"] = np.outer(clean @ smoothing(L, alpha), ones) + ahead
            trend = np.outer(smoothing(L, 0.3), ones) + 0.5 * np.outer(slope(L, min(L, 3 * m)), steps)  # [L, H]
            maps[f"theta_{m}"] = clean @ trend + ahead
    return maps


def phase_mean(L: int, H: int, m: int, seasons: int) -> Floats:
    """[L, H]: each step ahead is the mean of its phase over the last `seasons`."""
    weights = np.zeros((L, H))
    for k in range(H):
        weights[L - m + k % m - m * np.arange(seasons), k] = 1 / seasons
    return weights


def season_shape(L: int, H: int, m: int, seasons: int) -> Floats:
    """[L, H]: the mean seasonal shape ahead, about zero."""
    return phase_mean(L, H, m, seasons) - recent_mean(L, m * seasons)[:, None]
