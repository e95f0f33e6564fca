"""What was learned, as something that predicts, and as bytes."""

import json
import math
from dataclasses import replace
from functools import reduce
from operator import add
from statistics import NormalDist
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from app.errors import ArtifactCorrupt, ContextTooShort, HorizonTooLong, QuantileOutOfRange
from app.lstm.config import MAX_CONTEXT_LENGTH, Config
from app.lstm.decision import Decision, Trial, stretch_gaps
from app.lstm.inputs import Preparation, fit_length
from app.lstm.network import Network, answer_of_prior
from app.lstm.prior import Prior
from app.lstm.scaling import Scaling
from app.lstm.windows import Floats, Ints

FORMAT = 2
SLICE = 1024
"""Rows predicted at once: bounds memory."""


class Forecaster:
    """An ensemble of networks and the config that made them; immutable."""

    def __init__(self, resolved: Config, prior: Prior, networks: list[Network], device: torch.device) -> None:
        self._resolved = resolved
        self._prepare = Preparation(resolved, prior, device)
        self._networks = [network.eval() for network in networks]
        self.config: dict[str, Any] = resolved.to_dict()
        self.horizon = resolved.horizon
        self.quantile_levels = resolved.quantile_levels
        self.context_length_max = min(MAX_CONTEXT_LENGTH, self._prepare.reach)

    def predict(self, contexts: Floats, quantile_levels: tuple[float, ...] | None = None, horizon: int | None = None) -> Floats:
        """Contexts [B, L], padded in front with NaN, NaN = missing, cutoff in the last column -> [B, H, Q], finite and
        ordered along Q. Raises ContextTooShort for a row without values, HorizonTooLong, QuantileOutOfRange."""
        horizon = self.horizon if horizon is None else horizon
        if horizon > self.horizon:
            raise HorizonTooLong(
                f"the model was trained for a horizon of {self.horizon}, {horizon} was asked",
                trained=self.horizon,
                asked=horizon,
            )
        mixing = None if quantile_levels is None else self._interpolation(quantile_levels)  # [Q, Q']
        contexts = fit_length(np.asarray(contexts, dtype=np.float64), self.context_length_max)  # [B, L]
        empty = np.flatnonzero(~np.isfinite(contexts).any(1))
        if len(empty):
            raise ContextTooShort(
                f"row {empty[0]} has no value among its last {self.context_length_max} observations", row=int(empty[0])
            )
        slices = [self._predict(contexts[at : at + SLICE]) for at in range(0, len(contexts), SLICE)]
        quantiles = np.concatenate(slices)[:, :horizon] if slices else np.empty((0, horizon, len(self.quantile_levels)))
        return quantiles if mixing is None else interpolate(quantiles, *mixing)  # [B, H, Q']

    def _predict(self, contexts: Floats) -> Floats:
        net, prior, scaling, _ = self._ask(contexts)
        weight, middle = self._resolved.net_weight, self.quantile_levels.index(0.5)
        scaled = weight * net + (1 - weight) * prior  # [B, H, Q], a mean of ordered quantiles is ordered
        if self._resolved.stretches:
            scaled = stretch_gaps(scaled, self._resolved.stretches, middle)
        return scaling.undo(scaled.reshape(len(contexts), -1)).reshape(scaled.shape)

    def _ask(self, contexts: Floats) -> tuple[Floats, Floats, Scaling, Floats]:
        """What the nets and the prior say in the windows' units, both [B, H, Q]; what undoes these; the noise [B, 1]."""
        inputs, scaling = self._prepare(contexts)
        with torch.inference_mode():
            each = torch.stack([network(inputs) for network in self._networks])  # [nets, B, H, Q]
            prior = answer_of_prior(inputs, self.quantile_levels.index(0.5))  # [B, H, Q]
        return each.double().mean(0).cpu().numpy(), prior.double().cpu().numpy(), scaling, inputs.unit.double().cpu().numpy()

    def try_out(self, contexts: Floats, actual: Floats) -> Trial:
        """Forecasts of held-out windows, contexts [B, L] and actual [B, H], for a decision yet to be taken."""
        parts = []
        for at in range(0, len(contexts), SLICE):
            rows = slice(at, at + SLICE)
            net, prior, scaling, unit = self._ask(contexts[rows])
            unit = unit[:, :, None]  # [B, 1, 1]
            parts.append(Trial(net / unit, prior / unit, scaling.apply(actual[rows]) / unit[:, 0]))
        return reduce(add, parts)

    def decided(self, decision: Decision) -> "Forecaster":
        """The same nets with another weight and other widths."""
        reasons = {**self._resolved.reasons, "net_weight": decision.reason}
        resolved = replace(self._resolved, net_weight=decision.weight, stretches=decision.stretches, reasons=reasons)
        return Forecaster(resolved, self._prepare.prior, self._networks, self._prepare.device)

    def _interpolation(self, asked: tuple[float, ...]) -> tuple[Ints, Floats]:
        """For each level asked: the place below among the learned ones, and the share of the one above; both [Q']."""
        learned = self.quantile_levels
        outside = [level for level in asked if not learned[0] <= level <= learned[-1]]
        if outside:
            raise QuantileOutOfRange(
                f"quantile level {outside[0]} lies outside the learned {learned[0]}..{learned[-1]}",
                asked=list(asked),
                learned=list(learned),
            )
        # Straight lines between normal deviates, not levels: exact for a normal distribution.
        deviates = np.array([NormalDist().inv_cdf(level) for level in learned])  # [Q]
        wanted = np.array([NormalDist().inv_cdf(level) for level in asked])  # [Q']
        below: Ints = np.clip(np.searchsorted(deviates, wanted, side="right") - 1, 0, max(len(learned) - 2, 0))  # [Q']
        above = np.minimum(below + 1, len(learned) - 1)  # [Q']
        width = deviates[above] - deviates[below]  # [Q']
        return below, np.clip((wanted - deviates[below]) / np.where(width > 0, width, 1), 0, 1)

    def to_bytes(self) -> bytes:
        """safetensors; one metadata entry, so that the same model is always the same bytes."""
        tensors = {
            f"nets.{number}.{name}": value.detach().cpu().contiguous()
            for number, network in enumerate(self._networks)
            for name, value in network.state_dict().items()
        }
        tensors |= {f"prior.{name}": value.cpu().contiguous() for name, value in self._prepare.prior.state_dict().items()}
        metadata = {"engram": json.dumps({"format": FORMAT, "config": self.config}, sort_keys=True)}
        return safetensors.torch.save(tensors, metadata=metadata)

    @classmethod
    def from_bytes(cls, data: bytes, device: str = "cpu") -> "Forecaster":
        """The inverse of `to_bytes`; raises ArtifactCorrupt."""
        try:
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            saved = json.loads(header["__metadata__"]["engram"])
            if saved["format"] > FORMAT:
                raise ArtifactCorrupt(f"artifact format {saved['format']} is newer than {FORMAT}, the newest known here")
            config = Config.from_dict(saved["config"])
            tensors = safetensors.torch.load(data)
            prior = Prior().requires_grad_(False)
            prior.load_state_dict({n.removeprefix("prior."): t for n, t in tensors.items() if n.startswith("prior.")})
            prepare = Preparation(config, prior, torch.device("cpu"))
            networks = []
            for number in range(config.nets):
                network = Network(config, prepare.feature_count, prepare.base_count)
                prefix = f"nets.{number}."
                network.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
                networks.append(network.to(device))
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, safetensors.SafetensorError) as error:
            raise ArtifactCorrupt(f"the artifact cannot be read: {error}") from error
        if not all(math.isfinite(float(tensor.sum())) for tensor in tensors.values()):
            raise ArtifactCorrupt("the artifact holds weights that are not finite")
        return cls(config, prior, networks, torch.device(device))


def interpolate(quantiles: Floats, below: Ints, share: Floats) -> Floats:
    """[B, H, Q] at fractional places along Q -> [B, H, Q']."""
    low = quantiles[..., below]  # [B, H, Q']
    high = quantiles[..., np.minimum(below + 1, quantiles.shape[-1] - 1)]  # [B, H, Q']
    return np.asarray(low * (1 - share) + high * share)
