"""The loop: blocks of windows are drawn and scaled once, then learned batch by batch; every schedule runs by step."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from app.errors import TrainingDiverged
from app.lstm.config import Config
from app.lstm.inputs import Inputs, Preparation
from app.lstm.losses import pinball
from app.lstm.network import Network
from app.lstm.optimizer import AdamW
from app.lstm.windows import TrainingWindows, gather_contexts, gather_targets

BLOCK = 2048
"""Windows prepared at once: bounds memory, and makes the preparation cost nothing beside the learning."""
PASSES = 4
"""Over a block before the next is drawn: preparing a window costs as much as learning from it a few times."""
WARM_UP = 0.1
AVERAGING = 0.995
FURTHEST_TARGET = 20.0
"""In spreads of the window: one wild observation must not own a batch."""


@dataclass(frozen=True)
class StepReport:
    """What happened in one step; `step` counts from 1 over all nets."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float


def train_network(
    windows: TrainingWindows, prepare: Preparation, config: Config, number: int, on_step: Callable[[StepReport], None]
) -> Network:
    """One net of the ensemble, by its `number`; raises TrainingDiverged when the loss is no longer finite."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed * 1009 + number)
        return _train_network(windows, prepare, config, number, on_step)


def _train_network(
    windows: TrainingWindows, prepare: Preparation, config: Config, number: int, on_step: Callable[[StepReport], None]
) -> Network:
    rng = np.random.default_rng([config.seed, number])
    network = Network(config, prepare.feature_count, prepare.base_count).to(prepare.device)
    levels = torch.tensor(config.quantile_levels, device=prepare.device)  # [Q]
    optimizer = AdamW(network.parameters(), config.weight_decay)
    averaged = {name: value.detach().clone() for name, value in network.named_parameters()}
    smooth = math.inf
    network.train()
    for step, (inputs, target, observed) in enumerate(draw_batches(windows, prepare, config, rng), start=1):
        rate = config.learning_rate * schedule(step, config.steps)
        loss = pinball(network(inputs), target, observed, levels)
        if config.l1:
            loss = loss + config.l1 * torch.stack([weights.abs().sum() for weights in network.parameters()]).sum()
        optimizer.clear()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
        optimizer.step(rate)
        with torch.no_grad():
            keep = min(AVERAGING, step / (step + 10))
            torch._foreach_lerp_(list(averaged.values()), [p.detach() for p in network.parameters()], 1 - keep)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingDiverged(f"the loss was {value} at step {step} of {config.steps}; lower the learning rate")
        smooth = value if step == 1 else 0.9 * smooth + 0.1 * value
        on_step(StepReport((number * config.steps) + step, value, rate, float(norm)))
        if step == config.steps or (config.target_loss is not None and smooth <= config.target_loss):
            break
    network.load_state_dict(averaged)
    return network.eval()


def schedule(step: int, steps: int) -> float:
    """The share of the learning rate at a step, 1 .. steps: a linear warm-up, then a cosine (Loshchilov & Hutter, 2017)."""
    warm = max(1, round(WARM_UP * steps))
    if step <= warm:
        return step / warm
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm + 1))


def draw_batches(
    windows: TrainingWindows, prepare: Preparation, config: Config, rng: np.random.Generator
) -> Iterator[tuple[Inputs, Tensor, Tensor]]:
    """Endless batches of (inputs, target [B, H], observed [B, H]); few windows are all prepared once, many in blocks."""
    small = len(windows) <= BLOCK
    block = None
    while True:
        if block is None or not small:
            numbers = np.arange(len(windows)) if small else rng.integers(len(windows), size=BLOCK)
            block = draw_block(windows, prepare, numbers)
        inputs, target, observed = block
        for _ in range(PASSES):
            order = torch.from_numpy(rng.permutation(len(target))).to(prepare.device)
            for rows in torch.split(order, config.batch_size):
                yield inputs[rows], target[rows], observed[rows]


def draw_block(
    windows: TrainingWindows, prepare: Preparation, numbers: "np.ndarray[tuple[int], np.dtype[np.int64]]"
) -> tuple[Inputs, Tensor, Tensor]:
    """The windows of these numbers, ready: inputs, target [B, H] in the window's units, observed [B, H] of 0 and 1."""
    cutoffs = windows.cutoffs(numbers)
    contexts = gather_contexts(windows.series, cutoffs, prepare.reach)  # [B, R]
    inputs, scaling = prepare(contexts)
    targets = scaling.apply(gather_targets(windows.series, cutoffs, prepare.config.horizon))  # [B, H]
    usable = np.isfinite(targets) & np.isfinite(contexts).any(1, keepdims=True)  # [B, H]
    targets = np.clip(np.nan_to_num(targets), -FURTHEST_TARGET, FURTHEST_TARGET)
    return inputs, prepare.to_tensor(targets), prepare.to_tensor(usable)
