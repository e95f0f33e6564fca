"""The whole of a training, top to bottom: choose, backtest, fit on everything, hand over the bytes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from app.errors import NothingToLearn
from app.lstm.choices import choose, least_context
from app.lstm.config import Config, Request, check
from app.lstm.decision import Decision, Trial, decide
from app.lstm.device import choose_device
from app.lstm.ensemble import Ensemble
from app.lstm.evaluation import Backtest, BacktestForecasts, Predict, empty_metrics, evaluate, plan_backtest
from app.lstm.forecaster import Forecaster
from app.lstm.inputs import Preparation
from app.lstm.prior import load_prior
from app.lstm.trainer import StepReport, train_network
from app.lstm.windows import Series, TrainingWindows, gather_contexts, gather_targets

REPORTS = 100
TIMED_STEPS, UNTIMED_STEPS = 25, 5
ENOUGH_WINDOWS, MOST_INNER_CUTOFFS = 100, 4
MOST_TRIED = 2048


@dataclass(frozen=True)
class Progress:
    """How far a training is: `fraction` and `step` of `steps` over backtest and fit together."""

    phase: str
    fraction: float
    step: int
    steps: int
    loss: float | None = None
    validation_loss: float | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None


@dataclass(frozen=True)
class Learned:
    """What a training leaves: bytes that predict, how they came about, how good they are, and what to beware of."""

    artifact: bytes
    config: dict[str, Any]
    metrics: dict[str, Any]
    backtest: BacktestForecasts | None
    warnings: list[str]


@np.errstate(over="ignore", invalid="ignore")
def learn(
    series: Series,
    request: Request,
    *,
    on_progress: Callable[[Progress], None],
    clock: Callable[[], float],
    champion: Forecaster | None = None,
) -> Learned:
    """Learn from every series with two values or more; `clock` gives seconds and only turns a time budget into steps.

    Raises InvalidRequest for what is not supported, NothingToLearn, TrainingDiverged.
    """
    check(request)
    torch.set_num_threads(request.threads)
    device = choose_device(request.device)
    usable = np.flatnonzero(series.count_values() >= 2)
    if not len(usable):
        raise NothingToLearn("no series has two values", series=len(series))
    kept = series.take(usable)
    config = choose(request, kept, device.type)
    backtest = plan_backtest(kept, request.horizon, request.n_windows, request.step_size)
    inner = None if backtest is None else plan_inner(backtest.training, request.horizon)
    rounds = 1 + (backtest is not None) + (inner is not None)
    if request.max_seconds is not None:
        config = fit_budget(kept, config, request, device, clock, rounds)
    warnings = describe(series, kept, config)

    report = Reporter(on_progress, (rounds - 1) * config.steps * config.nets, config.steps * config.nets)
    metrics, kept_forecasts, trial = empty_metrics(), None, None
    if inner is not None:
        resolved = replace(choose(request, inner.training, device.type), steps=config.steps, nets=config.nets)
        trial = try_out(fit(inner.training, resolved, device, report.begin("backtest")), inner)
    if backtest is None:
        warnings.append(f"No series is long enough to hold out a horizon of {request.horizon}: there was no backtest.")
    else:
        resolved = replace(choose(request, backtest.training, device.type), steps=config.steps, nets=config.nets)
        ensemble = fit(backtest.training, resolved, device, report.begin("backtest"))
        forecaster = settle(ensemble, decide(trial, request.quantile_levels, resolved.net_weight))
        rival, complaint = judge(champion, resolved)
        warnings += complaint
        metrics, forecasts = evaluate(backtest, resolved, forecaster.predict, rival)
        kept_forecasts = replace(forecasts, series=usable[forecasts.series])
        if metrics["skill"] is not None and metrics["skill"] <= 0:
            warnings.append("The model is not better than seasonal naive in the backtest.")
        held_out = try_out(ensemble, backtest)
        trial = held_out if trial is None else trial + held_out
    decision = decide(trial, request.quantile_levels, config.net_weight)
    if not decision.calibrated:
        warnings.append("Too few held-out windows to calibrate the quantiles on: their widths are mostly the prior's.")
    forecaster = settle(fit(kept, config, device, report.begin("fit")), decision)
    return Learned(forecaster.to_bytes(), forecaster.config, metrics, kept_forecasts, warnings)


def plan_inner(series: Series, horizon: int) -> Backtest | None:
    """Windows at the end of what a backtest may learn from, to decide on: more cutoffs where series are few."""
    n_windows = int(np.clip(np.ceil(ENOUGH_WINDOWS / max(len(series), 1)), 1, MOST_INNER_CUTOFFS))
    return plan_backtest(series, horizon, n_windows, max(1, horizon // 2))


def try_out(ensemble: Ensemble, backtest: Backtest) -> Trial:
    """What nets and prior say at the backtest's cutoffs, for deciding."""
    cutoffs = backtest.cutoffs
    if len(cutoffs) > MOST_TRIED:
        cutoffs = cutoffs[np.linspace(0, len(cutoffs) - 1, MOST_TRIED).astype(np.int64)]
    contexts = gather_contexts(backtest.series, cutoffs, ensemble.reach)  # [W, R]
    return ensemble.try_out(contexts, gather_targets(backtest.series, cutoffs, ensemble.config.horizon))


def fit(series: Series, config: Config, device: torch.device, on_step: Callable[[StepReport], None]) -> Ensemble:
    """Every net of the ensemble, one after the other, on all of `series`."""
    windows = TrainingWindows(series, config.horizon, least_context(config.season_lengths, config.context_length))
    prior = load_prior()
    prepare = Preparation(config, prior, device)
    networks = [train_network(windows, prepare, config, number, on_step) for number in range(config.nets)]
    return Ensemble(config, prior, networks, device)


def settle(ensemble: Ensemble, decision: Decision) -> Forecaster:
    """The nets with what was decided about them."""
    reasons = {**ensemble.config.reasons, "net_weight": decision.reason}
    config = replace(ensemble.config, net_weight=decision.weight, stretches=decision.stretches, reasons=reasons)
    return Forecaster(Ensemble(config, ensemble.prior, ensemble.networks, ensemble.device))


def fit_budget(
    series: Series, config: Config, request: Request, device: torch.device, clock: Callable[[], float], rounds: int
) -> Config:
    """The config with as many steps as `max_seconds` holds for `rounds` fits, measured on the first ones of a net that is
    then thrown away; never more than were asked for in steps or epochs."""
    marks: list[float] = []
    probe = replace(config, steps=UNTIMED_STEPS + TIMED_STEPS, nets=1)
    fit(series, probe, device, lambda _: marks.append(clock()))
    seconds_per_step = max((marks[-1] - marks[UNTIMED_STEPS - 1]) / (len(marks) - UNTIMED_STEPS), 1e-6)
    steps = max(1, int((request.max_seconds or 0.0) / seconds_per_step / rounds / config.nets))
    if request.max_steps is not None or request.max_epochs is not None:
        steps = min(steps, config.steps)
    reason = f"{request.max_seconds} s, {rounds} fits together, at the speed of the first steps"
    return replace(config, steps=steps, reasons={**config.reasons, "steps": reason})


def judge(champion: Forecaster | None, config: Config) -> tuple[tuple[Predict, tuple[float, ...]] | None, list[str]]:
    """How the champion predicts at our levels, as far as it learned them; nothing and a warning if its horizon is shorter."""
    if champion is None:
        return None, []
    if champion.horizon < config.horizon:
        return None, [f"The champion's horizon of {champion.horizon} is shorter: it was not scored beside this model."]
    first, last = champion.quantile_levels[0], champion.quantile_levels[-1]
    levels = tuple(level for level in config.quantile_levels if first <= level <= last)
    return (lambda contexts: champion.predict(contexts, levels, config.horizon), levels), []


def describe(series: Series, kept: Series, config: Config) -> list[str]:
    """What a reader of the forecasts should know about the data."""
    warnings = []
    if len(kept) < len(series):
        warnings.append(f"{len(series) - len(kept)} series with fewer than two values were left out.")
    constant = sum(float(np.nanmin(kept[i])) == float(np.nanmax(kept[i])) for i in range(len(kept)))
    if constant:
        warnings.append(f"{constant} of {len(kept)} series {'is' if constant == 1 else 'are'} constant.")
    short = int((kept.lengths < config.context_length).sum())
    if short:
        verb = "is" if short == 1 else "are"
        warnings.append(f"{short} of {len(kept)} series {verb} shorter than the context of {config.context_length}.")
    return warnings


class Reporter:
    """Turns the steps of both fits into progress over the whole, about a hundred times."""

    def __init__(self, on_progress: Callable[[Progress], None], backtest_steps: int, fit_steps: int) -> None:
        self._on_progress = on_progress
        self._before = {"backtest": 0, "fit": backtest_steps}
        self._steps = backtest_steps + fit_steps
        self._every = max(1, self._steps // REPORTS)
        on_progress(Progress("backtest" if backtest_steps else "fit", 0.0, 0, self._steps))

    def begin(self, phase: str) -> Callable[[StepReport], None]:
        """The listener of one fit. One that stops early leaves a gap."""

        before = self._before[phase]

        def on_step(report: StepReport) -> None:
            step = before + report.step
            self._before["backtest"] = step  # where a second fit of this phase goes on
            if step % self._every == 0 or step == self._steps:
                self._on_progress(
                    Progress(
                        phase,
                        step / self._steps,
                        step,
                        self._steps,
                        loss=report.loss,
                        learning_rate=report.learning_rate,
                        gradient_norm=report.gradient_norm,
                    )
                )

        return on_step
