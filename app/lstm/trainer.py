"""The loop: blocks of windows are drawn and scaled once, then learned batch by batch; every schedule runs by step."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from app.errors import TrainingDiverged
from app.lstm.architectures import AnyPreparation, build_network
from app.lstm.config import Config
from app.lstm.inputs import Inputs
from app.lstm.losses import Loss, make_loss
from app.lstm.objective import make_objective
from app.lstm.optimizer import Optimizer, clip_gradient, measure_gradient
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

CHECKS, TEXTBOOK_CHECKS = 4, 20
"""How often the averaged weights are scored on held-out windows; the best of them stay. A textbook's are only looked at."""
SMOOTHING = 10
"""Steps over which the loss is averaged before it is compared with its target; a textbook's over an epoch."""


@dataclass(frozen=True)
class StepReport:
    """What happened in one step; `step` counts from 1 in each network. The gradient's norm is known until the next one begins."""

    step: int
    loss: float
    learning_rate: float
    measure_norm: Callable[[], float]
    validation_loss: float | None = None

    @property
    def gradient_norm(self) -> float:
        return self.measure_norm()


Watch = Callable[[Callable[[], LoopState]], None]
Block = tuple[Inputs | Tensor, Tensor, Tensor]
"""Inputs of B windows, their targets [B, H] in the windows' units, and what each counts [B, H], 0 where it was not observed."""


def train_network(
    windows: TrainingWindows,
    prepare: AnyPreparation,
    config: Config,
    number: int,
    on_step: Callable[[StepReport], None],
    *,
    held_out: Block | None = None,
    learned: nn.Module | None = None,
    saved: LoopState | None = None,
    watch: Watch | None = None,
) -> nn.Module:
    """One net of the ensemble, by its `number`: a new one, or what `learned` becomes when it goes on for `more_steps`.

    With `held_out` the best of its averaged weights stay, else the last; of a textbook's always the last. With `saved` it goes on
    from there; `watch` is told after each step but the last how to capture where it stands. Raises TrainingDiverged when the loss is no longer
    finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed * 1009 + number)
        rng = np.random.default_rng([config.seed, number, learned is not None])
        network = build_network(prepare).to(prepare.device)
        steps, peak = config.steps, config.learning_rate
        if learned is not None:
            network.load_state_dict(learned.state_dict())
            steps, peak = config.more_steps, config.learning_rate * MORE_RATE
        if steps:
            draw = draw_epochs if config.is_textbook else draw_batches
            batches = draw(windows, prepare, config, rng, skip=0 if saved is None else saved.step)
            _train(network.train(), batches, config, steps, peak, held_out, on_step, saved, watch)
        return network.eval()


def _train(
    network: nn.Module,
    batches: Iterator[Block],
    config: Config,
    steps: int,
    peak: float,
    held_out: Block | None,
    on_step: Callable[[StepReport], None],
    saved: LoopState | None,
    watch: Watch | None,
) -> None:
    device = next(network.parameters()).device
    measure = make_loss(config.loss, config.quantile_levels, device)
    lower = make_objective(network, measure, config, device)
    parameters = list(network.parameters())
    optimizer = Optimizer(parameters, config.optimizer, config.weight_decay)
    textbook = config.is_textbook
    averaged = {name: value.detach() if textbook else value.detach().clone() for name, value in network.named_parameters()}
    best, least, smooth, begun = averaged, math.inf, 0.0, 0
    if saved is not None:
        best, least, smooth, begun = saved.restore(network, averaged, optimizer), saved.least, saved.smooth, saved.step
    every = max(1, steps // (TEXTBOOK_CHECKS if textbook else CHECKS))
    for step, (inputs, target, observed) in enumerate(batches, start=begun + 1):
        rate = peak if textbook else peak * schedule(step, steps)
        loss = lower(inputs, target, observed)
        if config.l1:
            loss = loss + config.l1 * torch.stack([weights.abs().sum() for weights in network.parameters()]).sum()
        optimizer.clear()
        loss.backward()  # type: ignore[no-untyped-call]
        measure_norm = partial(measure_gradient, parameters)  # which costs something, and is looked at now and then
        if config.gradient_clip is not None:
            measure_norm = partial(float, clip_gradient(parameters, config.gradient_clip))
        optimizer.step(rate)
        if not textbook:
            with torch.no_grad():
                keep = min(AVERAGING, step / (step + 10))
                torch._foreach_lerp_(list(averaged.values()), [p.detach() for p in parameters], 1 - keep)
        value, score = float(loss.detach()), None
        smooth += (value - smooth) / min(step, config.epoch_steps if textbook else SMOOTHING)
        ended = step == steps or (config.target_loss is not None and smooth <= config.target_loss)
        if held_out is not None and (ended or step % every == 0):
            score = score_held_out(network, averaged, held_out, measure)
            if score < least and not textbook:
                least, best = score, {name: one.clone() for name, one in averaged.items()}
        if not (math.isfinite(value) and math.isfinite(score or 0.0)):
            raise diverged(step, steps, loss=value, validation_loss=score)
        on_step(StepReport(step, value, rate, measure_norm, score))
        if ended:
            break
        if watch is not None:
            watch(partial(LoopState.of, step, least, smooth, network, averaged, {} if best is averaged else best, optimizer))
    network.load_state_dict(averaged if held_out is None else best)
    if not all(bool(weights.isfinite().all()) for weights in network.parameters()):
        raise diverged(steps, steps, weights=math.inf)


def diverged(step: int, steps: int, **found: float | None) -> TrainingDiverged:
    """Names what was no finite number."""
    what = ", ".join(f"{name} {number}" for name, number in found.items() if number is not None and not math.isfinite(number))
    return TrainingDiverged(f"not a finite number at step {step} of {steps}: {what}; lower the learning rate", step=step)


@torch.no_grad()
def score_held_out(network: nn.Module, weights: dict[str, Tensor], held_out: Block, measure: Loss) -> float:
    """The loss on windows that nothing is learned from, with these weights in place of the network's own."""
    inputs, target, observed = held_out
    network.eval()
    output: Tensor = torch.func.functional_call(network, weights, (inputs,))  # [B, H, O]
    network.train()
    return float(measure(output, target, observed))


def schedule(step: int, steps: int) -> float:
    """The share of the learning rate at a step, 1 .. steps: a linear warm-up, then a cosine (Loshchilov & Hutter, 2017)."""
    warm = max(1, round(WARM_UP * steps))
    if step <= warm:
        return step / warm
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm + 1))


def draw_batches(
    windows: TrainingWindows, prepare: AnyPreparation, config: Config, rng: np.random.Generator, *, skip: int = 0
) -> Iterator[Block]:
    """Endless batches of (inputs, target [B, H], observed [B, H]); few windows are all prepared once, many in blocks.

    The first `skip` batches are gone through, for the sake of those behind them, and not prepared.
    """
    if config.bases == "linear":
        yield from draw_fresh(windows, prepare, config, rng, skip=skip)
        return
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


def draw_fresh(
    windows: TrainingWindows, prepare: AnyPreparation, config: Config, rng: np.random.Generator, *, skip: int
) -> Iterator[Block]:
    """The same of windows that are cheap to prepare and more than can be learned: each is drawn for one step."""
    at_once = max(1, PREPARED // config.batch_size)
    while True:
        numbers = rng.integers(len(windows), size=at_once * config.batch_size)
        passed, skip = min(skip, at_once), max(0, skip - at_once)
        if passed == at_once:
            continue
        inputs, target, observed = draw_block(windows.series, windows.cutoffs(numbers), prepare)
        for at in range(passed * config.batch_size, len(numbers), config.batch_size):
            batch = slice(at, at + config.batch_size)
            yield inputs[batch], target[batch], observed[batch]


def draw_epochs(
    windows: TrainingWindows, prepare: AnyPreparation, config: Config, rng: np.random.Generator, *, skip: int = 0
) -> Iterator[Block]:
    """Endless epochs: every window once in each, in an order drawn anew, the last batch of each being what is left; the first
    `skip` batches are gone through and not prepared."""
    size = max(1, BLOCK // config.batch_size) * config.batch_size
    small = len(windows) <= size
    block = draw_block(windows.series, windows.cutoffs(np.arange(len(windows))), prepare) if small else None
    while True:
        order = rng.permutation(len(windows))
        for numbers in np.split(order, range(size, len(order), size)):
            batches = range(0, len(numbers), config.batch_size)
            passed, skip = min(skip, len(batches)), max(0, skip - len(batches))
            if passed == len(batches):
                continue
            if block is None:
                inputs, target, observed = draw_block(windows.series, windows.cutoffs(numbers), prepare)
            else:
                rows = torch.from_numpy(numbers).to(prepare.device)
                inputs, target, observed = block[0][rows], block[1][rows], block[2][rows]
            for at in batches[passed:]:
                batch = slice(at, at + config.batch_size)
                yield inputs[batch], target[batch], observed[batch]


def draw_block(series: Series, cutoffs: Cutoffs, prepare: AnyPreparation) -> Block:
    """The windows at these cutoffs, ready. Prepared in small parts: what is worked on stays near the processor."""
    parts = [_draw_block(series, cutoffs[at : at + PREPARED], prepare) for at in range(0, len(cutoffs), PREPARED)]
    inputs, targets, observed = zip(*parts, strict=True)
    return prepare.join(inputs), torch.cat(targets), torch.cat(observed)


def _draw_block(series: Series, cutoffs: Cutoffs, prepare: AnyPreparation) -> Block:
    contexts = gather_contexts(series, cutoffs, prepare.reach)  # [B, R]
    inputs: Any  # of the preparation's own kind
    inputs, scaling = prepare(contexts)
    targets = scaling.apply(gather_targets(series, cutoffs, prepare.config.horizon))  # [B, H]
    usable = np.isfinite(targets) & np.isfinite(contexts).any(1, keepdims=True)  # [B, H]
    targets = np.clip(np.nan_to_num(targets), -FURTHEST_TARGET, FURTHEST_TARGET)
    return inputs, prepare.to_tensor(targets), prepare.to_tensor(usable) * prepare.weigh(inputs)
