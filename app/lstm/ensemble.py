"""The nets, the prior they started from, and what was decided about both: from contexts to quantiles."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from app.lstm.config import MAX_CONTEXT_LENGTH, Config
from app.lstm.decision import Decision, Trial, decide, stretch_gaps
from app.lstm.inputs import Inputs, Preparation, measure_seasonal_change
from app.lstm.network import Network, answer_of_prior
from app.lstm.prior import Prior
from app.lstm.scaling import Scaling
from app.lstm.stack import Stack
from app.lstm.tables import choose_history_length
from app.lstm.windows import Floats


class Ensemble:
    """Immutable."""

    def __init__(self, config: Config, prior: Prior, networks: Sequence[nn.Module], device: torch.device) -> None:
        self.config = config
        self.prior = prior
        self.networks = [network.eval() for network in networks]
        self.device = device
        self._prepare = Preparation(config, prior, device)
        self._elder = prepare_for_prior(config, prior, device)
        self._stack: Stack | None = None
        self._middle = config.quantile_levels.index(0.5)

    @property
    def reach(self) -> int:
        """How many observations before a cutoff are looked at."""
        return max(self._prepare.reach, 0 if self._elder is None else self._elder.reach)

    def predict(self, contexts: Floats) -> Floats:
        """Contexts [B, L] -> quantiles [B, H, Q], finite and ordered along Q."""
        net, prior, scaling, _ = self._ask(contexts)
        weight = self.config.net_weight
        scaled = weight * net + (1 - weight) * prior  # [B, H, Q], a mean of ordered quantiles is ordered
        if self.config.stretches:
            scaled = stretch_gaps(scaled, self.config.stretches, self._middle)
        return scaling.undo(scaled.reshape(len(contexts), -1)).reshape(scaled.shape)

    def try_out(self, contexts: Floats, actual: Floats) -> Trial:
        """Forecasts of held-out windows, contexts [B, L] and actual [B, H], for a decision yet to be taken."""
        net, prior, scaling, inputs = self._ask(contexts)
        unit = to_numpy(measure_seasonal_change(inputs.window, self.config.season_length).double())  # [B, 1]
        return Trial(net / unit[:, :, None], prior / unit[:, :, None], scaling.apply(actual) / unit)

    def decide(self, trial: Trial | None) -> Decision:
        return decide(trial, self.config.quantile_levels, self.config.net_weight)

    def settle(self, decision: Decision) -> "Ensemble":
        """The same nets with what was decided about them."""
        reasons = {**self.config.reasons, "net_weight": decision.reason}
        config = replace(self.config, net_weight=decision.weight, stretches=decision.stretches, reasons=reasons)
        return Ensemble(config, self.prior, self.networks, self.device)

    def _ask(self, contexts: Floats) -> tuple[Floats, Floats, Scaling, Inputs]:
        """What the nets and the prior say in the windows' units, both [B, H, Q]; what undoes these; the windows."""
        with torch.inference_mode():
            if self._stack is None:
                self._stack = Stack([cast(Network, network) for network in self.networks])
            inputs, scaling = self._prepare(contexts)
            net = to_numpy(self._stack(inputs).double().mean(0))  # [B, H, Q]
            return net, self._ask_prior(contexts, inputs, scaling), scaling, inputs

    def _ask_prior(self, contexts: Floats, inputs: Inputs, scaling: Scaling) -> Floats:
        """[B, H, Q] in the windows' units. Nets that learned from linear forecasts have windows of another make."""
        if self._elder is None:
            return to_numpy(answer_of_prior(inputs, self._middle).double())
        inputs, own = self._elder(contexts)
        answer = to_numpy(answer_of_prior(inputs, self._middle).double())  # [B, H, Q]
        return scaling.apply(own.undo(answer.reshape(len(answer), -1))).reshape(answer.shape)

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything that was learned, by name; on the CPU."""
        parts = {f"nets.{number}": network for number, network in enumerate(self.networks)} | {"prior": self.prior}
        return {
            f"{part}.{name}": value.detach().cpu().contiguous()
            for part, module in parts.items()
            for name, value in module.state_dict().items()
        }

    @classmethod
    def from_tensors(cls, config: Config, tensors: Mapping[str, Tensor], device: torch.device) -> "Ensemble":
        """The inverse; raises RuntimeError where names or shapes do not fit."""
        with torch.device("meta"):
            prior = Prior()
        prior.load_state_dict(select(tensors, "prior."), assign=True)
        prior.requires_grad_(False)
        prepare = Preparation(config, prior, torch.device("cpu"))
        networks = []
        for number in range(config.nets):
            with torch.device("meta"):  # no weights are drawn only to be thrown away
                network = Network(config, prepare.feature_count, prepare.base_count)
            network.load_state_dict(select(tensors, f"nets.{number}."), assign=True)
            networks.append(network.to(device))
        return cls(config, prior, networks, device)


def prepare_for_prior(config: Config, prior: Prior, device: torch.device) -> Preparation | None:
    """What the prior needs beside windows of linear forecasts, as long as it has a say, or nothing was decided yet."""
    is_alone = config.net_weight == 1.0 and bool(config.stretches)
    if config.bases != "linear" or is_alone:
        return None
    history_length = choose_history_length(config.season_lengths, config.context_length, MAX_CONTEXT_LENGTH, config.horizon)
    return Preparation(replace(config, bases="all", history_length=history_length), prior, device)


def select(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose name begins so, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def to_numpy(tensor: Tensor) -> Floats:
    array: Floats = np.asarray(tensor.cpu().numpy())
    return array
