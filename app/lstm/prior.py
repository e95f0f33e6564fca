"""What synthetic series taught once and for all: how much to trust each classical forecast, and how far it may be off.

A small network over descriptions of a window that do not depend on season, horizon or length, so that the same weights
serve every request. Every training starts from its answer. `benchmarks/train_prior.py` makes the weights.
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources

import safetensors.torch
import torch
from torch import Tensor, nn

from app.lstm.tables import HIDDEN, LEVELS, SLOTS, STEP_FACTS, WINDOW_FACTS, describe_steps, share_gaps

WEIGHTS = "prior.safetensors"


class Prior(nn.Module):
    """Facts about a window and a step ahead -> gate over the slots, shift of the median, gaps between quantiles."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = LEVELS.index(0.5)
        self.layers = nn.Sequential(
            nn.Linear(WINDOW_FACTS + STEP_FACTS + 4 * len(SLOTS), HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, len(SLOTS) + len(LEVELS)),
        )
        with torch.no_grad():
            self.layers[-1].weight.mul_(0.1)  # type: ignore[operator]
            self.layers[-1].bias.zero_()  # type: ignore[operator]

    def forward(self, facts: "Facts", slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Slots [K] of those that exist -> logits [B, H, K], shift [B, H], gaps [B, H, Q - 1] > 0."""
        weight, bias = self.layers[0].get_parameter("weight"), self.layers[0].get_parameter("bias")
        # The first layer in parts: most facts are of the window and the same at all its steps.
        shared, spread, ahead = torch.split(weight, [WINDOW_FACTS + 3 * len(SLOTS), len(SLOTS), STEP_FACTS], 1)
        hidden = facts.spread @ spread[:, slots].T  # [B, H, hidden]
        hidden = hidden + nn.functional.linear(facts.window, shared, bias).unsqueeze(1) + facts.ahead @ ahead.T
        out = self.layers[1:](hidden)  # [B, H, slots + Q]
        logits = out[..., slots]  # [B, H, K]
        rest = out[..., len(SLOTS) :]  # [B, H, Q]
        gaps = nn.functional.softplus(torch.cat([rest[..., : self.middle], rest[..., self.middle + 1 :]], -1))
        return logits, rest[..., self.middle], gaps


@dataclass(frozen=True)
class Facts:
    """What the prior decides by: of each window [B, WINDOW_FACTS + 3 * slots], where each base lies among all [B, H, K], and
    of each step ahead [H, STEP_FACTS]."""

    window: Tensor
    spread: Tensor
    ahead: Tensor

    def __getitem__(self, rows: Tensor) -> "Facts":
        return Facts(self.window[rows], self.spread[rows], self.ahead)

    def __len__(self) -> int:
        return len(self.window)


def regroup_gaps(gaps: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Gaps [B, H, Q - 1] between the prior's quantiles -> gaps [B, H, Q' - 1] between these levels, which hold 0.5."""
    return gaps @ torch.from_numpy(share_gaps(levels)).to(gaps)


def slot_numbers(base_names: tuple[str, ...]) -> Tensor:
    """Where each base has its place among the slots, [K]."""
    return torch.tensor([SLOTS.index(name) for name in base_names])


def describe_windows(
    bases: Tensor, past_errors: Tensor, fit_errors: Tensor, general: Tensor, unit: Tensor, slots: Tensor, season_length: int
) -> Facts:
    """bases [B, H, K]; past_errors [B, K], what each base would have got wrong a horizon ago, NaN where unknown;
    fit_errors [B, K] of one step, NaN where a base has none; general [B, WINDOW_FACTS]; unit [B, 1] of the noise.
    """
    B, H = bases.shape[:2]
    spread = torch.asinh((bases - bases.median(-1, keepdim=True).values) / unit.unsqueeze(-1))  # [B, H, K]
    blank = bases.new_zeros(B, 3 * len(SLOTS))
    blank[:, slots] = relative_logs(past_errors, unit)
    blank[:, len(SLOTS) + slots] = relative_logs(fit_errors, unit)
    blank[:, 2 * len(SLOTS) + slots] = 1.0
    ahead = torch.from_numpy(describe_steps(H, season_length)).to(bases)  # [H, STEP_FACTS]
    return Facts(torch.cat([general, blank], -1), spread, ahead)


def relative_logs(errors: Tensor, unit: Tensor) -> Tensor:
    """log(errors / unit) [B, K], bounded; 0 where NaN."""
    return ((errors / unit + 0.05).log() / 2).clamp(-2, 3).nan_to_num(0.0)


@cache
def load_prior() -> Prior:
    """The shipped weights; one frozen object for the whole process, moved nowhere: ask for a copy to change it."""
    prior = Prior()
    data = resources.files("app.lstm").joinpath(WEIGHTS).read_bytes()
    prior.load_state_dict(safetensors.torch.load(data))
    return prior.eval().requires_grad_(False)
