"""The steps of an LSTM layer by compiled code (app/lstm/native/steps.c), and back through them. Which cell it is, app/lstm/cell.py says."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from app.lstm.compiled import ADDRESS, LANES, LONG, Library

NUMBERS = {"tanh": 0, "relu": 1, "sigmoid": 2}
"""As in app/lstm/native/steps.c."""


class Steps(ctypes.Structure):
    _fields_ = (
        *(
            (name, LONG)
            for name in ("steps", "rows", "features", "hidden", "padded", "activation", "keeps_all", "keeps_states")
        ),
        *((name, ADDRESS) for name in ("inputs", "from_input", "from_state", "bias", "gates", "cells", "squashed", "states")),
    )


def run_compiled(
    library: Library, inputs: Tensor, from_input: Tensor, from_state: Tensor, bias: Tensor, activation: str, only_last: bool
) -> Tensor:
    """What app/lstm/cell.py's `choose_way` asks for. Nothing is kept for a gradient where none is wanted."""
    given = inputs.contiguous(), from_input, from_state, bias
    if torch.is_grad_enabled():
        states: Tensor = CompiledLayer.apply(library, activation, only_last, *given)  # type: ignore[no-untyped-call]
        return states
    layer = CompiledSteps(library, activation, *given, keeps_all=False, keeps_states=not only_last)
    return layer.states[..., : layer.hidden]


class CompiledSteps:
    """One layer's pass by app/lstm/native/steps.c: inputs [T, B, features], contiguous -> states [T or 1, B, padded], and what
    their gradient needs. `padded` is `hidden` filled up with zeros to whole lanes."""

    def __init__(
        self,
        library: Library,
        activation: str,
        inputs: Tensor,
        from_input: Tensor,
        from_state: Tensor,
        bias: Tensor,
        *,
        keeps_all: bool,
        keeps_states: bool,
    ) -> None:
        T, B, features = inputs.shape
        self.hidden = from_state.shape[1]
        self.padded = padded = self.hidden + -self.hidden % LANES
        kept = T if keeps_all else 1
        self.gates = inputs.new_empty(kept, B, 4 * padded)
        self.cells, self.squashed = inputs.new_empty(kept, B, padded), inputs.new_empty(kept, B, padded)
        self.states = inputs.new_empty(T if keeps_states else 1, B, padded)
        given = inputs, from_input.detach().contiguous(), from_state.detach().contiguous(), bias.detach()
        self._given = given  # lives as long as what points at it
        self._struct = Steps(
            *(T, B, features, self.hidden, padded, NUMBERS[activation], keeps_all, keeps_states),
            *(tensor.data_ptr() for tensor in (*given, self.gates, self.cells, self.squashed, self.states)),
        )
        self._library, self._address = library, ctypes.addressof(self._struct)
        self._room = inputs.new_empty(library.count_step_room(self._address))
        library.run_steps(self._address, self._room.data_ptr())

    def go_back(self, by_states: Tensor) -> Tensor:
        """The loss's gradient by every h [T, B, padded], contiguous -> by the gates before activation [T, B, 4 * padded]."""
        by_gates = torch.empty_like(self.gates)
        self._library.run_steps_back(self._address, by_states.data_ptr(), by_gates.data_ptr(), self._room.data_ptr())
        return by_gates


class CompiledLayer(torch.autograd.Function):
    """`CompiledSteps` with its gradient; the weights' own are one matrix product each over all steps."""

    @staticmethod
    def forward(ctx: Any, library: Library, activation: str, only_last: bool, *given: Tensor) -> Tensor:
        """`given`: inputs, from_input, from_state, bias."""
        ctx.layer = CompiledSteps(library, activation, *given, keeps_all=True, keeps_states=True)
        ctx.save_for_backward(*given[:3])  # of which autograd then knows when they were changed meanwhile
        states: Tensor = ctx.layer.states[-1:] if only_last else ctx.layer.states
        return states[..., : ctx.layer.hidden]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, from_input, _ = ctx.saved_tensors
        layer: CompiledSteps = ctx.layer
        (upstream,) = gradients  # [T or 1, B, hidden]
        (T, B, features), hidden, padded = inputs.shape, layer.hidden, layer.padded
        by_states = torch.zeros_like(layer.states)  # [T, B, padded]
        by_states[-len(upstream) :, :, :hidden] = upstream
        by_gates = layer.go_back(by_states).view(T * B, 4 * padded)
        by_state = (by_gates[B:].T @ layer.states[:-1].view(-1, padded)).view(4, padded, padded)[:, :hidden, :hidden]
        by_input = (by_gates.T @ inputs.view(T * B, features)).view(4, padded, features)[:, :hidden]
        by_bias = by_gates.sum(0).view(4, padded)[:, :hidden]
        by_inputs = None
        if ctx.needs_input_grad[3]:
            plain = by_gates.view(T * B, 4, padded)[..., :hidden].reshape(T * B, 4 * hidden)
            by_inputs = (plain @ from_input).view(T, B, features)
        by_weights = by_input.reshape_as(from_input), by_state.reshape(-1, hidden), by_bias.reshape(-1)
        return None, None, None, by_inputs, *by_weights
