"""What a textbook would choose where nobody asked: plain defaults in place of what suits the data best. numpy only."""

import math
from dataclasses import replace

import numpy as np

from app.errors import InvalidRequest
from app.lstm.config import Config, Request
from app.lstm.scaling import fit_scaling
from app.lstm.windows import Series, TrainingWindows

HIDDEN_SIZE = 50
EPOCHS = 100
MOST_STEPS, READ_EACH = 3000, 96
"""Where neither steps, epochs nor seconds were asked for; fewer in proportion where windows have more observations than that:
each is a step of the LSTM, and so long a training takes well under a minute of one core."""
BATCH_SIZE = 32
LARGEST_BATCH = 65_536
LEARNING_RATES = {"adamw": 1e-3, "adam": 1e-3, "rmsprop": 1e-3, "sgd": 1e-2, "momentum": 1e-2}
SHORTEST_SCALED = 8
"""A window with fewer observations has no spread of its own worth dividing by."""
MOST_LOOKED_AT = 1_000_000


def choose_textbook(request: Request, series: Series, config: Config, halvings: int = 0) -> Config:
    """`config`, which was chosen for the default network, as a plain one has it. Raises InvalidRequest for a batch too large."""
    windows = max(1, len(TrainingWindows(series, request.horizon, config.context_length)))
    if request.batch_size == "all" and windows > LARGEST_BATCH:
        raise InvalidRequest(
            f"batch_size 'all' would be {windows} windows, at most {LARGEST_BATCH} go at once; choose fewer series or a batch_size",
            field="batch_size",
        )
    batch_size = windows if request.batch_size == "all" else min(windows, request.batch_size or BATCH_SIZE)
    batch_size = max(1, batch_size >> halvings)
    epoch = math.ceil(windows / batch_size)
    most = math.ceil(MOST_STEPS * min(1, READ_EACH / config.context_length))
    steps, why = min(EPOCHS * epoch, most), f"{EPOCHS} epochs, or {most} steps if that is fewer"
    if request.max_seconds is not None:
        steps, why = EPOCHS * epoch, f"{EPOCHS} epochs, or as many steps as the time allows"
    if request.max_epochs is not None:
        steps, why = request.max_epochs * epoch, f"{request.max_epochs} epochs of {epoch} steps"
    if request.max_steps is not None:
        steps, why = min(request.max_steps, steps if request.max_epochs else request.max_steps), "as asked"
    scaling = None
    if len(series) == 1 or config.context_length < SHORTEST_SCALED:
        scaling = scale_dataset(series)
    reasons = {name: config.reasons[name] for name in ("season_lengths", "context_length")} | {
        "steps": why,
        "batch_size": "as asked" if request.batch_size else "a common default",
        "hidden_size": "as asked" if request.hidden_size else "a common default",
        "learning_rate": "as asked" if request.learning_rate else f"the usual one of {request.optimizer}",
        "scaling": "by the mean and spread of the whole dataset" if scaling else "each window by its own mean and spread",
    }
    return replace(
        config,
        architecture="plain",
        activation=request.activation,
        loss=request.loss,
        patch_length=1,
        history_length=config.context_length,
        transformation="none",
        bases="none",
        hidden_size=request.hidden_size or HIDDEN_SIZE,
        dropout=request.dropout or 0.0,
        learning_rate=request.learning_rate or LEARNING_RATES[request.optimizer],
        batch_size=batch_size,
        weight_decay=request.weight_decay or 0.0,
        gradient_clip=request.gradient_clip,
        input_noise=request.input_noise,
        steps=steps,
        more_steps=steps,
        epoch_steps=epoch,
        nets=1,
        net_weight=1.0,
        scaling=scaling,
        reasons=reasons,
    )


def prepare_final_fit(config: Config, request: Request, series: Series) -> Config:
    """As many epochs, of all windows there are now, in the units of before: what was decided there stays true."""
    windows = max(1, len(TrainingWindows(series, config.horizon, config.context_length)))
    whole = request.batch_size == "all" and config.epoch_steps == 1  # not where memory was short
    batch_size = min(windows, LARGEST_BATCH) if whole else config.batch_size
    epoch = math.ceil(windows / batch_size)
    if request.max_steps or request.max_seconds:
        return replace(config, batch_size=batch_size, epoch_steps=epoch)
    epochs = config.steps / config.epoch_steps
    reasons = {**config.reasons, "steps": f"{epochs:g} epochs of {epoch} steps"}
    steps = round(epochs * epoch)
    return replace(config, batch_size=batch_size, epoch_steps=epoch, steps=steps, more_steps=steps, reasons=reasons)


def scale_dataset(series: Series) -> tuple[float, ...]:
    """Level, loc, scale, low and high of all observations together, of at most a million evenly taken ones."""
    values = series.values[:: math.ceil(len(series.values) / MOST_LOOKED_AT)]
    values = values if np.isfinite(values).any() else series.values
    one = fit_scaling(values[None], len(values), len(values), "none")
    return tuple(float(number[0, 0]) for number in (one.level, one.loc, one.scale, one.low, one.high))
