"""What training lowers. Every loss is a mean over what was observed: output [B, H, O], target [B, H], observed [B, H] of 0 and 1 -> scalar."""

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
HUBER = 1.0
"""Where Huber's loss turns from a square into a line, in the windows' units."""


def make_loss(name: str, levels: tuple[float, ...], device: torch.device) -> Loss:
    """By its name in a request. `quantile` takes an output for each level, the others the one of a point forecast."""
    if name == "quantile":
        wanted = torch.tensor(levels, device=device)  # [Q]
        return lambda output, target, observed: pinball(output, target, observed, wanted)
    formula = POINT_LOSSES[name]
    return lambda output, target, observed: average(formula(target.unsqueeze(-1) - output), observed.unsqueeze(-1))


def pinball(quantiles: Tensor, target: Tensor, observed: Tensor, levels: Tensor) -> Tensor:
    """Mean quantile loss (Koenker & Bassett, 1978) over what was observed, doubled: at 0.5 it is the absolute error.

    quantiles [B, H, Q], target [B, H], observed [B, H] of 0 and 1, levels [Q] -> scalar.
    """
    error = target.unsqueeze(-1) - quantiles  # [B, H, Q]
    losses = torch.maximum(levels * error, (levels - 1) * error).mean(-1)  # [B, H]
    return 2 * (losses * observed).sum() / observed.sum().clamp(min=1)


def huber(error: Tensor) -> Tensor:
    """Half the square near zero, a line of the same slope beyond (Huber, 1964)."""
    size = error.abs()
    return torch.where(size <= HUBER, 0.5 * error**2, HUBER * (size - 0.5 * HUBER))


POINT_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {"mse": lambda error: error * error, "mae": torch.abs, "huber": huber}


def average(losses: Tensor, observed: Tensor) -> Tensor:
    """[B, H, 1] -> scalar. Whatever could be reshaped instead has no gradient: that costs less."""
    return (losses * (observed / observed.sum().clamp(min=1))).sum()
