"""Speed of the loop: python -m benchmarks.training [--seconds 3]

Windows learned per second and GFLOP/s of the whole step (forward, backward, update), beside a step-wise torch nn.LSTM on
the same windows and `torch.mm` in the same run, interleaved. What is counted are the matrix products of LSTM and dense
layers, twice again for the backward pass.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

from app.lstm.choices import choose
from app.lstm.config import Config, Request
from app.lstm.inputs import Preparation
from app.lstm.losses import pinball
from app.lstm.network import Network
from app.lstm.prior import load_prior
from app.lstm.trainer import draw_block
from app.lstm.windows import Series, TrainingWindows

CASES = ((96, 24), (336, 48))  # context length, horizon
HIDDEN = 64


def make(context_length: int, horizon: int) -> tuple[Config, Preparation, TrainingWindows]:
    rng = np.random.default_rng(0)
    steps = np.arange(1000)
    series = Series.of([10 + np.sin(2 * np.pi * steps / 24) + 0.3 * rng.standard_normal(1000) for _ in range(20)])
    request = Request(horizon=horizon, season_lengths=(24,), context_length=context_length, hidden_size=HIDDEN)
    config = choose(request, series, "cpu")
    return config, Preparation(config, load_prior(), torch.device("cpu")), TrainingWindows(series, horizon, 25)


def our_step(config: Config, prepare: Preparation, windows: TrainingWindows, batch: int) -> tuple[Callable[[], None], float]:
    """One step on a prepared batch, and its floating point operations."""
    network = Network(replace(config, dropout=0.0), prepare.feature_count, prepare.base_count)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    levels = torch.tensor(config.quantile_levels)
    inputs, target, observed = draw_block(windows.series, windows.cutoffs(np.arange(batch)), prepare)

    def step() -> None:
        loss = pinball(network(inputs), target, observed, levels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    patches = -(-config.context_length // config.patch_length)
    lstm = patches * 4 * HIDDEN * (2 * config.patch_length + HIDDEN)
    dense = sum(layer.in_features * layer.out_features for layer in network.modules() if isinstance(layer, nn.Linear))
    return step, 6.0 * batch * (lstm + dense)


def stepwise(context_length: int, horizon: int, batch: int) -> tuple[Callable[[], None], float]:
    """torch nn.LSTM over single observations with a dense layer, as most services have it."""
    lstm, out = nn.LSTM(1, HIDDEN, batch_first=True), nn.Linear(HIDDEN, horizon)
    parameters = [*lstm.parameters(), *out.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    window, target = torch.randn(batch, context_length, 1), torch.randn(batch, horizon)

    def step() -> None:
        loss = (out(lstm(window)[0][:, -1]) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step, 6.0 * batch * (context_length * 4 * HIDDEN * (1 + HIDDEN) + HIDDEN * horizon)


def matmul() -> tuple[Callable[[], None], float]:
    a, b, c = torch.randn(1024, 1024), torch.randn(1024, 1024), torch.empty(1024, 1024)

    def step() -> None:
        torch.mm(a, b, out=c)

    return step, 2.0 * 1024**3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[str, tuple[Callable[[], None], float, int]] = {"torch.mm 1024": (*matmul(), 1)}
    for context_length, horizon in CASES:
        made = make(context_length, horizon)
        for batch in (32, 256):
            runs[f"ours {context_length} -> {horizon}, batch {batch}"] = (*our_step(*made, batch), batch)
        runs[f"nn.LSTM {context_length} -> {horizon}, batch 64"] = (*stepwise(context_length, horizon, 64), 64)
        _, prepare, windows = made
        runs[f"preparation {context_length} -> {horizon}"] = (
            lambda p=prepare, w=windows: draw_block(w.series, w.cutoffs(np.arange(512)), p),
            0.0,
            512,
        )
    spent, count = dict.fromkeys(runs, 0.0), dict.fromkeys(runs, 0)
    for step, _, _ in runs.values():
        step()
    while min(spent.values()) < arguments.seconds:
        for name, (step, _, _) in runs.items():
            started = time.process_time()
            while time.process_time() - started < 0.2:
                step()
                count[name] += 1
            spent[name] += time.process_time() - started
    for name, (_, operations, batch) in runs.items():
        rate = count[name] / spent[name]
        print(f"{name:36s} {rate * batch:12,.0f} windows/s {rate * operations / 1e9:8.1f} GFLOP/s")


if __name__ == "__main__":
    main()
