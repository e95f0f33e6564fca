"""What a step of a training lowers: a batch through a network to the loss.

The default network's last stretch, from its last layer to the quantile loss and back, is compiled code on a CPU
(app/lstm/native/pinball.c): by torch these many small sums cost more than the LSTM.
"""

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from app.lstm.compiled import ADDRESS, LONG, REAL, Library, load_library
from app.lstm.config import Config
from app.lstm.device import lower_precision
from app.lstm.inputs import Inputs
from app.lstm.losses import Loss
from app.lstm.network import Network
from app.lstm.tables import WIDEST

Objective = Callable[[Any, Tensor, Tensor], Tensor]
"""Inputs of B windows, target [B, H], observed [B, H] of what each counts -> the loss, a scalar with a gradient."""


def make_objective(network: nn.Module, measure: Loss, config: Config, device: torch.device) -> Objective:
    """`measure` of what the network answers; by compiled code where that was built and can (float32 on a CPU)."""
    library = load_library()
    is_plain = device.type == "cpu" and config.precision == "float32" and next(network.parameters()).dtype == torch.float32
    if isinstance(network, Network) and library is not None and is_plain:
        levels = torch.tensor(config.quantile_levels)  # [Q]
        return partial(run_compiled, library, network, levels)
    return partial(run_by_torch, network, measure, config.precision)


def run_by_torch(
    network: nn.Module, measure: Loss, precision: str, inputs: Inputs | Tensor, target: Tensor, observed: Tensor
) -> Tensor:
    with lower_precision(precision, target.device):
        output: Tensor = network(inputs)  # [B, H, O]
    return measure(output.float(), target, observed)


def run_compiled(
    library: Library, network: Network, levels: Tensor, inputs: Inputs, target: Tensor, observed: Tensor
) -> Tensor:
    given = inputs.bases, inputs.logits, inputs.shift, inputs.gaps, target, observed, levels
    loss: Tensor = CompiledPinball.apply(library, network.shape, network.middle, network.read(inputs), *given)  # type: ignore[no-untyped-call]
    return loss


class Pinball(ctypes.Structure):
    _fields_ = (
        *((name, LONG) for name in ("rows", "horizon", "bases", "quantiles", "middle")),
        ("widest", REAL),
        *(
            (name, ADDRESS)
            for name in ("out", "forecasts", "logits", "shift", "gaps", "target", "observed", "levels", "by_out")
        ),
    )


class CompiledPinball(torch.autograd.Function):
    """A net's last layer [B, H * (K + Q + 1)] -> the quantile loss of what it answers; its gradient is computed along with it."""

    @staticmethod
    def forward(ctx: Any, library: Library, shape: tuple[int, int, int], middle: int, out: Tensor, *given: Tensor) -> Tensor:
        """`given`: forecasts, logits, shift, gaps, target, observed, levels, as in app/lstm/native/engine.h."""
        by_out = torch.empty_like(out)
        tensors = [tensor.contiguous() for tensor in (out, *given)]
        struct = Pinball(len(out), *shape, middle, WIDEST, *(tensor.data_ptr() for tensor in tensors), by_out.data_ptr())
        address = ctypes.addressof(struct)
        room = torch.empty(library.count_pinball_room(address))
        loss = library.run_pinball(address, room.data_ptr())
        ctx.save_for_backward(by_out)
        return torch.tensor(loss)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (by_out,) = ctx.saved_tensors
        (upstream,) = gradients
        return (None, None, None, by_out if upstream == 1 else by_out * upstream, *(None,) * 7)
