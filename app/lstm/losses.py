"""What training lowers."""

import torch
from torch import Tensor


def pinball(quantiles: Tensor, target: Tensor, observed: Tensor, levels: Tensor) -> Tensor:
    """Mean quantile loss (Koenker & Bassett, 1978) over what was observed, doubled: at 0.5 it is the absolute error.

    quantiles [B, H, Q], target [B, H], observed [B, H] of 0 and 1, levels [Q] -> scalar.
    """
    error = target.unsqueeze(-1) - quantiles  # [B, H, Q]
    losses = torch.maximum(levels * error, (levels - 1) * error).mean(-1)  # [B, H]
    return 2 * (losses * observed).sum() / observed.sum().clamp(min=1)
