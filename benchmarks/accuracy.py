"""Accuracy per CPU second: python -m benchmarks.accuracy --data DIR [--sets m3_yearly singles] [--seeds 3] [--inner]

Every training is a zero-config request through `learn`. Seconds are CPU seconds of all that nets learn, on what came before the held-out
windows and then on everything, of what is chosen for it, and of the forecast; those of scoring the backtest stand beside. `--inner` scores at cutoffs
inside the train files: for choosing; without it the test files are looked at.
"""

import argparse
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from app.lstm import Forecaster, Progress, Request, Series, learn
from app.lstm.config import MAX_CONTEXT_LENGTH
from app.lstm.metrics import mase_scale, score
from app.lstm.windows import Floats
from benchmarks.naive2 import naive2
from benchmarks.series_sets import FREQUENCIES, SeriesSet, load, load_etth1, load_singles

ETT_HORIZON = 96


def train(
    history: list[Floats], horizon: int, candidates: tuple[int, ...], seed: int, **asked: Any
) -> tuple[Any, dict[str, float]]:
    """A zero-config training -> Learned and its CPU seconds, {"fit": .., "backtest": ..}: the latter are those between the last step
    that is learned before the backtest and the first after it."""
    started = time.process_time()
    judged = went_on = started

    def on_progress(progress: Progress) -> None:
        nonlocal judged, went_on
        if progress.phase == "backtest":
            judged = went_on = time.process_time()
        elif went_on == judged:
            went_on = time.process_time()

    request = Request(horizon=horizon, candidate_season_lengths=candidates, seed=seed, **asked)
    learned = learn(Series.of(history), request, on_progress=on_progress, clock=time.process_time)
    whole, backtest = time.process_time() - started, went_on - judged if judged > started else 0.0
    return learned, {"fit": whole - backtest, "backtest": backtest}


def stack_contexts(history: list[Floats]) -> Floats:
    """[S, 1024], NaN in front."""
    contexts = np.full((len(history), MAX_CONTEXT_LENGTH), np.nan)
    for row, values in zip(contexts, history, strict=True):
        row[-min(len(values), MAX_CONTEXT_LENGTH) :] = values[-MAX_CONTEXT_LENGTH:]
    return contexts


def score_set(series: SeriesSet, seed: int, **asked: Any) -> dict[str, Any]:
    """Scores, OWA by the M4 definition, seconds, and what was decided."""
    learned, seconds = train(series.history, series.horizon, series.candidates, seed, **asked)
    started = time.process_time()
    forecaster = Forecaster.from_bytes(learned.artifact)
    quantiles = forecaster.predict(stack_contexts(series.history))  # [S, H, Q]
    seconds["fit"] += time.process_time() - started
    actual = np.stack(series.future)  # [S, H]
    scales = np.array([mase_scale(h, series.season_length) for h in series.history])  # [S]
    ours = score(actual, quantiles, forecaster.quantile_levels, scales)
    reference = np.stack([naive2(h, series.horizon, series.season_length) for h in series.history])  # [S, H]
    naive = score(actual, reference[..., None], (0.5,), scales)
    ours["naive2"] = naive
    known = None not in (naive["smape"], naive["mase"])  # Naive2 divides by the history, which may be zero
    ours["owa"] = (ours["smape"] / naive["smape"] + ours["mase"] / naive["mase"]) / 2 if known else float("nan")
    return {**ours, "seconds": seconds, "weight": learned.config["net_weight"], "warnings": learned.warnings}


def print_set(data: Path, name: str, seeds: int, inner: bool, asked: dict[str, Any]) -> None:
    series = load(data, name)
    series = series.inner() if inner else series
    runs = [score_set(series, seed, **asked) for seed in range(seeds)]
    print(row(series.name, runs, ("owa", "smape", "mase", "msis")), flush=True)


def row(name: str, runs: list[dict[str, Any]], keys: tuple[str, ...]) -> str:
    """One line of the table: means over seeds."""
    cells = [f"{key} {np.mean([run[key] for run in runs]):.3f}" for key in keys]
    cells[0] += f" ±{np.std([run[keys[0]] for run in runs]):.3f}"
    cells += [f"coverage {level} {np.mean([run['coverage'][level] for run in runs]):.3f}" for level in ("0.8", "0.95")]
    fit, backtest = (np.mean([run["seconds"][part] for run in runs]) for part in ("fit", "backtest"))
    return (
        f"{name:24s} "
        + "  ".join(cells)
        + f"  {fit:.1f} s (and its backtest {backtest:.1f} s)  weights {[run['weight'] for run in runs]}"
    )


def print_singles(data: Path, seeds: int, inner: bool, asked: dict[str, Any]) -> None:
    """MASE over seasonal naive's: of each series over its origins, then the geometric mean."""
    ours, naive, runs = defaultdict(list), defaultdict(list), []
    for seed in range(seeds):
        for series in load_singles(data):
            part = series.inner(back=4) if inner else series
            run = score_set(part, seed, **asked)
            last = part.history[0][-part.season_length :]
            repeated = last[np.arange(part.horizon) % part.season_length]
            scale = mase_scale(part.history[0], part.season_length)
            ours[series.name].append(run["mase"])
            naive[series.name].append(float(np.abs(repeated - part.future[0]).mean() / scale))
            runs.append(run)
    ratios = {name: np.mean(ours[name]) / np.mean(naive[name]) for name in ours}
    for name, ratio in ratios.items():
        print(f"    {name:20s} {ratio:.3f}")
    mean = np.exp(np.mean(np.log(list(ratios.values()))))
    print(row("singles", [{**run, "ratio": mean} for run in runs], ("ratio", "mase", "msis"))[:150], flush=True)


def print_etth1(data: Path, seeds: int, inner: bool, asked: dict[str, Any]) -> None:
    """Every window of the test months, learned from the train months alone."""
    months, validation, test = load_etth1(data)
    whole = np.concatenate([months, validation, test], 1)  # [7, T]
    start, end = (
        (months.shape[1], months.shape[1] + validation.shape[1]) if inner else (whole.shape[1] - test.shape[1], whole.shape[1])
    )
    errors = []
    for seed in range(seeds):
        learned, seconds = train(list(months), ETT_HORIZON, (24, 168), seed, **asked)
        forecaster = Forecaster.from_bytes(learned.artifact)
        started, sums, count, inside = time.process_time(), np.zeros(2), 0, np.zeros(2)
        for channel in whole:
            at = np.arange(start, end - ETT_HORIZON + 1)
            contexts = channel[np.maximum(at[:, None] + np.arange(-MAX_CONTEXT_LENGTH, 0), 0)]
            actual = channel[at[:, None] + np.arange(ETT_HORIZON)]
            quantiles = forecaster.predict(contexts)
            error = quantiles[..., 3] - actual
            sums += (error**2).sum(), np.abs(error).sum()
            inside += [((actual >= quantiles[..., a]) & (actual <= quantiles[..., b])).sum() for a, b in ((1, 5), (0, 6))]
            count += error.size
        spent = time.process_time() - started
        errors.append([*sums / count, *inside / count, seconds["fit"], seconds["backtest"], spent])
    mse, mae, c80, c95, fit, backtest, spent = np.mean(errors, 0)
    print(
        f"etth1 h 96               mse {mse:.3f}  mae {mae:.3f}  coverage {c80:.3f} {c95:.3f}  {fit:.1f} s (and its backtest {backtest:.1f} s, forecasts {spent:.1f} s)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=[*FREQUENCIES, "singles", "etth1"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--inner", action="store_true")
    parser.add_argument("--max-seconds", type=float)
    parser.add_argument("--max-steps", type=int)
    arguments = parser.parse_args()
    asked = {"max_seconds": arguments.max_seconds, "max_steps": arguments.max_steps}
    for name in arguments.sets:
        if name in FREQUENCIES:
            print_set(arguments.data, name, arguments.seeds, arguments.inner, asked)
        else:
            printer = print_singles if name == "singles" else print_etth1
            printer(arguments.data, arguments.seeds, arguments.inner, asked)


if __name__ == "__main__":
    main()
