"""The optimizers of the textbooks; the learning rate is given with each step.

`torch.optim` computes the same, and on its first step imports torch's compiler: a second and 70 MB for every process that
trains. AdamW and Adam run torch's own fused kernel.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.999)
EPSILON = 1e-8
MOMENTUM = 0.9
MEMORY = 0.9
"""How much of its mean square RMSprop keeps."""

STATES = {"sgd": 0, "momentum": 1, "rmsprop": 1, "adam": 2, "adamw": 2}
"""How many numbers each optimizer keeps beside a weight."""


class Optimizer:
    """Moves every parameter that has a gradient.

    `weight_decay` is L2 for all of them: added to the gradient, but for adamw, which takes it from the weights themselves
    (Loshchilov & Hutter, 2019).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], name: str, weight_decay: float) -> None:
        self._parameters = [one for one in parameters if one.requires_grad]
        self._decay = 0.0 if name in ("adam", "adamw") else weight_decay
        state = [[torch.zeros_like(one) for one in self._parameters] for _ in range(STATES[name])]
        self._ages = [0] * len(self._parameters)
        self._name, self._state, self._weight_decay = name, state, weight_decay

    def clear(self) -> None:
        for one in self._parameters:
            one.grad = None

    def to_tensors(self) -> dict[str, Tensor]:
        """All that it remembers, for a training that is to go on later."""
        kept = {f"state.{at}.{index}": one for at, tensors in enumerate(self._state) for index, one in enumerate(tensors)}
        return {**kept, "ages": torch.tensor(self._ages)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `to_tensors`."""
        for at, kept in enumerate(self._state):
            for index, one in enumerate(kept):
                one.copy_(tensors[f"state.{at}.{index}"])
        self._ages = tensors["ages"].tolist()

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        moved = [index for index, one in enumerate(self._parameters) if one.grad is not None]
        parameters: list[Tensor] = [self._parameters[index] for index in moved]
        gradients = [gradient for one in self._parameters if (gradient := one.grad) is not None]
        state = [[tensors[index] for index in moved] for tensors in self._state]
        if self._decay:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=self._decay))
        match self._name:
            case "sgd":
                torch._foreach_add_(parameters, gradients, alpha=-learning_rate)
            case "momentum":  # Polyak (1964)
                torch._foreach_mul_(state[0], MOMENTUM)
                torch._foreach_add_(state[0], gradients)
                torch._foreach_add_(parameters, state[0], alpha=-learning_rate)
            case "rmsprop":  # Tieleman & Hinton (2012)
                torch._foreach_mul_(state[0], MEMORY)
                torch._foreach_addcmul_(state[0], gradients, gradients, 1 - MEMORY)
                roots = torch._foreach_add(torch._foreach_sqrt(state[0]), EPSILON)
                torch._foreach_addcdiv_(parameters, gradients, roots, -learning_rate)
            case _:  # Kingma & Ba (2015)
                for index in moved:
                    self._ages[index] += 1
                ages = {age: parameters[0].new_full((), age, dtype=torch.float32) for age in {self._ages[i] for i in moved}}
                (torch._fused_adamw_ if self._name == "adamw" else torch._fused_adam_)(
                    parameters,
                    gradients,
                    state[0],
                    state[1],
                    [],
                    [ages[self._ages[index]] for index in moved],
                    lr=learning_rate,
                    beta1=BETAS[0],
                    beta2=BETAS[1],
                    weight_decay=self._weight_decay,
                    eps=EPSILON,
                    amsgrad=False,
                    maximize=False,
                )


@torch.no_grad()
def measure_gradient(parameters: Iterable[nn.Parameter]) -> float:
    """The norm of the whole gradient."""
    gradients = [gradient for one in parameters if (gradient := one.grad) is not None]
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))


@torch.no_grad()
def clip_gradient(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """The norm of the whole gradient, which is then scaled to be at most `limit` (Pascanu et al., 2013)."""
    parameters = list(parameters)
    norm = measure_gradient(parameters)
    if norm > limit:
        torch._foreach_mul_([gradient for one in parameters if (gradient := one.grad) is not None], limit / (norm + 1e-6))
    return norm
