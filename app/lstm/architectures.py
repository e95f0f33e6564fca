"""The two kinds of network, and what each brings: how windows are prepared, what is learned, and what forecasts with it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from app.lstm.config import Config
from app.lstm.ensemble import Ensemble
from app.lstm.inputs import Preparation
from app.lstm.network import Network
from app.lstm.plain import PlainEnsemble, PlainNetwork, PlainPreparation
from app.lstm.prior import load_prior

AnyPreparation = Preparation | PlainPreparation
AnyEnsemble = Ensemble | PlainEnsemble


def prepare_windows(config: Config, device: torch.device) -> AnyPreparation:
    """What turns contexts into what the network eats."""
    return PlainPreparation(config, device) if config.architecture == "plain" else Preparation(config, load_prior(), device)


def build_network(prepare: AnyPreparation) -> nn.Module:
    """A new network for windows prepared so."""
    if isinstance(prepare, PlainPreparation):
        return PlainNetwork(prepare.config)
    return Network(prepare.config, prepare.feature_count, prepare.base_count)


def assemble(config: Config, networks: Sequence[nn.Module], device: torch.device) -> AnyEnsemble:
    """What forecasts with networks that have learned."""
    if config.architecture == "plain":
        return PlainEnsemble(config, list(networks), device)
    return Ensemble(config, load_prior(), networks, device)


def load_ensemble(config: Config, tensors: Mapping[str, Tensor], device: torch.device) -> AnyEnsemble:
    """From an artifact; raises RuntimeError where names or shapes do not fit."""
    kind = PlainEnsemble if config.architecture == "plain" else Ensemble
    return kind.from_tensors(config, tensors, device)
