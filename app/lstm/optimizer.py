"""AdamW (Loshchilov & Hutter, 2019) over torch's own fused kernel.

`torch.optim.AdamW` computes the same, and on its first step imports torch's compiler: a second and 70 MB for every process that
trains.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class AdamW:
    """Decoupled weight decay; the learning rate is given with each step."""

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float) -> None:
        self._parameters = list(parameters)
        self._weight_decay = weight_decay
        self._means = [torch.zeros_like(one) for one in self._parameters]
        self._squares = [torch.zeros_like(one) for one in self._parameters]
        self._steps = [torch.zeros((), device=one.device) for one in self._parameters]

    def clear(self) -> None:
        for one in self._parameters:
            one.grad = None

    def to_tensors(self) -> dict[str, Tensor]:
        """All that it remembers, for a training that is to go on later."""
        parts = {"means": self._means, "squares": self._squares, "steps": self._steps}
        return {f"{part}.{index}": one for part, tensors in parts.items() for index, one in enumerate(tensors)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `to_tensors`."""
        for name, one in self.to_tensors().items():
            one.copy_(tensors[name])

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Moves every parameter that has a gradient."""
        moved = [index for index, one in enumerate(self._parameters) if one.grad is not None]

        def pick(tensors: list[Tensor]) -> list[Tensor]:
            return [tensors[index] for index in moved]

        adamw(
            [self._parameters[index] for index in moved],
            [gradient for one in self._parameters if (gradient := one.grad) is not None],
            pick(self._means),
            pick(self._squares),
            [],
            pick(self._steps),
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=learning_rate,
            weight_decay=self._weight_decay,
            eps=EPSILON,
            maximize=False,
        )
