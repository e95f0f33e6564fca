"""From raw contexts to what the network eats. The same for training and for serving, so that both see the same."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from app.lstm.bases import FixedBases
from app.lstm.compiled import CompiledPreparation, load_library
from app.lstm.config import Config
from app.lstm.fitted import FittedBases, Units
from app.lstm.prior import Facts, Prior, describe_windows, regroup_gaps, slot_numbers
from app.lstm.scaling import Scaling, fill, fit_scaling
from app.lstm.tables import CAUTION, FITTED, LEAST_UNIT, QUICK, WIDENING, WINDOW_FACTS, choose_past, find_deviates
from app.lstm.windows import Floats, fit_length


@dataclass(frozen=True)
class Inputs:
    """B windows in their own units, float32."""

    window: Tensor  # [B, L], missing ones filled
    mask: Tensor  # [B, L], 1 where observed
    features: Tensor  # [B, F]
    bases: Tensor  # [B, H, K]
    logits: Tensor  # [B, H, K], the prior's gate over the bases
    shift: Tensor  # [B, H], the prior's correction of the median
    gaps: Tensor  # [B, H, Q - 1], the prior's distances between neighbouring quantiles
    unit: Tensor  # [B, 1], the noise of one step

    def __getitem__(self, rows: "Tensor | slice") -> "Inputs":
        return Inputs(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @classmethod
    def join(cls, parts: "Sequence[Inputs]") -> "Inputs":
        """One after the other along B."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


class Preparation:
    """Scales contexts, lays the bases beside them and asks the prior what to make of these."""

    def __init__(self, config: Config, prior: Prior, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.prior = prior if device.type == "cpu" else copy.deepcopy(prior).to(device)
        R, H = config.history_length, config.horizon
        self._is_linear = config.bases == "linear"
        self._fixed = lay_fixed(R, H, config.season_lengths, device, deseasoned=self._is_linear)
        self.base_names = self._fixed.names
        self._compiled = self._compile()
        if self._is_linear:
            self._past = 0
            self._normal_gaps = self.to_tensor(np.diff(find_deviates(config.quantile_levels)))
            return
        self._fitted = lay_fitted(R, H, config.season_lengths, FITTED if config.bases == "all" else QUICK, device)
        self.base_names = (*self._fixed.names, *self._fitted.names)
        self._caution = CAUTION if len(config.season_lengths) < 2 else 0.0
        self._consenting = slice(len(self._fixed.names), None)
        self._slots = slot_numbers(self.base_names).to(device)
        self._past = choose_past(R, H)

    def _compile(self) -> CompiledPreparation | None:
        """The same in compiled code, where that was built and knows this kind."""
        library = load_library()
        if library is None or self.device.type != "cpu" or self.config.bases == "quick":
            return None
        weights = {f"prior.{name}": weight.detach().numpy() for name, weight in self.prior.state_dict().items()}
        return CompiledPreparation(library, self.config, weights)

    @property
    def base_count(self) -> int:
        return len(self.base_names)

    @property
    def feature_count(self) -> int:
        return WINDOW_FACTS + (1 if self._is_linear else 2) * self.base_count

    @property
    def reach(self) -> int:
        """How many observations before a cutoff are looked at."""
        return self.config.history_length + self._past

    def __call__(self, contexts: Floats) -> tuple[Inputs, Scaling]:
        """Contexts [B, any length], NaN = missing, the cutoff in the last column."""
        if self._compiled is not None:
            arrays, scalings = self._compiled(contexts)
            level, log, loc, scale, low, high = np.split(scalings, 6, 1)  # [B, 1] each
            return Inputs(*map(torch.from_numpy, arrays)), Scaling(level, log > 0, loc, scale, low, high)
        if self._is_linear:
            return self._lay_out(contexts)
        facts, inputs, scaling = self.describe(contexts)
        with torch.no_grad():
            logits, shift, gaps = self.prior(facts, self._slots)
            shift = shift * inputs.unit  # [B, H]
            answer = blend(logits, inputs.bases) + shift  # [B, H]
            shift = shift + self._caution * (inputs.bases[..., self._consenting].median(-1).values - answer)
            gaps = WIDENING * regroup_gaps(gaps, self.config.quantile_levels) * inputs.unit.unsqueeze(-1)
        return (
            Inputs(inputs.window, inputs.mask, inputs.features, inputs.bases, logits, shift, gaps, inputs.unit),
            scaling,
        )

    def _lay_out(self, contexts: Floats) -> tuple[Inputs, Scaling]:
        """Where there is so much to learn from that no prior is needed: the mean of the linear bases, normal widths."""
        L, H = self.config.context_length, self.config.horizon
        filled, seen, scaling = self._scale(contexts)  # [B, R], [B, R]
        bases = self._fixed(filled)  # [B, H, K]
        unit = measure_seasonal_change(filled[:, -L:], self.config.season_length).clamp(max=3.0)  # [B, 1]
        general = self._measure(filled, seen, unit, scaling)  # [B, WINDOW_FACTS]
        features = torch.cat([general, bases.mean(1)], 1)  # [B, F]
        gaps = (self._normal_gaps * unit).unsqueeze(1).expand(-1, H, -1)  # [B, H, Q - 1]
        nothing = torch.zeros_like(bases)  # [B, H, K]
        return Inputs(filled[:, -L:], seen[:, -L:], features, bases, nothing, nothing[..., 0], gaps, unit), scaling

    def _scale(self, contexts: Floats) -> tuple[Tensor, Tensor, Scaling]:
        """The window in its own units without gaps, where it was observed, both [B, reach], and what undoes the scaling."""
        config, L = self.config, self.config.context_length
        history = fit_length(contexts, self.reach)  # [B, reach]
        season = max((m for m in config.season_lengths if m <= L), default=1)
        scaling = fit_scaling(history, L, season, config.transformation)
        scaled = scaling.apply(history)  # [B, reach]
        return self.to_tensor(fill(scaled, config.season_length)), self.to_tensor(np.isfinite(scaled)), scaling

    def describe(self, contexts: Floats) -> tuple[Facts, Inputs, Scaling]:
        """The facts that the prior decides by, and the inputs but for its answer."""
        config, L, R = self.config, self.config.context_length, self.config.history_length
        filled, seen, scaling = self._scale(contexts)  # [B, R + past], [B, R + past]
        units = Units(self.to_tensor(scaling.loc), self.to_tensor(scaling.scale), self.to_tensor(scaling.log) > 0)
        bases, fit_errors, past = self._forecast(filled, seen, units)  # [B, H, K], [B, K], [B, H, K]
        past_errors = self._look_back(past, filled, seen)  # [B, K]
        unit = fit_errors.nan_to_num(torch.inf).min(1, keepdim=True).values.clamp(LEAST_UNIT, 3.0)  # [B, 1]
        general = self._measure(filled[:, -R:], seen[:, -R:], unit, scaling)  # [B, WINDOW_FACTS]
        facts = describe_windows(bases, past_errors, fit_errors, general, unit, self._slots, config.season_length)
        features = torch.cat([general, bases.mean(1), (past_errors / unit + 0.05).log().nan_to_num(0.0)], 1)  # [B, F]
        nothing = torch.empty(len(bases), 0, device=self.device)
        return facts, Inputs(filled[:, -L:], seen[:, -L:], features, bases, nothing, nothing, nothing, unit), scaling

    def _forecast(self, filled: Tensor, seen: Tensor, units: Units) -> tuple[Tensor, Tensor, Tensor]:
        """All bases [B, H, K], their one-step errors [B, K], NaN for those that are not fitted, and all bases as of `past` steps
        before the cutoff [B, H, K]: one batch, since they are the same arithmetic."""
        B, past = len(filled), self._past
        history = torch.cat([filled[:, past:], filled[:, :-past]])  # [2B, R]
        mask = torch.cat([seen[:, past:], seen[:, :-past]])  # [2B, R]
        fitted, errors = self._fitted(history, mask, units.repeat(2))  # [2B, H, K fitted], [2B, K fitted]
        bases = torch.cat([self._fixed(history), fitted], -1)  # [2B, H, K]
        unknown = torch.full((B, bases.shape[-1] - errors.shape[-1]), torch.nan, device=self.device)  # [B, K fixed]
        return bases[:B], torch.cat([unknown, errors[:B]], -1), bases[B:]

    def _look_back(self, bases: Tensor, filled: Tensor, seen: Tensor) -> Tensor:
        """Mean absolute error of the bases [B, H, K] of `past` steps before the cutoff, [B, K]; NaN where too little was seen."""
        past = self._past
        happened, observed = filled[:, -past:], seen[:, -past:]  # [B, past], [B, past]
        errors = (bases[:, :past] - happened.unsqueeze(-1)).abs() * observed.unsqueeze(-1)  # [B, past, K]
        means = errors.sum(1) / observed.sum(1, keepdim=True)  # [B, K], NaN where nothing was observed
        known = seen[:, :-past].sum(1, keepdim=True) >= 3  # [B, 1]
        return torch.where(known, means, torch.nan)

    def _measure(self, history: Tensor, mask: Tensor, unit: Tensor, scaling: Scaling) -> Tensor:
        """Facts about the window as a whole, [B, WINDOW_FACTS]."""
        m, count = self.config.season_length, mask.sum(1, keepdim=True)  # [B, 1]
        steps = history.diff(dim=1) if history.shape[1] > 1 else history  # [B, R - 1]
        roughness = steps.abs().mean(1, keepdim=True)  # [B, 1]
        turning = (steps[:, 1:] * steps[:, :-1]).mean(1, keepdim=True) / ((steps**2).mean(1, keepdim=True) + 1e-6)  # [B, 1]
        recent = history[:, -max(m, 4) :].mean(1, keepdim=True) - history[:, : -max(m, 4)].mean(1, keepdim=True)  # [B, 1]
        return torch.cat(
            [
                count.log1p() / 3,
                (count / m).clamp(max=10) / 5,
                torch.full_like(count, float(np.log(m)) / 3),
                torch.full_like(count, float(len(self.config.season_lengths) > 1)),
                unit.log(),
                (roughness / unit + 0.05).log(),
                turning.nan_to_num(0.0),
                torch.asinh(recent.nan_to_num(0.0) / unit),
                self.to_tensor(scaling.log.astype(np.float64)),
                self.to_tensor(np.log(scaling.scale)) / 3,
            ],
            1,
        )

    def join(self, parts: "Sequence[Inputs]") -> Inputs:
        return Inputs.join(parts)

    def weigh(self, inputs: Inputs) -> Tensor:
        """What each window counts in the loss, [B, 1]: between alike in its own units and alike in those of MASE."""
        return measure_seasonal_change(inputs.window, self.config.season_length) ** -0.5

    def to_tensor(self, array: "Floats | np.ndarray[tuple[int, ...], np.dtype[np.bool_]]") -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(self.device)


def measure_seasonal_change(window: Tensor, season_length: int) -> Tensor:
    """Mean absolute change over a season [B, 1], by which MASE divides (Hyndman & Koehler, 2006); [B, L] in."""
    lag = season_length if season_length < window.shape[1] else 1
    change = (window[:, lag:] - window[:, :-lag]).abs().mean(1, keepdim=True) if window.shape[1] > 1 else window.abs()
    return change.clamp(min=LEAST_UNIT)


@lru_cache(maxsize=16)
def lay_fixed(
    length: int, horizon: int, season_lengths: tuple[int, ...], device: torch.device, *, deseasoned: bool
) -> FixedBases:
    """Tables and nothing that is learned: most versions of a service have the same."""
    return FixedBases(length, horizon, season_lengths, device, deseasoned=deseasoned)


@lru_cache(maxsize=16)
def lay_fitted(
    length: int, horizon: int, season_lengths: tuple[int, ...], kinds: tuple[str, ...], device: torch.device
) -> FittedBases:
    """Tables, as above."""
    return FittedBases(length, horizon, season_lengths, kinds, device)


def blend(logits: Tensor, bases: Tensor) -> Tensor:
    """The mean of bases [..., K] by the softmax of their logits. Spelled out: torch's own is slow along a short last axis."""
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    return (weights * bases).sum(-1) / weights.sum(-1)
