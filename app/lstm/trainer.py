"""The loop: blocks of windows are drawn and scaled once, then learned batch by batch; every schedule runs by step."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from app.errors import TrainingDiverged
from app.lstm.config import Config
from app.lstm.inputs import Inputs, Preparation
from app.lstm.losses import pinball
from app.lstm.network import Network
from app.lstm.optimizer import AdamW
from app.lstm.state import LoopState
from app.lstm.windows import Cutoffs, Series, TrainingWindows, gather_contexts, gather_targets

BLOCK = 2048
"""Windows prepared at once: bounds memory, and makes the preparation cost nothing beside the learning."""
PREPARED = 512
PASSES = 8
"""Over a block before the next is drawn: preparing a window costs as much as learning from it a few times, and drawing
fresh ones for each pass was measured to gain nothing."""
WARM_UP = 0.1
MORE_RATE = 0.5
"""Of the learning rate, where a net that has learned goes on with the newest windows."""
AVERAGING = 0.995
FURTHEST_TARGET = 20.0
"""In spreads of the window: one wild observation must not own a batch."""


CHECKS = 4
"""How often the averaged weights are scored on held-out windows; the best of them stay."""


@dataclass(frozen=True)
class StepReport:
    """What happened in one step; `step` counts from 1 in each network."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    validation_loss: float | None = None


Watch = Callable[[Callable[[], LoopState]], None]
Block = tuple[Inputs, Tensor, Tensor]
"""Inputs of B windows, their targets [B, H] in the windows' units, and where these were observed [B, H], 0 or 1."""


def train_network(
    windows: TrainingWindows,
    prepare: Preparation,
    config: Config,
    number: int,
    on_step: Callable[[StepReport], None],
    *,
    held_out: Block | None = None,
    learned: Network | None = None,
    saved: LoopState | None = None,
    watch: Watch | None = None,
) -> Network:
    """One net of the ensemble, by its `number`: a new one, or what `learned` becomes when it goes on for `more_steps`.

    With `held_out` the best of its averaged weights stay, else the last. With `saved` it goes on from there; `watch` is told
    after each step but the last how to capture where it stands. Raises TrainingDiverged when the loss is no longer
    finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed * 1009 + number)
        rng = np.random.default_rng([config.seed, number, learned is not None])
        network = Network(config, prepare.feature_count, prepare.base_count).to(prepare.device)
        steps, peak = config.steps, config.learning_rate
        if learned is not None:
            network.load_state_dict(learned.state_dict())
            steps, peak = config.more_steps, config.learning_rate * MORE_RATE
        if steps:
            batches = draw_batches(windows, prepare, config, rng, skip=0 if saved is None else saved.step)
            _train(network.train(), batches, config, steps, peak, held_out, on_step, saved, watch)
        return network.eval()


def _train(
    network: Network,
    batches: Iterator[Block],
    config: Config,
    steps: int,
    peak: float,
    held_out: Block | None,
    on_step: Callable[[StepReport], None],
    saved: LoopState | None,
    watch: Watch | None,
) -> None:
    levels = torch.tensor(config.quantile_levels, device=next(network.parameters()).device)  # [Q]
    optimizer = AdamW(network.parameters(), config.weight_decay)
    averaged = {name: value.detach().clone() for name, value in network.named_parameters()}
    best, least, smooth, begun = averaged, math.inf, math.inf, 0
    if saved is not None:
        best, least, smooth, begun = saved.restore(network, averaged, optimizer), saved.least, saved.smooth, saved.step
    for step, (inputs, target, observed) in enumerate(batches, start=begun + 1):
        rate = peak * schedule(step, steps)
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
        value, score = float(loss.detach()), None
        if not math.isfinite(value):
            raise TrainingDiverged(f"the loss was {value} at step {step} of {steps}; lower the learning rate")
        smooth = value if step == 1 else 0.9 * smooth + 0.1 * value
        ended = step == steps or (config.target_loss is not None and smooth <= config.target_loss)
        if held_out is not None and (ended or step % max(1, steps // CHECKS) == 0):
            score = score_held_out(network, averaged, held_out, levels)
            if score < least:
                least, best = score, {name: one.clone() for name, one in averaged.items()}
        on_step(StepReport(step, value, rate, float(norm), score))
        if ended:
            break
        if watch is not None:
            watch(partial(LoopState.of, step, least, smooth, network, averaged, {} if best is averaged else best, optimizer))
    network.load_state_dict(averaged if held_out is None else best)


@torch.no_grad()
def score_held_out(network: Network, weights: dict[str, Tensor], held_out: Block, levels: Tensor) -> float:
    """The loss on windows that nothing is learned from, with these weights in place of the network's own."""
    inputs, target, observed = held_out
    network.eval()
    quantiles: Tensor = torch.func.functional_call(network, weights, (inputs,))  # [B, H, Q]
    network.train()
    return float(pinball(quantiles, target, observed, levels))


def schedule(step: int, steps: int) -> float:
    """The share of the learning rate at a step, 1 .. steps: a linear warm-up, then a cosine (Loshchilov & Hutter, 2017)."""
    warm = max(1, round(WARM_UP * steps))
    if step <= warm:
        return step / warm
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm + 1))


def draw_batches(
    windows: TrainingWindows, prepare: Preparation, config: Config, rng: np.random.Generator, *, skip: int = 0
) -> Iterator[Block]:
    """Endless batches of (inputs, target [B, H], observed [B, H]); few windows are all prepared once, many in blocks.

    The first `skip` batches are gone through, for the sake of those behind them, and not prepared.
    """
    small = len(windows) <= BLOCK
    block = None
    while True:
        numbers = np.arange(len(windows)) if small else rng.integers(len(windows), size=BLOCK)
        block = block if small else None
        for _ in range(PASSES):
            order = torch.from_numpy(rng.permutation(len(numbers))).to(prepare.device)
            for rows in torch.split(order, config.batch_size):
                if skip:
                    skip -= 1
                    continue
                block = draw_block(windows.series, windows.cutoffs(numbers), prepare) if block is None else block
                inputs, target, observed = block
                yield inputs[rows], target[rows], observed[rows]


def draw_block(series: Series, cutoffs: Cutoffs, prepare: Preparation) -> Block:
    """The windows at these cutoffs, ready. Prepared in small parts: what is worked on stays near the processor."""
    parts = [_draw_block(series, cutoffs[at : at + PREPARED], prepare) for at in range(0, len(cutoffs), PREPARED)]
    inputs, targets, observed = zip(*parts, strict=True)
    return Inputs.join(inputs), torch.cat(targets), torch.cat(observed)


def _draw_block(series: Series, cutoffs: Cutoffs, prepare: Preparation) -> Block:
    contexts = gather_contexts(series, cutoffs, prepare.reach)  # [B, R]
    inputs, scaling = prepare(contexts)
    targets = scaling.apply(gather_targets(series, cutoffs, prepare.config.horizon))  # [B, H]
    usable = np.isfinite(targets) & np.isfinite(contexts).any(1, keepdims=True)  # [B, H]
    targets = np.clip(np.nan_to_num(targets), -FURTHEST_TARGET, FURTHEST_TARGET)
    return inputs, prepare.to_tensor(targets), prepare.to_tensor(usable)
