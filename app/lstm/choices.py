"""What nobody asked for is chosen from the data, and each choice says why."""

import math
from dataclasses import dataclass

import numpy as np

from app.lstm.config import MAX_CONTEXT_LENGTH, Config, Request
from app.lstm.device import choose_precision
from app.lstm.seasons import choose_season_lengths
from app.lstm.tables import choose_history_length
from app.lstm.textbook import choose_textbook
from app.lstm.windows import Series, TrainingWindows

LONGEST_PATCH = 48
MANY_WINDOWS, MANY_EACH, MANY_SERIES = 50_000, 150, 50
"""Windows of all series, and of each, and series: from here on a net finds out by itself what a prior and fitted forecasts would
tell it. Of a few series, however long, it learns the past by heart."""


GRADIENT_CLIP = 1.0
MOST_PREPARED = 2048
"""The largest batch of the default network."""
MORE_ON_CUDA = 4
"""As many windows more in each batch: they cost a GPU nothing, and a batch eight times as large was measured to learn worse."""


@dataclass(frozen=True)
class Amount:
    """What suits trainings of up to so many windows. A net with few of them must not learn them by heart."""

    windows: float
    hidden_size: int
    nets: int
    steps: int
    batch_size: int
    learning_rate: float
    dropout: float
    weight_decay: float
    net_weight: float
    more: float = 0.25
    """Of the steps: what a net that was judged learns on top, with the windows it was judged on among the rest."""


AMOUNTS = (
    Amount(2_000, 32, nets=1, steps=300, batch_size=32, learning_rate=1e-3, dropout=0.3, weight_decay=0.05, net_weight=0.25),
    Amount(30_000, 64, nets=2, steps=600, batch_size=32, learning_rate=1e-3, dropout=0.3, weight_decay=0.1, net_weight=0.5),
    Amount(math.inf, 64, nets=2, steps=1200, batch_size=32, learning_rate=2e-3, dropout=0.3, weight_decay=0.1, net_weight=0.75),
)
LONG_SERIES = Amount(
    math.inf,
    64,
    nets=3,
    steps=500,
    batch_size=128,
    learning_rate=1e-2,
    dropout=0.0,
    weight_decay=1e-4,
    net_weight=1.0,
    more=0.5,
)


def choose(
    request: Request,
    series: Series,
    device: str,
    halvings: int = 0,
    *,
    whole: Series | None = None,
    unscored: Series | None = None,
) -> Config:
    """The resolved config; `steps` is still without a time budget, which needs a clock. Batches are halved so many times.

    `series` are what nets learn from first. What is held back from them counts for lengths (`whole`), and all of it that no backtest
    scores for seasons (`unscored`): of a short series too little is left else.
    """
    whole = series if whole is None else whole
    unscored = series if unscored is None else unscored
    reasons: dict[str, str] = {}
    if request.season_lengths is not None:
        seasons = tuple(sorted(set(request.season_lengths) - {1}))[:2]
        reasons["season_lengths"] = "as asked"
    else:
        seasons = choose_season_lengths(unscored, request.candidate_season_lengths, whole)
        found = ", ".join(map(str, seasons)) or "none"
        reasons["season_lengths"] = f"of {list(request.candidate_season_lengths)}, calendar and autocorrelation say {found}"

    typical = int(np.median(whole.lengths))
    if request.context_length is not None:
        context_length = request.context_length
        reasons["context_length"] = "as asked"
    else:
        # The plain network takes a step for each observation: the shortest season is what it can learn from.
        read = seasons[:1] if request.architecture == "plain" else seasons
        context_length = choose_context_length(read, request.horizon, typical)
        what = "of the shortest season" if read != seasons else "seasons"
        reasons["context_length"] = f"a few {what} that fit into a typical series of {typical} observations"
    patch_length = min(context_length, choose_patch_length(seasons))
    reasons["patch_length"] = "one step of the LSTM per season" if seasons else "short patches where there is no season"

    long = int(np.quantile(whole.lengths, 0.9))
    share = positive_share(series)
    transformation = "log" if share >= 0.5 else "none"
    reasons["transformation"] = f"{share:.0%} of the series are positive throughout; windows that are not take no logarithm"
    contexts = len(TrainingWindows(series, request.horizon, context_length))
    is_long = len(series) >= MANY_SERIES and contexts >= max(MANY_WINDOWS, MANY_EACH * len(series))
    windows = contexts if is_long else len(TrainingWindows(series, request.horizon, least_context(seasons, context_length)))
    bases = "linear" if is_long else "all"
    history_length = context_length if is_long else choose_history_length(seasons, context_length, long, request.horizon)
    reasons["bases"] = f"by the {windows} windows there are to learn from"
    amount = LONG_SERIES if is_long else next(amount for amount in AMOUNTS if windows < amount.windows)
    fitting = int(
        min(amount.batch_size * (MORE_ON_CUDA if device == "cuda" else 1), max(16, 2 ** round(math.log2(max(windows, 1) / 4))))
    )
    batch_size = max(1, min(windows, MOST_PREPARED)) if request.batch_size == "all" else request.batch_size or fitting
    batch_size = max(1, batch_size >> halvings)
    steps = request.max_steps or amount.steps
    reasons["steps"] = "as asked" if request.max_steps else f"by the {windows} windows there are to learn from"
    if request.max_epochs is not None:
        epoch = math.ceil(windows / batch_size)
        steps = min(steps, request.max_epochs * epoch) if request.max_steps else request.max_epochs * epoch
        reasons["steps"] = f"{request.max_epochs} epochs of {epoch} steps"
    reasons["batch_size"] = "as asked" if request.batch_size else "small batches learn most per second on one core"
    reasons["nets"] = f"by the {windows} windows there are to learn from"
    for name in ("hidden_size", "dropout", "learning_rate", "weight_decay"):
        asked = getattr(request, name) is not None
        reasons[name] = "as asked" if asked else f"by the {windows} windows there are to learn from"
    reasons["num_layers"] = "as asked" if request.num_layers else "a second layer was measured to gain nothing"
    reasons["history_length"] = "what the window's classical forecasts are made from"
    reasons["more_steps"] = "on the newest windows too, once the net was judged without them"
    config = Config(
        optimizer=request.optimizer,
        horizon=request.horizon,
        quantile_levels=request.quantile_levels,
        season_lengths=seasons,
        context_length=context_length,
        patch_length=patch_length,
        history_length=history_length,
        transformation=transformation,
        bases=bases,
        hidden_size=request.hidden_size or amount.hidden_size,
        num_layers=request.num_layers or 1,
        dropout=amount.dropout if request.dropout is None else request.dropout,
        learning_rate=request.learning_rate or amount.learning_rate,
        batch_size=batch_size,
        weight_decay=amount.weight_decay if request.weight_decay is None else request.weight_decay,
        l1=request.l1,
        gradient_clip=GRADIENT_CLIP if request.gradient_clip is None else request.gradient_clip,
        steps=max(1, steps),
        more_steps=round(amount.more * max(1, steps)),
        nets=amount.nets,
        net_weight=amount.net_weight,
        target_loss=request.target_loss,
        seed=request.seed,
        device=device,
        precision=choose_precision(device),
        threads=request.threads,
        reasons=reasons,
    )
    return choose_textbook(request, series, config, halvings) if request.architecture == "plain" else config


def positive_share(series: Series) -> float:
    """The share of series without a zero or negative observation."""
    bad = np.concatenate([[0], np.cumsum(series.values <= 0)])  # [N + 1], NaN is not
    return float(np.mean(bad[series.offsets[1:]] == bad[series.offsets[:-1]]))


def least_seen(config: Config) -> int:
    """How many observations a window must have before its cutoff to be learned from; where series are long only whole ones."""
    whole = config.is_textbook or config.bases == "linear"
    return config.context_length if whole else least_context(config.season_lengths, config.context_length)


def least_context(season_lengths: tuple[int, ...], context_length: int) -> int:
    """How many observations a training window should have seen, where its series allows it."""
    return min(context_length, max(season_lengths, default=3) + 1)


def choose_context_length(season_lengths: tuple[int, ...], horizon: int, typical: int) -> int:
    """Two seasons of a long one, more of a short one; never more than half of what a typical series can give."""
    longest = max(season_lengths, default=1)
    wanted = max(10, min(2 * horizon, 64)) if longest == 1 else longest * max(2, math.ceil(48 / longest))
    wanted = max(wanted, min(2 * horizon, 512))
    shortest = min(season_lengths, default=1)
    room = max(typical - horizon, shortest + 2, 4)
    fitting = min(wanted, room, MAX_CONTEXT_LENGTH)
    return fitting // shortest * shortest if fitting >= shortest else fitting


def choose_patch_length(season_lengths: tuple[int, ...]) -> int:
    """The shortest season, or its largest part that keeps patches short."""
    if not season_lengths:
        return 4
    shortest = min(season_lengths)
    if shortest <= LONGEST_PATCH:
        return shortest
    divisors = [d for d in range(4, LONGEST_PATCH + 1) if shortest % d == 0]
    return max(divisors, default=24)
