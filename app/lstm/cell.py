"""The LSTM cell of Hochreiter & Schmidhuber (1997) with the forget gate of Gers, Schmidhuber & Cummins (2000), for any activation.

    i, f, o = sigmoid(x W_x + h W_h + b) each, g = activation(x W_x + h W_h + b)
    c' = f c + i g,  h' = o activation(c')

torch's own knows tanh alone. The gradient is written out by hand: a step is eight small operations, a fraction of what
autograd would record, and the weights' gradient is one matrix product over all steps.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid}
SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda y: 1 - y**2,
    "relu": lambda y: (y > 0).to(y.dtype),
    "sigmoid": lambda y: y * (1 - y),
}
"""The derivative of each by what it gave."""
HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
ONEDNN_LSTM = 2
"""Its number among torch's recurrent networks."""


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
        if self.activation == "tanh":
            if suits_onednn(inputs):
                return self._run_onednn(inputs)
            still = inputs.new_zeros(self.num_layers, len(inputs), self.hidden_size)  # [layers, B, hidden]
            flat: list[Any] = self._flat_weights
            last: Tensor  # [layers, B, hidden], by cuDNN, or by torch
            _, last, _ = torch.lstm(
                inputs, (still, still), flat, True, self.num_layers, self.dropout, self.training, False, True
            )
            return last[-1]
        states: Tensor = inputs.transpose(0, 1)  # [T, B, features]
        with torch.autocast(inputs.device.type, enabled=False):
            for layer in range(self.num_layers):
                weights, recurrent, bias = (getattr(self, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih"))
                gates = nn.functional.linear(states.to(weights.dtype), weights, bias)  # [T, B, 4 hidden]
                if layer + 1 < self.num_layers or torch.is_grad_enabled():
                    states = Recurrence.apply(gates, recurrent, self.activation)  # type: ignore[no-untyped-call] # [T, B, hidden]
                else:
                    return run_cell(gates, recurrent, self.activation, None)
                if layer + 1 < self.num_layers:
                    states = nn.functional.dropout(states, self.dropout, self.training)
        return states[-1]

    def _run_onednn(self, inputs: Tensor) -> Tensor:
        """What `torch.lstm` comes to on a CPU, layer by layer, without what it does there for other cases: views and stacks of
        all layers' states, and their gradients."""
        still, hidden = inputs.new_zeros(1, len(inputs), self.hidden_size), self.hidden_size  # [1, B, hidden]
        states, last = inputs.transpose(0, 1).contiguous(), still  # [T, B, features], [1, B, hidden]
        for layer in range(self.num_layers):
            weights: list[Any] = self._flat_weights[4 * layer : 4 * layer + 4]
            of_inputs, of_states, bias, zeros = weights
            if layer and self.dropout:
                states = nn.functional.dropout(states, self.dropout, self.training)
            states, last, _, _ = torch.mkldnn_rnn_layer(
                states,
                of_inputs,
                of_states,
                bias,
                zeros,
                still,
                still,
                False,
                [],
                ONEDNN_LSTM,
                hidden,
                1,
                True,
                False,
                False,
                self.training,
            )
        return last.squeeze(0)


def suits_onednn(inputs: Tensor) -> bool:
    """What `torch.lstm` asks before it takes oneDNN, but for weights of other kinds, which are never here."""
    is_plain = inputs.dtype == torch.float32 and inputs.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return HAS_ONEDNN and is_plain and inputs.numel() > 0


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
