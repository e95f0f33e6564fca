"""The LSTM cell of Hochreiter & Schmidhuber (1997) with the forget gate of Gers, Schmidhuber & Cummins (2000), for any activation.

    i, f, o = sigmoid(x W_x + h W_h + b) each, g = activation(x W_x + h W_h + b)
    c' = f c + i g,  h' = o activation(c')

On a CPU compiled code runs it (app/lstm/steps.py). Here is what runs elsewhere: torch's own LSTM, which knows tanh alone, and for the
others a gradient written out by hand: a step is eight small operations, a fraction of what autograd would record, and the weights'
gradient is one matrix product over all steps.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from app.lstm.compiled import load_library
from app.lstm.steps import run_compiled

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid}
SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda y: 1 - y**2,
    "relu": lambda y: (y > 0).to(y.dtype),
    "sigmoid": lambda y: y * (1 - y),
}
"""The derivative of each by what it gave."""


class LstmStack(nn.LSTM):
    """`torch.nn.LSTM` over [B, T, features] with any activation: the same weights by the same names, the same gate order.

    One bias, as in the equations: the second one that torch has stays zero. Weights begin as in Keras: Glorot & Bengio (2010)
    for the inputs, orthogonal for the states (Saxe et al., 2014), a forget gate that starts open (Jozefowicz et al., 2015).
    """

    def __init__(self, features: int, hidden: int, num_layers: int, activation: str, dropout: float) -> None:
        super().__init__(features, hidden, num_layers, batch_first=True, dropout=dropout if num_layers > 1 else 0.0)
        self.activation = activation
        for name, weights in self.named_parameters():
            if name.startswith("weight_ih"):
                nn.init.xavier_uniform_(weights)
            elif name.startswith("weight_hh"):
                nn.init.orthogonal_(weights)
            else:
                nn.init.zeros_(weights)
                if name.startswith("bias_ih"):
                    nn.init.ones_(weights.data[hidden : 2 * hidden])
                else:
                    weights.requires_grad_(False)

    def last_state(self, inputs: Tensor) -> Tensor:
        """[B, T, features] -> the last layer's h after the last step, [B, hidden]."""
        return find_last_state(self, inputs, self.activation)


def find_last_state(lstm: nn.LSTM, inputs: Tensor, activation: str) -> Tensor:
    """[B, T, features] -> the last layer's h after the last step, [B, hidden], from h = c = 0.

    By compiled code where it was built and can (float32 on a CPU), else by torch: for tanh by its own, for others step by step.
    """
    run = choose_way(inputs, activation)
    if run is None:
        still = inputs.new_zeros(lstm.num_layers, len(inputs), lstm.hidden_size)  # [layers, B, hidden]
        flat: list[Any] = lstm._flat_weights
        last: Tensor  # [layers, B, hidden], by cuDNN, or by torch
        _, last, _ = torch.lstm(inputs, (still, still), flat, True, lstm.num_layers, lstm.dropout, lstm.training, False, True)
        return last[-1]
    states = inputs.transpose(0, 1)  # [T, B, features]
    with torch.autocast(inputs.device.type, enabled=False):
        for layer in range(lstm.num_layers):
            weights = [getattr(lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            states = run(
                states.to(weights[0].dtype), *weights[:2], weights[2] + weights[3], activation, layer + 1 == lstm.num_layers
            )
            if layer + 1 < lstm.num_layers:
                states = nn.functional.dropout(states, lstm.dropout, lstm.training)
    return states[-1]


def choose_way(inputs: Tensor, activation: str) -> Callable[..., Tensor] | None:
    """What runs a layer over inputs [T, B, features]; None where torch has something for the whole stack.

    Given are the weights from the inputs [4 hidden, features], from the states [4 hidden, hidden], the bias [4 hidden], the
    activation, and whether the last step alone is asked for. Comes back: states [T or 1, B, hidden].
    """
    is_plain = inputs.dtype == torch.float32 and inputs.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    library = load_library()
    if is_plain and inputs.numel() and library is not None:
        return partial(run_compiled, library)
    return None if activation == "tanh" else run_by_torch


def run_by_torch(
    inputs: Tensor, from_input: Tensor, from_state: Tensor, bias: Tensor, activation: str, only_last: bool
) -> Tensor:
    """What `choose_way` asks for, of any precision and on any device."""
    gates = nn.functional.linear(inputs, from_input, bias)  # [T, B, 4 hidden]
    if only_last and not torch.is_grad_enabled():
        return run_cell(gates, from_state, activation, None).unsqueeze(0)
    states: Tensor = Recurrence.apply(gates, from_state, activation)  # type: ignore[no-untyped-call] # [T, B, hidden]
    return states


class Recurrence(torch.autograd.Function):
    """The steps of one layer: gates [T, B, 4 hidden] before activation without the states' share, recurrent weights
    [4 hidden, hidden] -> states [T, B, hidden]. Gates lie in torch's order: i, f, g, o."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, recurrent: Tensor, activation: str) -> Tensor:
        T, B, wide = gates.shape
        record = Record(*(gates.new_empty(T, B, width) for width in (wide, wide // 4, wide // 4, wide // 4)))
        run_cell(gates, recurrent, activation, record)
        ctx.save_for_backward(recurrent, record.gates, record.cells, record.squashed, record.states)
        ctx.activation = activation
        return record.states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        recurrent, gates, cells, squashed, states = ctx.saved_tensors
        (upstream,) = gradients  # [T, B, hidden], by the loss of every step's h
        slope, hidden = SLOPES[ctx.activation], recurrent.shape[1]
        i, f, g, o = gates.split(hidden, -1)  # [T, B, hidden] each
        slopes = gates * (1 - gates)  # [T, B, 4 hidden]
        slopes[..., 2 * hidden : 3 * hidden] = slope(g)
        through = o * slope(squashed)  # [T, B, hidden], from h to c
        before = torch.cat([torch.zeros_like(cells[:1]), cells[:-1]])  # [T, B, hidden], c of the step before
        by_gates = torch.empty_like(gates)  # [T, B, 4 hidden]
        by_cell = torch.zeros_like(cells[0])  # [B, hidden]
        by_state = upstream[-1]  # [B, hidden]
        for t in range(len(gates) - 1, -1, -1):
            by_cell = torch.addcmul(by_cell, by_state, through[t])
            one = by_gates[t]  # [B, 4 hidden]
            torch.mul(by_cell, g[t], out=one[:, :hidden])
            torch.mul(by_cell, before[t], out=one[:, hidden : 2 * hidden])
            torch.mul(by_cell, i[t], out=one[:, 2 * hidden : 3 * hidden])
            torch.mul(by_state, squashed[t], out=one[:, 3 * hidden :])
            one.mul_(slopes[t])
            if t:
                by_cell = by_cell * f[t]
                by_state = torch.addmm(upstream[t - 1], one, recurrent)
        by_recurrent = by_gates[1:].flatten(0, 1).T @ states[:-1].flatten(0, 1)  # [4 hidden, hidden]
        return by_gates, by_recurrent, None


class Record:
    """What a pass leaves behind for its gradient, [T, B, ...] each: the gates, c, activation(c) and h."""

    def __init__(self, gates: Tensor, cells: Tensor, squashed: Tensor, states: Tensor) -> None:
        self.gates, self.cells, self.squashed, self.states = gates, cells, squashed, states


def run_cell(gates: Tensor, recurrent: Tensor, activation: str, record: Record | None) -> Tensor:
    """Step after step from h = c = 0; the last h [B, hidden]. Without a record nothing is kept of the steps before."""
    activate, hidden = ACTIVATIONS[activation], recurrent.shape[1]
    weights = recurrent.T  # [hidden, 4 hidden]
    state = cell = gates.new_zeros(gates.shape[1], hidden)  # [B, hidden]
    for t in range(len(gates)):
        kept = None if record is None else (record.gates[t], record.cells[t], record.squashed[t], record.states[t])
        opened_at, cell_at, squashed_at, state_at = kept or (None,) * 4
        before = torch.addmm(gates[t], state, weights) if t else gates[t]  # [B, 4 hidden]
        opened = torch.sigmoid(before, out=opened_at)
        candidate = opened[:, 2 * hidden : 3 * hidden]
        candidate.copy_(activate(before[:, 2 * hidden : 3 * hidden]))
        i, f, o = opened[:, :hidden], opened[:, hidden : 2 * hidden], opened[:, 3 * hidden :]
        cell = torch.addcmul(f * cell, i, candidate, out=cell_at)  # [B, hidden]
        squashed = activate(cell) if squashed_at is None else squashed_at.copy_(activate(cell))
        state = torch.mul(o, squashed, out=state_at)
    return state
