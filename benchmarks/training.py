"""Speed of the loop: python -m benchmarks.training [--seconds 3]

Windows learned per second and GFLOP/s of whole steps as a training takes them (`train_network`: drawing windows, forward, backward,
clipping, update, averaging), beside a step-wise LSTM of torch and, where it is installed, of Keras on windows as long, and `torch.mm` in the
same run, interleaved. What is counted are the matrix products of LSTM and dense layers, twice again for the backward pass.

How long others take to forecasts as good, benchmarks/rivals.py says.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import torch
from torch import nn

from app.lstm.choices import choose
from app.lstm.config import Config, Request
from app.lstm.inputs import Preparation
from app.lstm.network import Network
from app.lstm.prior import load_prior
from app.lstm.trainer import draw_block, train_network
from app.lstm.windows import Series, TrainingWindows

CASES = (
    ("few series, 96 -> 24", 20, 96, 24, {"batch_size": 32}),
    ("few series, 96 -> 24, batch 256", 20, 96, 24, {"batch_size": 256}),
    ("many long series, 336 -> 48", 60, 336, 48, {}),
    ("many long series, 336 -> 48, hidden 256", 60, 336, 48, {"hidden_size": 256, "batch_size": 256}),
)
"""Name, series of 2,000 observations, context length, horizon, and what else is asked."""
UNTIMED, STEPS = 5, 40

Turn = Callable[[], tuple[float, float, float]]
"""One turn: windows learned, floating point operations, CPU seconds."""


def make_ours(count: int, context_length: int, horizon: int, asked: dict[str, Any]) -> Turn:
    rng = np.random.default_rng(0)
    steps = np.arange(2000)
    series = Series.of([10 + np.sin(2 * np.pi * steps / 24) + 0.3 * rng.standard_normal(2000) for _ in range(count)])
    request = Request(horizon=horizon, season_lengths=(24,), context_length=context_length, **asked)
    config = replace(choose(request, series, "cpu"), steps=UNTIMED + STEPS)
    prepare = Preparation(config, load_prior(), torch.device("cpu"))
    windows = TrainingWindows(series, horizon, context_length)
    per_window = count_operations(config, prepare)

    def turn() -> tuple[float, float, float]:
        marks: list[float] = []
        train_network(windows, prepare, config, 0, lambda _: marks.append(time.process_time()))
        learned = STEPS * config.batch_size
        return learned, learned * per_window, marks[-1] - marks[UNTIMED - 1]

    return turn


def count_operations(config: Config, prepare: Preparation) -> float:
    """Of one window in one step."""
    network = Network(config, prepare.feature_count, prepare.base_count)
    patches = -(-config.context_length // config.patch_length)
    lstm = patches * 4 * config.hidden_size * (2 * config.patch_length + config.hidden_size)
    return 6.0 * (lstm + sum(one.in_features * one.out_features for one in network.modules() if isinstance(one, nn.Linear)))


def make_preparation(count: int, context_length: int, horizon: int) -> Turn:
    """Windows with the prior and all fitted forecasts; each is learned from eight times."""
    series = Series.of([np.random.default_rng(n).standard_normal(2000).cumsum() for n in range(count)])
    config = choose(Request(horizon=horizon, season_lengths=(24,), context_length=context_length), series, "cpu")
    prepare, windows = Preparation(config, load_prior(), torch.device("cpu")), TrainingWindows(series, horizon, 25)

    def turn() -> tuple[float, float, float]:
        started = time.process_time()
        draw_block(series, windows.cutoffs(np.arange(512)), prepare)
        return 512, 0.0, time.process_time() - started

    return turn


def make_torch(context_length: int, horizon: int, hidden: int = 64, batch: int = 64) -> Turn:
    """torch nn.LSTM over single observations with a dense layer, as most services have it."""
    lstm, out = nn.LSTM(1, hidden, batch_first=True), nn.Linear(hidden, horizon)
    optimizer = torch.optim.AdamW([*lstm.parameters(), *out.parameters()], lr=1e-3, fused=True)
    window, target = torch.randn(batch, context_length, 1), torch.randn(batch, horizon)

    def turn() -> tuple[float, float, float]:
        started = time.process_time()
        loss = (out(lstm(window)[0][:, -1]) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return batch, batch * count_stepwise(context_length, horizon, hidden), time.process_time() - started

    return turn


def make_keras(context_length: int, horizon: int, hidden: int = 64, batch: int = 64) -> Turn:
    import keras

    model = keras.Sequential([keras.layers.Input((context_length, 1)), keras.layers.LSTM(hidden), keras.layers.Dense(horizon)])
    model.compile(optimizer="adamw", loss="mae")
    rng = np.random.default_rng(0)
    window, target = rng.standard_normal((batch * 4, context_length, 1)), rng.standard_normal((batch * 4, horizon))

    def turn() -> tuple[float, float, float]:
        started = time.process_time()
        model.fit(window, target, batch_size=batch, verbose=0)
        learned = 4 * batch
        return learned, learned * count_stepwise(context_length, horizon, hidden), time.process_time() - started

    return turn


def count_stepwise(context_length: int, horizon: int, hidden: int) -> float:
    return 6.0 * (context_length * 4 * hidden * (1 + hidden) + hidden * horizon)


def make_matmul() -> Turn:
    a, b, c = torch.randn(1024, 1024), torch.randn(1024, 1024), torch.empty(1024, 1024)

    def turn() -> tuple[float, float, float]:
        started = time.process_time()
        torch.mm(a, b, out=c)
        return 0, 2.0 * 1024**3, time.process_time() - started

    return turn


def list_turns() -> Iterator[tuple[str, Turn]]:
    yield "torch.mm 1024", make_matmul()
    for name, count, context_length, horizon, asked in CASES:
        yield f"ours, {name}", make_ours(count, context_length, horizon, asked)
    for context_length, horizon in ((96, 24), (336, 48)):
        yield f"preparation, {context_length} -> {horizon}", make_preparation(20, context_length, horizon)
        yield f"torch nn.LSTM, {context_length} -> {horizon}", make_torch(context_length, horizon)
        with suppress(ImportError):
            yield f"Keras, {context_length} -> {horizon}", make_keras(context_length, horizon)


def compare_loops(seconds: float) -> None:
    turns = dict(list_turns())
    for turn in turns.values():
        turn()
    spent = {name: [0.0, 0.0, 0.0] for name in turns}
    while min(total for _, _, total in spent.values()) < seconds:
        for name, turn in turns.items():
            before = spent[name][2]
            while spent[name][2] - before < 0.2:
                spent[name] = [one + other for one, other in zip(spent[name], turn(), strict=True)]
    _, operations, total = spent["torch.mm 1024"]
    most = operations / total
    for name, (windows, operations, total) in spent.items():
        rate = operations / total
        print(f"{name:46s} {windows / total:12,.0f} windows/s {rate / 1e9:8.1f} GFLOP/s {rate / most:6.2f} of torch.mm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    compare_loops(arguments.seconds)


if __name__ == "__main__":
    main()
