"""The nets of an ensemble as one: their weights side by side, so that a forecast is one call and not one for each net.

The arithmetic is that of `Network.forward`, which trains; a test holds both to the same answers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from app.lstm.inputs import Inputs, blend
from app.lstm.network import Network, spread_quantiles
from app.lstm.tables import WIDEST


class Stack:
    """N nets of one shape, without dropout. A copy of their weights: what they learn afterwards is not in it."""

    def __init__(self, networks: Sequence[Network]) -> None:
        first = networks[0]
        self._shape, self._patch, self._middle = first.shape, first.patch, first.middle
        self._layers = [_gather_layer(networks, number) for number in range(first.lstm.num_layers)]
        places = [place for place, layer in enumerate(first.head) if isinstance(layer, nn.Linear)]
        self._head = [_gather_linear([network.head[place] for network in networks]) for place in places]
        self._out = _gather_linear([network.out for network in networks])

    def __call__(self, inputs: Inputs) -> Tensor:
        """-> what each net answers, [N, B, H, Q]."""
        H, K, Q = self._shape
        B, L = inputs.window.shape
        N = len(self._out[0])
        lead = -L % self._patch
        window = nn.functional.pad(inputs.window, (lead, 0)).view(B, -1, self._patch)  # [B, P, patch]
        mask = nn.functional.pad(inputs.mask, (lead, 0)).view(B, -1, self._patch)  # [B, P, patch]
        states = torch.cat([window, mask], -1).transpose(0, 1).expand(N, -1, -1, -1)  # [N, P, B, 2 * patch]
        for layer in self._layers:
            states = _run_layer(states, *layer)  # [N, P, B, hidden]
        known = torch.cat([inputs.window, inputs.features], -1).expand(N, -1, -1)  # [N, B, L + F]
        head = torch.cat([states[:, -1], known], -1)
        for weight, bias in self._head:
            head = nn.functional.gelu(torch.baddbmm(bias, head, weight))  # [N, B, 2 * hidden]
        out = torch.baddbmm(self._out[1], head, self._out[0])  # [N, B, H * (K + Q + 1)]
        logits, rest, trust = torch.split(out, [H * K, H * Q, H], -1)
        rest = rest.view(N, B, H, Q)
        trust = 1 + trust  # [N, B, H]
        mixed = blend(inputs.logits * trust.unsqueeze(-1) + logits.view(N, B, H, K), inputs.bases)  # [N, B, H]
        median = mixed + inputs.shift * trust + rest[..., 0]
        gaps = inputs.gaps * (WIDEST * torch.tanh(rest[..., 1:] / WIDEST)).exp()  # [N, B, H, Q - 1]
        return spread_quantiles(median, gaps, self._middle)


def _gather_linear(layers: Sequence[nn.Module]) -> tuple[Tensor, Tensor]:
    """weight [N, in, out] and bias [N, 1, out]."""
    weights = [layer.get_parameter("weight").detach().T for layer in layers]
    return torch.stack(weights).contiguous(), torch.stack([layer.get_parameter("bias").detach() for layer in layers]).unsqueeze(
        1
    )


def _gather_layer(networks: Sequence[Network], number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of one layer of the LSTM: from input [N, in, 4 * hidden], from state [N, hidden, 4 * hidden], bias [N, 1, 4 * hidden]."""

    def gather(name: str) -> Tensor:
        return torch.stack([network.lstm.get_parameter(f"{name}_l{number}").detach() for network in networks])

    bias = (gather("bias_ih") + gather("bias_hh")).unsqueeze(1)
    return gather("weight_ih").transpose(1, 2).contiguous(), gather("weight_hh").transpose(1, 2).contiguous(), bias


def _run_layer(inputs: Tensor, from_input: Tensor, from_state: Tensor, bias: Tensor) -> Tensor:
    """[N, P, B, in] -> the states [N, P, B, hidden] of an LSTM (Hochreiter & Schmidhuber, 1997) that begins at zero."""
    N, P, B, _ = inputs.shape
    hidden = from_state.shape[1]
    fed = torch.baddbmm(bias, inputs.reshape(N, P * B, -1), from_input).view(N, P, B, -1)  # [N, P, B, 4 * hidden]
    states: list[Tensor] = []
    cell = None
    for step in range(P):
        gates = torch.baddbmm(fed[:, step], states[-1], from_state) if states else fed[:, step]  # [N, B, 4 * hidden]
        opened = gates.sigmoid()
        taken = opened[..., :hidden] * gates[..., 2 * hidden : 3 * hidden].tanh()  # [N, B, hidden]
        cell = taken if cell is None else torch.addcmul(taken, opened[..., hidden : 2 * hidden], cell)
        states.append(opened[..., 3 * hidden :] * cell.tanh())
    return torch.stack(states, 1)
