from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from app.errors import TrainingDiverged
from app.lstm.choices import choose
from app.lstm.config import Request
from app.lstm.inputs import Preparation
from app.lstm.losses import pinball
from app.lstm.prior import load_prior
from app.lstm.trainer import draw_batches, draw_block, schedule, train_network
from app.lstm.windows import Series, TrainingWindows


def setup(series, **asked):
    config = choose(Request(horizon=6, candidate_season_lengths=(12,), **asked), series, "cpu")
    return TrainingWindows(series, 6, 13), Preparation(config, load_prior(), torch.device("cpu")), config


def test_overfits_one_batch():
    walk = np.random.default_rng(0).standard_normal(26).cumsum()
    windows, prepare, config = setup(Series.of([walk]), max_steps=400, learning_rate=0.01, dropout=0.0, weight_decay=0.0)
    assert len(windows) == 8
    losses = []
    train_network(windows, prepare, replace(config, hidden_size=64), 0, lambda report: losses.append(report.loss))
    assert losses[-1] < 0.1 * losses[0]


def test_stops_at_the_target_loss(monthly):
    windows, prepare, config = setup(monthly, max_steps=50, target_loss=1e9)
    steps = []
    train_network(windows, prepare, config, 0, lambda report: steps.append(report.step))
    assert steps == [1]


def test_diverging_says_so(monthly):
    windows, prepare, config = setup(monthly, max_steps=50, learning_rate=1e30)
    with pytest.raises(TrainingDiverged):
        train_network(windows, prepare, config, 0, lambda report: None)


def test_training_leaves_the_global_generator_alone(monthly):
    windows, prepare, config = setup(monthly, max_steps=2)
    before = torch.get_rng_state()
    train_network(windows, prepare, config, 0, lambda report: None)
    assert torch.equal(before, torch.get_rng_state())


def test_schedule_warms_up_and_ends_near_zero():
    rates = [schedule(step, 100) for step in range(1, 101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == 1.0
    assert rates[-1] < 0.01


def test_values_after_a_window_do_not_move_its_inputs(seasonal):
    values = seasonal(80)
    changed = values.copy()
    changed[60:] *= 7
    _, prepare, _ = setup(Series.of([values]))
    a, _ = prepare(values[None, :60])
    b, _ = prepare(changed[None, :60])
    assert torch.equal(a.window, b.window)
    assert torch.equal(a.features, b.features)


def test_of_linear_forecasts_each_window_is_drawn_for_one_step_and_a_later_start_draws_the_same(monthly):
    windows, _, config = setup(monthly)
    config = replace(config, bases="linear", history_length=config.context_length, batch_size=200)
    prepare = Preparation(config, load_prior(), torch.device("cpu"))

    def draw(skip):
        return draw_batches(windows, prepare, config, np.random.default_rng(0), skip=skip)

    whole = [target for _, (_, target, _) in zip(range(7), draw(0), strict=False)]
    assert all(len(target) == 200 for target in whole)
    assert not any(torch.equal(one, other) for one, other in pairwise(whole))
    for skip in (1, 2, 3, 6):
        inputs, target, observed = next(draw(skip))
        assert torch.equal(target, whole[skip])
        assert inputs.window.shape == (200, config.context_length)
        assert observed.shape == target.shape


def test_the_best_of_what_was_held_out_stays(monthly):
    """A rate that ruins the net from the first check on: the weights of the least held-out loss are kept."""
    windows, prepare, config = setup(monthly, max_steps=40, learning_rate=0.5, dropout=0.0)
    held_out = draw_block(windows.series, windows.cutoffs(np.arange(0, len(windows), 7)), prepare)
    seen = []
    kept = train_network(windows, prepare, config, 0, seen.append, held_out=held_out)
    checked = [(report.step, report.validation_loss) for report in seen if report.validation_loss is not None]
    assert [step for step, _ in checked] == [10, 20, 30, 40]
    best = min(loss for _, loss in checked)
    levels = torch.tensor(config.quantile_levels)
    with torch.no_grad():
        inputs, target, observed = held_out
        assert float(pinball(kept(inputs), target, observed, levels)) == pytest.approx(best, rel=1e-5)


def test_a_net_goes_on_from_where_it_was(monthly):
    windows, prepare, config = setup(monthly, max_steps=40)
    first = train_network(windows, prepare, config, 0, lambda report: None)
    same = train_network(windows, prepare, replace(config, more_steps=0), 0, lambda report: None, learned=first)
    for name, value in first.state_dict().items():
        assert torch.equal(same.state_dict()[name], value)
    steps = []
    further = train_network(windows, prepare, config, 0, lambda report: steps.append(report.step), learned=first)
    assert steps == list(range(1, 11))
    moved = (further.out.weight - first.out.weight).detach().abs().max()
    assert 0 < float(moved) < 0.1
