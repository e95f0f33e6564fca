"""The whole of a training, top to bottom: choose, backtest, fit on everything, hand over the bytes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from app.errors import NothingToLearn
from app.lstm.choices import MORE_SHARE, choose, least_context
from app.lstm.config import Config, Request, check
from app.lstm.decision import Decision, Trial, decide
from app.lstm.device import choose_device
from app.lstm.ensemble import Ensemble
from app.lstm.evaluation import Backtest, BacktestForecasts, Predict, empty_metrics, evaluate, plan_backtest
from app.lstm.forecaster import Forecaster
from app.lstm.inputs import Preparation
from app.lstm.network import Network
from app.lstm.prior import load_prior
from app.lstm.state import Journal, Offer, Saved, from_bytes
from app.lstm.trainer import StepReport, draw_block, train_network
from app.lstm.windows import Cutoffs, Series, TrainingWindows, gather_contexts, gather_targets

REPORTS = 100
TIMED_STEPS, UNTIMED_STEPS = 25, 5
ENOUGH_WINDOWS, MOST_INNER_CUTOFFS = 100, 4
MOST_TRIED = 2048
MOST_NETS, MOST_TIMES = 6, 2
"""What a time budget may grow to: so many nets of so many times the steps that the data deserves by default."""


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
    offer: Offer | None = None,
    state: bytes | None = None,
) -> Learned:
    """Learn from every series with two values or more; `clock` gives seconds and only turns a time budget into steps.

    `offer` is given after each step what makes the bytes of where the training stands; given such bytes of the same series and
    request as `state`, it goes on from there. (Of another device or version they are passed over.)

    The nets learn twice: first on what came before the held-out windows, where they are judged, then, going on from there,
    a little more on everything. Raises InvalidRequest for what is not supported, NothingToLearn, TrainingDiverged.
    """
    check(request)
    torch.set_num_threads(request.threads)
    device = choose_device(request.device)
    usable = np.flatnonzero(series.count_values() >= 2)
    if not len(usable):
        raise NothingToLearn("no series has two values", series=len(series))
    kept = series.take(usable)
    backtest = plan_backtest(kept, request.horizon, request.n_windows, request.step_size)
    inner = None if backtest is None else plan_inner(backtest.training, request.horizon)
    before = kept if backtest is None else backtest.training if inner is None else inner.training
    config = choose(request, before, device.type)  # by what the backtest may see: the same nets go on to everything
    saved = from_bytes(state) if state is not None else None
    if saved is not None and saved.config.device == config.device:
        config = saved.config
    else:
        saved = None
    if request.max_seconds is not None and saved is None:
        config = fit_budget(before, config, request, device, clock)
    warnings = describe(series, kept, config)
    report = Reporter(on_progress, config, backtest is not None, saved)
    journal = Journal(config, offer, saved, report.count_done)

    metrics, kept_forecasts, trial, nets = empty_metrics(), None, None, None
    if backtest is None:
        warnings.append(f"No series is long enough to hold out a horizon of {request.horizon}: there was no backtest.")
    else:
        ensemble = fit(before, config, device, report.begin("backtest"), held_out=inner, journal=journal.enter("backtest"))
        nets = ensemble.networks
        trial = None if inner is None else try_out(ensemble, inner)
        forecaster = settle(ensemble, decide(trial, request.quantile_levels, config.net_weight))
        rival, complaint = judge(champion, config)
        warnings += complaint
        metrics, forecasts = evaluate(backtest, config, forecaster.predict, rival)
        kept_forecasts = replace(forecasts, series=usable[forecasts.series])
        if metrics["skill"] is not None and metrics["skill"] <= 0:
            warnings.append("The model is not better than seasonal naive in the backtest.")
        held_out = try_out(ensemble, backtest)
        trial = held_out if trial is None else trial + held_out
    decision = decide(trial, request.quantile_levels, config.net_weight)
    if not decision.calibrated:
        warnings.append("Too few held-out windows to calibrate the quantiles on: their widths are mostly the prior's.")
    forecaster = settle(fit(kept, config, device, report.begin("fit"), learned=nets, journal=journal.enter("fit")), decision)
    report.end()
    return Learned(forecaster.to_bytes(), forecaster.config, metrics, kept_forecasts, warnings)


def plan_inner(series: Series, horizon: int) -> Backtest | None:
    """Windows at the end of what a backtest may learn from, to decide on: more cutoffs where series are few."""
    n_windows = int(np.clip(np.ceil(ENOUGH_WINDOWS / max(len(series), 1)), 1, MOST_INNER_CUTOFFS))
    return plan_backtest(series, horizon, n_windows, max(1, horizon // 2))


def pick_tried(cutoffs: Cutoffs) -> Cutoffs:
    """Evenly, where there are more than it takes to decide."""
    if len(cutoffs) <= MOST_TRIED:
        return cutoffs
    return cutoffs[np.linspace(0, len(cutoffs) - 1, MOST_TRIED).astype(np.int64)]


def try_out(ensemble: Ensemble, backtest: Backtest) -> Trial:
    """What nets and prior say at the backtest's cutoffs, for deciding."""
    cutoffs = pick_tried(backtest.cutoffs)
    contexts = gather_contexts(backtest.series, cutoffs, ensemble.reach)  # [W, R]
    return ensemble.try_out(contexts, gather_targets(backtest.series, cutoffs, ensemble.config.horizon))


def fit(
    series: Series,
    config: Config,
    device: torch.device,
    on_step: Callable[[StepReport], None],
    *,
    held_out: Backtest | None = None,
    learned: list[Network] | None = None,
    journal: Journal | None = None,
) -> Ensemble:
    """Every net of the ensemble, one after the other, on all of `series`: new ones, or `learned` ones that go on.

    Nets that the `journal` knows to be done are not learned again, and the one that was at work goes on.
    """
    windows = TrainingWindows(series, config.horizon, least_context(config.season_lengths, config.context_length))
    prior = load_prior()
    prepare = Preparation(config, prior, device)
    block = None if held_out is None else draw_block(held_out.series, pick_tried(held_out.cutoffs), prepare)
    networks = []
    for number in range(config.nets):
        done = None if journal is None else journal.find(number)
        if done is not None:
            network = Network(config, prepare.feature_count, prepare.base_count).to(device)
            network.load_state_dict(done)
        else:
            network = train_network(
                windows,
                prepare,
                config,
                number,
                on_step,
                held_out=block,
                learned=None if learned is None else learned[number],
                saved=None if journal is None else journal.take_up(number),
                watch=None if journal is None else journal.watch(number),
            )
            if journal is not None:
                journal.finish(number, network)
        networks.append(network)
    return Ensemble(config, prior, networks, device)


def settle(ensemble: Ensemble, decision: Decision) -> Forecaster:
    """The nets with what was decided about them."""
    reasons = {**ensemble.config.reasons, "net_weight": decision.reason}
    config = replace(ensemble.config, net_weight=decision.weight, stretches=decision.stretches, reasons=reasons)
    return Forecaster(Ensemble(config, ensemble.prior, ensemble.networks, ensemble.device))


def fit_budget(series: Series, config: Config, request: Request, device: torch.device, clock: Callable[[], float]) -> Config:
    """The config with as many steps and nets as `max_seconds` holds, measured on the first steps of a net that is then
    thrown away; never more than were asked for in steps or epochs, and no more than the data deserves many times over."""
    marks: list[float] = []
    probe = replace(config, steps=UNTIMED_STEPS + TIMED_STEPS, nets=1)
    fit(series, probe, device, lambda _: marks.append(clock()))
    seconds_per_step = max((marks[-1] - marks[UNTIMED_STEPS - 1]) / (len(marks) - UNTIMED_STEPS), 1e-6)
    held = max(1, int((request.max_seconds or 0.0) / seconds_per_step / (1 + MORE_SHARE)))
    if request.max_steps is not None or request.max_epochs is not None:
        nets, steps = config.nets, min(max(1, held // config.nets), config.steps)
    else:
        nets = int(np.clip(held // config.steps, 1, MOST_NETS))
        steps = max(1, min(held // nets, MOST_TIMES * config.steps))
    reason = f"{request.max_seconds} s at the speed of the first steps"
    reasons = {**config.reasons, "steps": reason, "nets": reason}
    return replace(config, steps=steps, more_steps=round(MORE_SHARE * steps), nets=nets, reasons=reasons)


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
    """Turns the steps of all nets into progress over the whole, about a hundred times."""

    def __init__(self, on_progress: Callable[[Progress], None], config: Config, twice: bool, saved: Saved | None) -> None:
        self._on_progress = on_progress
        first, more = config.steps * config.nets, config.more_steps * config.nets
        self._ends = {"backtest": first, "fit": first + more} if twice else {"fit": first}
        self._steps = self._ends["fit"]
        self._every = max(1, -(-self._steps // REPORTS))
        self._saved = saved
        self._done = 0 if saved is None else saved.done
        phase = "backtest" if twice else "fit"
        self._last = Progress(phase if saved is None else saved.phase, self._done / self._steps, self._done, self._steps)
        on_progress(self._last)

    def count_done(self) -> int:
        return self._done

    def begin(self, phase: str) -> Callable[[StepReport], None]:
        """The listener of one phase. A net that stops early leaves a gap, which `end` closes."""
        start, end = self._done, self._ends[phase]
        nets = 0
        if self._saved is not None and self._saved.phase == phase:  # the net that was at work goes on
            start, nets = self._saved.done - self._saved.loop.step, 1

        def on_step(report: StepReport) -> None:
            nonlocal start, nets
            if report.step == 1 and nets:
                start = self._done
            nets += report.step == 1
            self._done = min(start + report.step, end)
            if report.validation_loss is not None or self._done % self._every == 0 or self._done == self._steps:
                self._last = Progress(
                    phase,
                    self._done / self._steps,
                    self._done,
                    self._steps,
                    loss=report.loss,
                    validation_loss=report.validation_loss,
                    learning_rate=report.learning_rate,
                    gradient_norm=report.gradient_norm,
                )
                self._on_progress(self._last)

        return on_step

    def end(self) -> None:
        if self._last.step < self._steps:
            self._on_progress(replace(self._last, fraction=1.0, step=self._steps))
