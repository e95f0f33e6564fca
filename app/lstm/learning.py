"""The whole of a training, top to bottom: choose, backtest, fit on everything, hand over the bytes."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from app.errors import NothingToLearn
from app.lstm.architectures import AnyEnsemble, assemble, build_network, prepare_windows
from app.lstm.choices import choose, least_seen
from app.lstm.config import Config, Request, check
from app.lstm.decision import Trial
from app.lstm.device import Place, choose_device, is_want_of_memory, relieve
from app.lstm.evaluation import Backtest, BacktestForecasts, Predict, empty_metrics, evaluate, plan_backtest
from app.lstm.forecaster import Forecaster
from app.lstm.state import Journal, Offer, Saved, from_bytes
from app.lstm.textbook import prepare_final_fit
from app.lstm.trainer import StepReport, draw_block, train_network
from app.lstm.windows import Cutoffs, Series, TrainingWindows, gather_contexts, gather_targets

REPORTS = 100
TIMED_STEPS, UNTIMED_STEPS = 16, 4
ENOUGH_WINDOWS, MOST_INNER_CUTOFFS = 100, 4
MOST_TRIED = 2048
MOST_NETS = 8
"""What a time budget may grow to: more of a net's steps make it learn by heart, more nets only lessen what chance left."""


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

    A GPU without memory for it gets smaller batches, then the CPU does it. `offer` is given after each step what makes the bytes of
    where the training stands; given such bytes of the same series and request as `state`, it goes on from there. (Of another device
    or version they are passed over.) Raises what `learn_on` raises.
    """
    check(request)
    torch.set_num_threads(request.threads)
    place = Place(choose_device(request.device))
    notes: list[str] = []
    while True:
        try:
            learned = learn_on(place, series, request, on_progress, clock, champion, offer, state)
            return replace(learned, warnings=[*notes, *learned.warnings])
        except RuntimeError as error:
            if place.device.type == "cpu" or not is_want_of_memory(error):
                raise
        # Only here is the error gone, and with it what its frames held: other trainings on the GPU can have that now.
        gc.collect()
        torch.cuda.empty_cache()
        place, note = relieve(place)
        notes.append(note)
        state = None  # it was of the larger batches


@np.errstate(over="ignore", invalid="ignore")
def learn_on(
    place: Place,
    series: Series,
    request: Request,
    on_progress: Callable[[Progress], None],
    clock: Callable[[], float],
    champion: Forecaster | None,
    offer: Offer | None,
    state: bytes | None,
) -> Learned:
    """Choose, backtest, fit, there.

    The nets learn twice: first on what came before the held-out windows, where they are judged, then, going on from there,
    a little more on everything. With `backtest_only` they are judged and thrown away: the artifact is empty. Raises InvalidRequest for what is not supported, NothingToLearn, TrainingDiverged.
    """
    device = place.device
    usable = np.flatnonzero(series.count_values() >= 2)
    if not len(usable):
        raise NothingToLearn("no series has two values", series=len(series))
    kept = series.take(usable)
    backtest = plan_backtest(kept, request.horizon, request.n_windows, request.step_size)
    inner = None if backtest is None else plan_inner(backtest.training, request.horizon, request.architecture == "plain")
    before = kept if backtest is None else backtest.training if inner is None else inner.training
    # By what the backtest may see: the same nets go on to everything. A textbook learns from whole windows only, which have to fit.
    held_back = (
        {} if request.architecture == "plain" else {"whole": kept, "unscored": kept if backtest is None else backtest.training}
    )
    config = choose(request, before, device.type, place.halvings, **held_back)
    saved = from_bytes(state) if state is not None else None
    if saved is not None and saved.config.device == config.device:
        config = saved.config
    else:
        saved = None
    if request.max_seconds is not None and saved is None:
        config = fit_budget(before, config, request, device, clock)
    final_config = prepare_final_fit(config, request, kept) if config.is_textbook else config
    config = replace(config, more_steps=final_config.more_steps)
    warnings = describe(series, kept, config)
    report = Reporter(on_progress, config, backtest is not None, saved, request.backtest_only)
    journal = Journal(config, offer, saved, report.count_done)

    metrics, kept_forecasts, trial, nets = empty_metrics(), None, None, None
    if backtest is None:
        if request.backtest_only:
            raise NothingToLearn(
                f"no series is long enough to hold out a horizon of {request.horizon}, by which trials are scored"
            )
        warnings.append(f"No series is long enough to hold out a horizon of {request.horizon}: there was no backtest.")
    else:
        ensemble = fit(before, config, device, report.begin("backtest"), held_out=inner, journal=journal.enter("backtest"))
        nets = ensemble.networks
        trial = None if inner is None else try_out(ensemble, inner)
        forecaster = Forecaster.of(ensemble.settle(ensemble.decide(trial)))
        rival, complaint = judge(champion, config)
        warnings += complaint
        metrics, forecasts = evaluate(backtest, config, forecaster.predict, rival)
        kept_forecasts = replace(forecasts, series=usable[forecasts.series])
        if metrics["skill"] is not None and metrics["skill"] <= 0:
            warnings.append("The model is not better than seasonal naive in the backtest.")
        if request.backtest_only:
            report.end()
            return Learned(b"", forecaster.config, metrics, None, warnings)
        held_out = try_out(ensemble, backtest)
        trial = held_out if trial is None else trial + held_out
    learned = None if config.is_textbook else nets
    final = fit(kept, final_config, device, report.begin("fit"), learned=learned, journal=journal.enter("fit"))
    decision = final.decide(trial)
    if not decision.calibrated:
        widths = "as learned, or assume normal errors" if config.is_textbook else "mostly the prior's"
        warnings.append(f"Too few held-out windows to calibrate the quantiles on: their widths are {widths}.")
    forecaster = Forecaster.of(final.settle(decision))
    report.end()
    return Learned(forecaster.to_bytes(), forecaster.config, metrics, kept_forecasts, warnings)


def plan_inner(series: Series, horizon: int, textbook: bool = False) -> Backtest | None:
    """Windows at the end of what a backtest may learn from, to decide on: more cutoffs where series are few. A textbook, whose
    quantiles come from nothing else, gets up to a fifth of the steps of a typical series."""
    step_size = max(1, horizon // 2)
    most = max(MOST_INNER_CUTOFFS, int(np.median(series.lengths)) // (5 * step_size)) if textbook else MOST_INNER_CUTOFFS
    n_windows = int(np.clip(np.ceil(ENOUGH_WINDOWS / max(len(series), 1)), 1, most))
    return plan_backtest(series, horizon, n_windows, step_size)


def pick_tried(cutoffs: Cutoffs) -> Cutoffs:
    """Evenly, where there are more than it takes to decide."""
    if len(cutoffs) <= MOST_TRIED:
        return cutoffs
    return cutoffs[np.linspace(0, len(cutoffs) - 1, MOST_TRIED).astype(np.int64)]


def try_out(ensemble: AnyEnsemble, backtest: Backtest) -> Trial:
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
    learned: list[nn.Module] | None = None,
    journal: Journal | None = None,
) -> AnyEnsemble:
    """Every net of the ensemble, one after the other, on all of `series`: new ones, or `learned` ones that go on.

    Nets that the `journal` knows to be done are not learned again, and the one that was at work goes on.
    """
    windows = TrainingWindows(series, config.horizon, least_seen(config))
    prepare = prepare_windows(config, device)
    block = None if held_out is None else draw_block(held_out.series, pick_tried(held_out.cutoffs), prepare)
    networks: list[nn.Module] = []
    for number in range(config.nets):
        done = None if journal is None else journal.find(number)
        if done is not None:
            network = build_network(prepare).to(device)
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
    return assemble(config, networks, device)


def fit_budget(series: Series, config: Config, request: Request, device: torch.device, clock: Callable[[], float]) -> Config:
    """The config with as many steps and nets as `max_seconds` holds, measured on the first steps of a net that is then
    thrown away; never more than were asked for in steps or epochs, and no more than the data deserves many times over."""
    marks: list[float] = []
    probe = replace(config, steps=UNTIMED_STEPS + TIMED_STEPS, nets=1)
    fit(series, probe, device, lambda _: marks.append(clock()))
    seconds_per_step = max((marks[-1] - marks[UNTIMED_STEPS - 1]) / (len(marks) - UNTIMED_STEPS), 1e-6)
    share = config.more_steps / config.steps
    held = max(1, int((request.max_seconds or 0.0) / seconds_per_step / (1 + share)))
    if request.max_steps is not None or request.max_epochs is not None or config.is_textbook:
        nets, steps = config.nets, min(max(1, held // config.nets), config.steps)
    else:
        nets = int(np.clip(held // config.steps, 1, MOST_NETS))
        steps = max(1, min(held, config.steps))
    reason = f"{request.max_seconds} s at the speed of the first steps"
    reasons = {**config.reasons, "steps": reason, "nets": reason}
    return replace(config, steps=steps, more_steps=round(share * steps), nets=nets, reasons=reasons)


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
    starts = kept.offsets[:-1]  # [S], and no series is empty
    constant = int(np.sum(np.fmin.reduceat(kept.values, starts) == np.fmax.reduceat(kept.values, starts)))
    if constant:
        warnings.append(f"{constant} of {len(kept)} series {'is' if constant == 1 else 'are'} constant.")
    short = int((kept.lengths < config.context_length).sum())
    if short:
        verb = "is" if short == 1 else "are"
        warnings.append(f"{short} of {len(kept)} series {verb} shorter than the context of {config.context_length}.")
    return warnings


def finite(number: float) -> float | None:
    return number if np.isfinite(number) else None


class Reporter:
    """Turns the steps of all nets into progress over the whole, about a hundred times."""

    def __init__(
        self, on_progress: Callable[[Progress], None], config: Config, twice: bool, saved: Saved | None, once: bool = False
    ) -> None:
        self._on_progress = on_progress
        first, more = config.steps * config.nets, 0 if once else config.more_steps * config.nets
        self._ends = {"backtest": first, "fit": first + more} if twice else {"fit": first}
        self._steps = max(self._ends.values())
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
                    gradient_norm=finite(report.gradient_norm),
                )
                self._on_progress(self._last)

        return on_step

    def end(self) -> None:
        if self._last.step < self._steps:
            self._on_progress(replace(self._last, fraction=1.0, step=self._steps))
