"""The network of the textbooks: an LSTM over single observations and a dense layer. It learns and serves as the default one does."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor, nn

from app.lstm.cell import LstmStack
from app.lstm.config import Config
from app.lstm.decision import FEW_SCORES, Decision, Trial, choose_stretches, stretch_gaps
from app.lstm.scaling import Scaling, fill, fit_scaling
from app.lstm.windows import Floats, fit_length


class PlainNetwork(nn.Module):
    """LSTM(hidden_size, activation) x num_layers -> Dense. One output for each step ahead, or one for each of its quantiles."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.horizon, self.noise = config.horizon, config.input_noise
        self.outputs = len(config.quantile_levels) if config.loss == "quantile" else 1
        self.lstm = LstmStack(1, config.hidden_size, config.num_layers, config.activation, config.dropout)
        self.dropout = config.dropout
        self.dense = nn.Linear(config.hidden_size, self.horizon * self.outputs)
        nn.init.xavier_uniform_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)

    def forward(self, window: Tensor) -> Tensor:
        """[B, L] -> [B, H, O] in the windows' units."""
        if self.training and self.noise:
            window = window + self.noise * torch.randn_like(window)
        state = self.lstm.last_state(window.unsqueeze(-1))  # [B, hidden]
        if self.dropout:
            state = nn.functional.dropout(state, self.dropout, self.training)
        output: Tensor = self.dense(state).view(len(window), self.horizon, self.outputs)
        return output


class PlainPreparation:
    """Scales windows and fills their gaps: by the mean and spread of the whole dataset, or each by its own."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.reach = config.context_length
        self._dataset = None if config.scaling is None else of_dataset(config.scaling)

    def __call__(self, contexts: Floats) -> tuple[Tensor, Scaling]:
        """Contexts [B, any length], NaN = missing, the cutoff in the last column -> windows [B, L]."""
        history = fit_length(contexts, self.reach)  # [B, L]
        season = self.config.season_length if self.config.season_length <= self.reach else 1
        scaling = self._dataset or fit_scaling(history, self.reach, season, "none")
        return self.to_tensor(fill(scaling.apply(history), self.config.season_length)), scaling

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def weigh(self, inputs: Tensor) -> Tensor:
        """Every window counts alike, [B, 1]."""
        return inputs.new_ones(len(inputs), 1)

    def to_tensor(self, array: "Floats | np.ndarray[tuple[int, ...], np.dtype[np.bool_]]") -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(self.device)


class PlainEnsemble:
    """One plain network and what was decided about its widths. Immutable."""

    def __init__(self, config: Config, networks: list[nn.Module], device: torch.device) -> None:
        self.config = config
        self.networks = [network.eval() for network in networks]
        self.device = device
        self._prepare = PlainPreparation(config, device)
        self._middle = config.quantile_levels.index(0.5)

    @property
    def reach(self) -> int:
        """How many observations before a cutoff are looked at."""
        return self._prepare.reach

    def predict(self, contexts: Floats) -> Floats:
        """Contexts [B, L] -> quantiles [B, H, Q], finite and ordered along Q."""
        output, scaling = self._ask(contexts)
        quantiles = to_quantiles(output, self.config.spreads, self.config.quantile_levels)  # [B, H, Q]
        if self.config.stretches:
            quantiles = stretch_gaps(quantiles, self.config.stretches, self._middle)
        return scaling.undo(quantiles.reshape(len(contexts), -1)).reshape(quantiles.shape)

    def try_out(self, contexts: Floats, actual: Floats) -> Trial:
        """What the network says of held-out windows, contexts [B, L] and actual [B, H], for a decision yet to be taken."""
        output, scaling = self._ask(contexts)
        return Trial(output, output, scaling.apply(actual))

    def decide(self, trial: Trial | None) -> Decision:
        """The spreads of a point forecast are those of its residuals; then widths are corrected as those of any network."""
        levels, point = self.config.quantile_levels, self.config.loss != "quantile"
        if trial is None or not len(trial):
            spreads = (1.0,) * self.config.horizon if point else ()
            reason = "there was nothing to hold out; quantiles are as wide as the data is spread" if point else "as learned"
            return Decision(1.0, (1.0,) * (len(levels) - 1), reason, False, spreads)
        spreads = measure_spreads(trial.actual - trial.net[..., 0]) if point else ()
        stretches, scores = choose_stretches(to_quantiles(trial.net, spreads, levels), trial.actual, levels, is_schooled=False)
        reason = f"by the residuals of {len(trial)} held-out windows"
        return Decision(1.0, stretches, reason, scores >= FEW_SCORES, spreads)

    def settle(self, decision: Decision) -> "PlainEnsemble":
        """The same network with what was decided."""
        reasons = {**self.config.reasons, "stretches": decision.reason}
        config = replace(self.config, stretches=decision.stretches, spreads=decision.spreads, reasons=reasons)
        return PlainEnsemble(config, self.networks, self.device)

    def _ask(self, contexts: Floats) -> tuple[Floats, Scaling]:
        window, scaling = self._prepare(contexts)
        with torch.inference_mode():
            output = self.networks[0](window).double().cpu().numpy()  # [B, H, O]
        return np.nan_to_num(output), scaling

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything that was learned, by name; on the CPU."""
        state = self.networks[0].state_dict()
        return {f"nets.0.{name}": value.detach().cpu().contiguous() for name, value in state.items()}

    @classmethod
    def from_tensors(cls, config: Config, tensors: Mapping[str, Tensor], device: torch.device) -> "PlainEnsemble":
        """The inverse; raises RuntimeError where names or shapes do not fit."""
        network = PlainNetwork(config)
        network.load_state_dict({name.removeprefix("nets.0."): tensor for name, tensor in tensors.items()})
        return cls(config, [network.to(device)], device)


LIKE_EACH_OTHER = 10.0
"""Residuals that the spread over all steps is worth beside those of one step."""
LEAST_SPREAD = 1e-6


def measure_spreads(residuals: Floats) -> tuple[float, ...]:
    """Root mean square of the residuals [W, H] of each step ahead, drawn towards that of all steps where there are few."""
    seen = np.isfinite(residuals)  # [W, H]
    squares = np.where(seen, residuals, 0.0) ** 2  # [W, H]
    overall = squares.sum() / max(1, seen.sum())
    spreads = np.sqrt((squares.sum(0) + LIKE_EACH_OTHER * overall) / (seen.sum(0) + LIKE_EACH_OTHER))  # [H]
    return tuple(float(spread) for spread in np.maximum(spreads, LEAST_SPREAD))


def to_quantiles(output: Floats, spreads: tuple[float, ...], levels: tuple[float, ...]) -> Floats:
    """[B, H, O] -> [B, H, Q], ordered: learned quantiles put in order, a point forecast with normal errors of these spreads."""
    if not spreads:
        return np.sort(output, -1)
    deviates = np.array([NormalDist().inv_cdf(level) for level in levels])  # [Q]
    return np.asarray(output + np.asarray(spreads)[:, None] * deviates)


def of_dataset(numbers: Sequence[float]) -> Scaling:
    """One scaling for every window, from level, loc, scale, low and high."""
    level, loc, scale, low, high = (np.array([[number]]) for number in numbers)
    return Scaling(level, np.array([[False]]), loc, scale, low, high)
