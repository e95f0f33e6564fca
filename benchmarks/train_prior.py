"""Makes app/lstm/prior.safetensors from synthetic series alone: python -m benchmarks.train_prior [--steps 16000]

About ten minutes on one core. The same seed and steps give the same weights.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from app.lstm.choices import choose_context_length, choose_history_length, choose_patch_length
from app.lstm.config import Config
from app.lstm.inputs import Preparation
from app.lstm.prior import LEVELS, WEIGHTS, Facts, Prior
from app.lstm.synthetic import make_series
from app.lstm.trainer import schedule

# season lengths, horizon, length of the history: what services are asked for, the common ones more often
SHAPES: list[tuple[tuple[int, ...], int, int]] = [
    *[((), h, n) for h in (4, 6, 8, 14) for n in (12, 25, 60, 120)],
    *[((4,), h, n) for h in (4, 8, 12) for n in (16, 40, 100)],
    *[((7,), h, n) for h in (7, 14, 30) for n in (40, 150, 336)],
    *[((12,), h, n) for h in (6, 12, 18, 24) for n in (30, 70, 140)],
    *[((24,), h, n) for h in (24, 48) for n in (120, 336)],
    *[((52,), h, n) for h in (13, 26, 52) for n in (120, 260)],
    *[((48,), h, 336) for h in (24, 48)],
    *[((24, 168), h, n) for h in (24, 48, 72, 168) for n in (400, 900)],
    *[((48, 336), h, 1000) for h in (48, 96, 48, 96)],
]
BLOCK, BATCH, PASSES = 1024, 128, 2


def plain_config(seasons: tuple[int, ...], horizon: int, length: int, bases: str) -> Config:
    context_length = choose_context_length(seasons, horizon, length + horizon)
    return Config(
        horizon=horizon,
        quantile_levels=LEVELS,
        season_lengths=seasons,
        context_length=context_length,
        patch_length=choose_patch_length(seasons),
        history_length=choose_history_length(seasons, context_length, length, horizon),
        transformation="log",
        bases=bases,
        hidden_size=1,
        num_layers=1,
        dropout=0.0,
        learning_rate=0.0,
        batch_size=BATCH,
        weight_decay=0.0,
        l1=0.0,
        gradient_clip=1.0,
        steps=1,
        nets=1,
        target_loss=None,
        seed=0,
        device="cpu",
        threads=1,
    )


def draw(
    rng: np.random.Generator, prior: Prior, ready: dict[tuple[int, str], Preparation]
) -> tuple[Facts, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """facts, bases, unit, target and observed of one block of windows, and the slots of its bases."""
    number = int(rng.integers(len(SHAPES)))
    seasons, horizon, length = SHAPES[number]
    bases = "quick" if rng.random() < (0.5 if len(seasons) > 1 else 0.15) else "all"
    if (number, bases) not in ready:
        ready[number, bases] = Preparation(plain_config(seasons, horizon, length, bases), prior, torch.device("cpu"))
    prepare = ready[number, bases]
    size = BLOCK if length <= 150 else BLOCK // 2
    values = make_series(rng, size, prepare.reach + horizon, seasons)  # [B, T + H]
    contexts, future = values[:, :-horizon], values[:, -horizon:]
    least = min(prepare.reach, max(3, max(seasons, default=2)))
    seen = rng.integers(least, prepare.reach + 1, (size, 1))
    contexts = np.where(np.arange(prepare.reach) >= prepare.reach - seen, contexts, np.nan)
    known = np.isfinite(contexts).sum(1) >= 3
    facts, inputs, scaling = prepare.describe(contexts[known])
    targets = scaling.apply(future[known])  # [B, H]
    return (
        facts,
        inputs.bases,
        inputs.unit,
        prepare.to_tensor(np.clip(np.nan_to_num(targets), -20, 20)),
        prepare.to_tensor(np.isfinite(targets)),
        prepare._slots,
    )


def quantiles_of(prior: Prior, facts: Facts, slots: Tensor, bases: Tensor, unit: Tensor) -> Tensor:
    logits, shift, gaps = prior(facts, slots)
    median = (logits.softmax(-1) * bases).sum(-1) / unit + shift  # [B, H], in units of the noise
    below = gaps[..., : prior.middle].flip(-1).cumsum(-1).flip(-1)
    above = gaps[..., prior.middle :].cumsum(-1)
    return torch.cat([median.unsqueeze(-1) - below, median.unsqueeze(-1), median.unsqueeze(-1) + above], -1)  # [B, H, Q]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=16000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("app/lstm") / WEIGHTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    prior, levels = Prior(), torch.tensor(LEVELS)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=2e-3, weight_decay=1e-3, fused=True)
    averaged = {name: value.clone() for name, value in prior.state_dict().items()}
    ready: dict[tuple[int, str], Preparation] = {}
    step, smooth, started = 0, 1.0, time.process_time()
    while step < arguments.steps:
        with torch.no_grad():
            facts, bases, unit, target, observed, slots = draw(rng, prior, ready)
        orders = [torch.from_numpy(rng.permutation(len(facts))) for _ in range(PASSES)]
        for rows in torch.cat(orders).split(BATCH):
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * schedule(min(step, arguments.steps), arguments.steps)
            quantiles = quantiles_of(prior, facts[rows], slots, bases[rows], unit[rows])  # [B, H, Q]
            error = (target[rows] / unit[rows]).unsqueeze(-1) - quantiles  # [B, H, Q]
            losses = torch.maximum(levels * error, (levels - 1) * error).mean(-1)  # [B, H]
            each = (losses * observed[rows]).sum(1) / observed[rows].sum(1).clamp(min=1)  # [B]
            loss = (each.clamp(max=50) + 0.3).log().mean()  # the logarithm, so that the wild ones do not decide
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                for name, value in prior.state_dict().items():
                    averaged[name].lerp_(value, 0.002)
            smooth += 0.01 * (float(loss.detach()) - smooth)
        if step % 500 < 16:
            print(f"step {step:6d}  log loss {smooth:.4f}  {time.process_time() - started:.0f} s", flush=True)
    safetensors.torch.save_file(averaged, arguments.out)


if __name__ == "__main__":
    main()
