"""What was learned, as something that predicts, and as bytes."""

import json
import math
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from app.errors import ArtifactCorrupt, ContextTooShort, HorizonTooLong, QuantileOutOfRange
from app.lstm.compiled import CompiledEnsemble, compile_ensemble
from app.lstm.config import MAX_CONTEXT_LENGTH, Config
from app.lstm.tables import find_deviates
from app.lstm.windows import Floats, Ints, fit_length

if TYPE_CHECKING:
    from app.lstm.architectures import AnyEnsemble

FORMAT = 2
"""Raised when an artifact's tensors change their meaning; a reader of each older format then stays."""
SLICE = 1024
"""Rows predicted at once: bounds memory."""


class Predictor(Protocol):
    """What forecasts: compiled code, or the ensemble by torch."""

    @property
    def reach(self) -> int: ...

    def predict(self, contexts: Floats) -> Floats: ...


class Forecaster:
    """What was learned and the config that made it; immutable."""

    def __init__(self, config: Config, tensors: Mapping[str, npt.NDArray[Any]], predictor: Predictor) -> None:
        self._tensors = tensors
        self._predictor = predictor
        self.config: dict[str, Any] = config.to_dict()
        self.horizon = config.horizon
        self.quantile_levels = config.quantile_levels
        self.context_length_max = min(MAX_CONTEXT_LENGTH, predictor.reach)

    @classmethod
    def of(cls, ensemble: "AnyEnsemble") -> "Forecaster":
        """Of an ensemble that has learned. On a CPU it forecasts as it will once it is loaded from its bytes."""
        tensors = {name: tensor.numpy() for name, tensor in ensemble.to_tensors().items()}
        compiled = compile_ensemble(ensemble.config, tensors) if ensemble.device.type == "cpu" else None
        return cls(ensemble.config, tensors, ensemble if compiled is None else compiled)

    @property
    def is_compiled(self) -> bool:
        """Whether a series takes a tenth of a millisecond, and not some."""
        return isinstance(self._predictor, CompiledEnsemble)

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
        levels = self.quantile_levels if quantile_levels is None else quantile_levels
        choose_levels(self.quantile_levels, levels)
        return self.select(self.predict_all(contexts), levels, horizon)

    @np.errstate(over="ignore", invalid="ignore")
    def predict_all(self, contexts: Floats) -> Floats:
        """As `predict`, over the whole horizon and at the learned levels."""
        contexts = fit_length(np.asarray(contexts, dtype=np.float64), self.context_length_max)  # [B, L]
        empty = np.flatnonzero(~np.isfinite(contexts).any(1))
        if len(empty):
            raise ContextTooShort(
                f"row {empty[0]} has no value among its last {self.context_length_max} observations", row=int(empty[0])
            )
        slices = [self._predictor.predict(contexts[at : at + SLICE]) for at in range(0, len(contexts), SLICE)]
        return np.concatenate(slices) if slices else np.empty((0, self.horizon, len(self.quantile_levels)))

    def select(self, quantiles: Floats, quantile_levels: tuple[float, ...], horizon: int) -> Floats:
        """The first steps of what `predict_all` gave, at these levels: [B, H', Q']. Raises QuantileOutOfRange."""
        chosen = quantiles[:, :horizon]
        if quantile_levels == self.quantile_levels:
            return chosen
        return interpolate(chosen, *choose_levels(self.quantile_levels, quantile_levels))

    def to_bytes(self) -> bytes:
        """safetensors; one metadata entry, so that the same model is always the same bytes."""
        saved = {"format": FORMAT, "config": self.config}
        return safetensors.numpy.save(dict(self._tensors), metadata={"engram": json.dumps(saved, sort_keys=True)})

    @classmethod
    def from_bytes(cls, data: bytes, device: str = "cpu") -> "Forecaster":
        """The inverse of `to_bytes`; raises ArtifactCorrupt."""
        try:
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            saved = json.loads(header["__metadata__"]["engram"])
            if saved["format"] != FORMAT:
                raise ArtifactCorrupt(f"the artifact has format {saved['format']}, and this code reads format {FORMAT}")
            tensors = safetensors.numpy.load(data)
            config = Config.from_dict(saved["config"])
            predictor: Predictor | None = compile_ensemble(config, tensors) if device == "cpu" else None
            if predictor is None:
                predictor = load_with_torch(config, tensors, device)
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, safetensors.SafetensorError) as error:
            raise ArtifactCorrupt(f"the artifact cannot be read: {error}") from error
        if not all(math.isfinite(float(tensor.sum())) for tensor in tensors.values()):
            raise ArtifactCorrupt("the artifact holds weights that are not finite")
        return cls(config, tensors, predictor)


def load_with_torch(config: Config, tensors: Mapping[str, npt.NDArray[Any]], device: str) -> "AnyEnsemble":
    """A process that only forecasts with compiled code stays without torch; one that never had it uses a single thread."""
    is_new = "torch" not in sys.modules
    import torch

    from app.lstm.architectures import load_ensemble

    if is_new:
        torch.set_num_threads(1)
    return load_ensemble(config, {name: torch.from_numpy(array) for name, array in tensors.items()}, torch.device(device))


@lru_cache(maxsize=1024)
def choose_levels(learned: tuple[float, ...], asked: tuple[float, ...]) -> tuple[Ints, Floats]:
    """For each level asked: the place below among the learned ones, and the share of the one above; both [Q']."""
    outside = [level for level in asked if not learned[0] <= level <= learned[-1]]
    if outside:
        raise QuantileOutOfRange(
            f"quantile level {outside[0]} lies outside the learned {learned[0]}..{learned[-1]}",
            asked=list(asked),
            learned=list(learned),
        )
    # Straight lines between normal deviates, not levels: exact for a normal distribution.
    deviates = find_deviates(learned)  # [Q]
    wanted = find_deviates(asked)  # [Q']
    below: Ints = np.clip(np.searchsorted(deviates, wanted, side="right") - 1, 0, max(len(learned) - 2, 0))  # [Q']
    above = np.minimum(below + 1, len(learned) - 1)  # [Q']
    width = deviates[above] - deviates[below]  # [Q']
    return below, np.clip((wanted - deviates[below]) / np.where(width > 0, width, 1), 0, 1)


def interpolate(quantiles: Floats, below: Ints, share: Floats) -> Floats:
    """[B, H, Q] at fractional places along Q -> [B, H, Q']."""
    low = quantiles[..., below]  # [B, H, Q']
    high = quantiles[..., np.minimum(below + 1, quantiles.shape[-1] - 1)]  # [B, H, Q']
    return np.asarray(low * (1 - share) + high * share)
