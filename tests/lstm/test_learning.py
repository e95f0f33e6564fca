import itertools
import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import NothingToLearn
from app.lstm import Forecaster, Request, Series, learn
from app.lstm.choices import choose
from app.lstm.learning import fit_budget


def run(series, request, champion=None, clock=time.monotonic):
    seen = []
    learned = learn(series, request, on_progress=seen.append, clock=clock, champion=champion)
    return learned, seen


def test_same_seed_same_bytes_and_another_seed_others(monthly, short_request):
    first, again = run(monthly, short_request)[0], run(monthly, short_request)[0]
    assert first.artifact == again.artifact
    assert first.metrics == again.metrics
    assert first.artifact != run(monthly, replace(short_request, seed=1))[0].artifact


def test_metrics_are_the_contract(monthly, short_request):
    learned, _ = run(monthly, replace(short_request, n_windows=2, step_size=3))
    metrics = learned.metrics
    assert {"backtest", "baseline", "skill", "n_windows", "series"} <= metrics.keys()
    assert {"mae", "rmse", "smape", "mase", "wql", "coverage"} <= metrics["backtest"].keys()
    assert metrics["backtest"].keys() == metrics["baseline"].keys()
    assert metrics["backtest"]["coverage"].keys() == {"0.5", "0.8", "0.95"}
    assert (metrics["n_windows"], metrics["series"]) == (8, 4)
    json.dumps([metrics, learned.config], allow_nan=False)
    assert learned.backtest.quantiles.shape == (8, 6, 7)
    np.testing.assert_array_equal(learned.backtest.actual[1], monthly[0][-6:])


def test_every_choice_has_a_reason(monthly, short_request):
    config = run(monthly, short_request)[0].config
    assert config["season_lengths"] == [12]
    assert {"season_lengths", "context_length", "patch_length", "transformation", "steps"} <= config["reasons"].keys()


def test_progress_is_even_and_monotone(monthly):
    _, seen = run(monthly, Request(horizon=6, candidate_season_lengths=(12,), max_steps=120))
    assert seen[0].step == 0
    assert len(seen) <= 102 + 20
    assert all(a.fraction <= b.fraction for a, b in itertools.pairwise(seen))
    assert seen[-1].fraction == 1.0
    assert [key for key, _ in itertools.groupby(p.phase for p in seen)] == ["backtest", "fit"]


def test_beats_seasonal_naive_where_there_is_something_to_learn(monthly):
    learned, _ = run(monthly, Request(horizon=6, candidate_season_lengths=(12,), max_steps=150))
    assert learned.metrics["skill"] > 0
    assert not any("seasonal naive" in warning for warning in learned.warnings)


def test_the_future_moves_nothing(monthly, short_request):
    """The backtest's forecasts, their scaling, seasons and training included, do not know what came after."""
    changed = Series(monthly.values.copy(), monthly.offsets)
    for end in changed.offsets[1:]:
        changed.values[end - 6 : end] = 1e6
    request = replace(short_request, season_lengths=(12,), context_length=24)
    a, b = run(monthly, request)[0], run(changed, request)[0]
    np.testing.assert_array_equal(a.backtest.quantiles, b.backtest.quantiles)


def test_the_backtest_chooses_from_what_it_may_see(monthly, short_request):
    changed = Series(monthly.values.copy(), monthly.offsets)
    for end in changed.offsets[1:]:
        changed.values[end - 6 : end] = -5.0
    a, b = run(monthly, short_request)[0], run(changed, short_request)[0]
    np.testing.assert_array_equal(a.backtest.quantiles, b.backtest.quantiles)


def test_it_chooses_so_too_where_little_is_left_of_a_short_series(seasonal):
    request = Request(horizon=12, candidate_season_lengths=(12,), max_steps=5)
    values = seasonal(36)
    a, b = (run(Series.of([np.concatenate([values[:24], end])]), request)[0] for end in (values[24:], np.full(12, -5.0)))
    assert a.config["season_lengths"] == b.config["season_lengths"] == [12]
    assert a.config["context_length"] == b.config["context_length"] == 24  # of all 36, not of what no window is held out of
    np.testing.assert_array_equal(a.backtest.quantiles, b.backtest.quantiles)


def test_a_budget_in_seconds_becomes_steps_and_replays(monthly):
    ticks = itertools.count()
    learned, _ = run(monthly, Request(horizon=6, max_seconds=100, seed=3), clock=lambda: float(next(ticks)))
    assert learned.config["steps"] == 80  # a second a step, and a quarter on top
    replayed, _ = run(monthly, Request(horizon=6, max_steps=80, seed=3))
    strip = Forecaster.from_bytes(replayed.artifact).predict(monthly[0][None])
    np.testing.assert_array_equal(Forecaster.from_bytes(learned.artifact).predict(monthly[0][None]), strip)


@pytest.mark.parametrize(("seconds", "nets", "steps"), [(1.0, 1, 102), (4.0, 1, 300), (8.0, 2, 300), (1e6, 8, 300)])
def test_a_budget_grows_into_steps_then_nets_and_ends(monthly, seconds, nets, steps):
    request = Request(horizon=6, max_seconds=seconds, context_length=10)
    config = replace(choose(request, monthly, "cpu"), steps=300, batch_size=16)
    ticks = itertools.count(step=1 / 128)
    held = fit_budget(monthly, config, request, torch.device("cpu"), lambda: next(ticks))
    assert (held.nets, held.steps) == (nets, steps)
    assert held.more_steps == round(held.steps / 4)


def test_the_learning_curve_shows_what_was_held_out(monthly, short_request):
    _, seen = run(monthly, short_request)
    assert any(progress.validation_loss is not None for progress in seen if progress.phase == "backtest")


def test_epochs_become_steps(monthly):
    config = run(monthly, Request(horizon=6, max_epochs=2, batch_size=32, context_length=10))[0].config
    assert config["steps"] % 2 == 0


def test_a_champion_is_scored_on_the_same_windows(monthly, short_request):
    champion = Forecaster.from_bytes(run(monthly, short_request)[0].artifact)
    learned, _ = run(monthly, short_request, champion)
    assert learned.metrics["champion"].keys() == learned.metrics["backtest"].keys()
    short, _ = run(monthly, replace(short_request, horizon=8), champion)
    assert "champion" not in short.metrics
    assert any("champion" in warning for warning in short.warnings)


def test_constant_and_short_series_succeed_with_a_warning(short_request):
    learned, _ = run(Series.of([np.full(40, 7.0), np.array([1.0, 2.0])]), short_request)
    assert any("constant" in warning for warning in learned.warnings)
    assert any("shorter than the context" in warning for warning in learned.warnings)
    forecast = Forecaster.from_bytes(learned.artifact).predict(np.full((1, 40), 7.0))
    np.testing.assert_allclose(forecast[..., 3], 7.0, rtol=0.02)


def test_too_short_for_a_backtest_is_said(short_request):
    learned, _ = run(Series.of([np.array([1.0, 2.0, 3.0])]), short_request)
    assert learned.backtest is None
    assert learned.metrics["backtest"]["mase"] is None
    assert any("no backtest" in warning for warning in learned.warnings)


def test_series_without_values_are_left_out_or_refused(short_request, monthly):
    empty = np.array([5.0])
    learned, _ = run(Series.of([empty, monthly[0]]), short_request)
    assert any("left out" in warning for warning in learned.warnings)
    assert set(learned.backtest.series) == {1}
    with pytest.raises(NothingToLearn):
        run(Series.of([empty]), short_request)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), min_size=2, max_size=40),
    st.integers(1, 14),
    st.sampled_from([(), (4,), (12,)]),
)
def test_any_series_gives_finite_ordered_forecasts(values, horizon, seasons):
    series = Series.of([np.array(values)])
    learned, _ = run(series, Request(horizon=horizon, season_lengths=seasons, max_steps=2))
    forecast = Forecaster.from_bytes(learned.artifact).predict(series[0][None])
    assert np.isfinite(forecast).all()
    assert (forecast[..., 1:] >= forecast[..., :-1]).all()
    json.dumps([learned.metrics, learned.config], allow_nan=False)


def test_beats_seasonal_naive_on_a_noisy_double_season():
    rng = np.random.default_rng(0)
    steps = np.arange(24 * 7 * 5)
    clean = 20 + (2 + 5 * (steps // 24 % 7 >= 5)) * np.sin(2 * np.pi * steps / 24)
    series = Series.of([clean + rng.standard_normal(len(steps)) for _ in range(3)])
    learned, _ = run(series, Request(horizon=24, candidate_season_lengths=(24, 168), max_steps=40, n_windows=7))
    assert learned.config["season_lengths"] == [24, 168]
    assert learned.metrics["skill"] > 0.05


def test_does_not_claim_to_know_a_random_walk():
    walks = np.random.default_rng(0).standard_normal((40, 120)).cumsum(1)
    learned, _ = run(Series.of(list(walks)), Request(horizon=6, max_steps=60))
    assert abs(learned.metrics["skill"]) < 0.15


def test_what_was_held_out_decides_and_says_so(monthly, short_request):
    learned, _ = run(monthly, short_request)
    assert len(learned.config["stretches"]) == 6
    assert "held-out" in learned.config["reasons"]["net_weight"]
