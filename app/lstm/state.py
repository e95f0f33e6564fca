"""What a training under way has learned so far, as bytes to go on from: the nets that are done, and the loop of the one at work.

Going on gives what an uninterrupted training gives, to the last bit: weights, their averages and the best of them, the optimizer,
the step and torch's random state are kept; the order of the windows follows from the seed and is gone through again without work.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from app.lstm.config import Config
from app.lstm.optimizer import Optimizer

FORMAT = 1
"""Raised when the tensors or numbers change their meaning: a training then begins anew."""
Offer = Callable[[int, Callable[[], bytes]], None]
"""Is given, after each step, how many are done and what makes the bytes; whoever listens calls it when they are wanted."""


@dataclass(frozen=True)
class LoopState:
    """The loop of one net after `step`; `best` is empty as long as nothing was scored."""

    step: int
    least: float
    smooth: float
    weights: dict[str, Tensor]
    averaged: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    random: dict[str, Tensor]

    @classmethod
    def of(
        cls,
        step: int,
        least: float,
        smooth: float,
        network: nn.Module,
        averaged: dict[str, Tensor],
        best: dict[str, Tensor],
        optimizer: Optimizer,
    ) -> "LoopState":
        device = next(network.parameters()).device
        random = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(device)
        return cls(step, least, smooth, network.state_dict(), averaged, best, optimizer.to_tensors(), random)

    def restore(self, network: nn.Module, averaged: dict[str, Tensor], optimizer: Optimizer) -> dict[str, Tensor]:
        """Puts everything back in its place; the best weights so far, which are the averaged ones while nothing was scored."""
        device = next(network.parameters()).device
        network.load_state_dict(self.weights)
        for name, tensor in averaged.items():
            tensor.copy_(self.averaged[name])
        optimizer.load_tensors(self.optimizer)
        torch.set_rng_state(self.random["cpu"])
        if "cuda" in self.random:
            torch.cuda.set_rng_state(self.random["cuda"], device)
        return {name: tensor.to(device) for name, tensor in self.best.items()} or averaged


@dataclass(frozen=True)
class Saved:
    """A state read back: `done` steps of the whole training, in net `number` of `phase`."""

    config: Config
    phase: str
    number: int
    done: int
    loop: LoopState
    nets: dict[str, dict[str, Tensor]]


class Journal:
    """Remembers the nets that are done, offers the state after each step, and knows what a training before this one left."""

    def __init__(self, config: Config, offer: Offer | None, saved: Saved | None, count_done: Callable[[], int]) -> None:
        self._config = config
        self._offer = offer
        self._saved = saved
        self._count_done = count_done
        self._nets: dict[str, dict[str, Tensor]] = {}
        self._phase = ""

    def enter(self, phase: str) -> "Journal":
        self._phase = phase
        return self

    def find(self, number: int) -> dict[str, Tensor] | None:
        """The weights of a net that was done already."""
        found = None if self._saved is None else self._saved.nets.get(f"{self._phase}.{number}")
        if found is not None:
            self._nets[f"{self._phase}.{number}"] = found
        return found

    def take_up(self, number: int) -> LoopState | None:
        """Where to go on, if this is the net that was at work."""
        saved = self._saved
        return saved.loop if saved is not None and (saved.phase, saved.number) == (self._phase, number) else None

    def finish(self, number: int, network: nn.Module) -> None:
        self._nets[f"{self._phase}.{number}"] = network.state_dict()

    def watch(self, number: int) -> Callable[[Callable[[], LoopState]], None] | None:
        """The listener of one net's loop."""
        offer, phase = self._offer, self._phase
        if offer is None:
            return None

        def watch(capture: Callable[[], LoopState]) -> None:
            done = self._count_done()
            offer(done, lambda: to_bytes(Saved(self._config, phase, number, done, capture(), self._nets)))

        return watch


def to_bytes(saved: Saved) -> bytes:
    """safetensors, with everything that is no tensor as JSON in its metadata."""
    tensors = {f"net.{net}.{name}": one for net, weights in saved.nets.items() for name, one in weights.items()}
    for part in ("weights", "averaged", "best", "optimizer", "random"):
        tensors |= {f"{part}.{name}": one for name, one in getattr(saved.loop, part).items()}
    about = {
        "format": FORMAT,
        "config": saved.config.to_dict(),
        **{name: getattr(saved, name) for name in ("phase", "number", "done")},
        **{name: getattr(saved.loop, name) for name in ("step", "least", "smooth")},
    }
    copies = {name: one.detach().cpu().clone().contiguous() for name, one in tensors.items()}
    return safetensors.torch.save(copies, metadata={"engram": json.dumps(about, sort_keys=True)})


def from_bytes(data: bytes) -> Saved | None:
    """The inverse of `to_bytes`; None for what another version wrote, or for what is damaged: the training begins anew."""
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = json.loads(header["__metadata__"]["engram"])
        if about["format"] != FORMAT:
            return None
        tensors = safetensors.torch.load(data)
        parts: dict[str, Any] = {name: {} for name in ("weights", "averaged", "best", "optimizer", "random")}
        nets: dict[str, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            part, _, name = path.partition(".")
            if part == "net":
                phase, number, name = name.split(".", 2)
                nets.setdefault(f"{phase}.{number}", {})[name] = tensor
            else:
                parts[part][name] = tensor
        loop = LoopState(about["step"], about["least"], about["smooth"], **parts)
        return Saved(Config.from_dict(about["config"]), about["phase"], about["number"], about["done"], loop, nets)
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError):
        return None
