"""The plain architecture learns, scales, forecasts and is stored as asked."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from app.errors import InvalidRequest
from app.lstm import Forecaster, Request, Series, learn
from app.lstm.architectures import build_network, prepare_windows
from app.lstm.choices import choose
from app.lstm.plain import measure_spreads
from app.lstm.textbook import LARGEST_BATCH
from app.lstm.trainer import draw_epochs, train_network
from app.lstm.windows import TrainingWindows

CPU = torch.device("cpu")


def run(series, **asked):
    seen = []
    request = Request(architecture="plain", **{"horizon": 3, "context_length": 6, "hidden_size": 8, **asked})
    return learn(series, request, on_progress=seen.append, clock=lambda: 0.0), seen


def setup(series, **asked):
    config = choose(Request(architecture="plain", **{"horizon": 1, "context_length": 2, **asked}), series, "cpu")
    return TrainingWindows(series, config.horizon, config.context_length), prepare_windows(config, CPU), config


@pytest.fixture
def noise():
    return Series.of([np.random.default_rng(0).random(100)])


def test_the_reference_example_is_one_request(noise):
    learned, seen = run(
        noise, horizon=1, context_length=1, hidden_size=50, activation="relu", optimizer="adam", loss="mse", max_epochs=100
    )
    config = learned.config
    assert (config["architecture"], config["activation"], config["loss"]) == ("plain", "relu", "mse")
    assert (config["epoch_steps"], config["steps"]) == (4, 400)  # 99 windows in batches of 32
    forecast = Forecaster.from_bytes(learned.artifact).predict(noise[0][None])
    assert forecast.shape == (1, 1, 7)
    assert (np.diff(forecast, axis=-1) > 0).all()
    np.testing.assert_allclose(forecast[0, 0, [0, 3, 6]], [0, 0.5, 1], atol=0.2)  # uniform noise: nothing else is to be known
    assert seen[-1].fraction == 1.0


def test_plain_descent_is_the_weights_less_the_rate_times_the_gradient(noise):
    """One epoch of all windows at once: by hand from the same start, on a tiny network."""
    asked = {
        "optimizer": "sgd",
        "loss": "mse",
        "batch_size": "all",
        "hidden_size": 2,
        "max_epochs": 1,
        "learning_rate": 0.1,
    }
    windows, prepare, config = setup(noise, **asked)
    assert (config.batch_size, config.steps) == (len(windows), 1)
    started = []
    train_network(windows, prepare, replace(config, steps=0), 0, started.append)
    torch.manual_seed(config.seed * 1009)
    by_hand = build_network(prepare)
    moved = train_network(windows, prepare, config, 0, started.append)
    inputs, target, _ = next(draw_epochs(windows, prepare, config, np.random.default_rng(0)))
    ((by_hand(inputs)[..., 0] - target) ** 2).mean().backward()
    assert len(started) == 1
    for (name, before), (_, after) in zip(by_hand.named_parameters(), moved.named_parameters(), strict=True):
        if before.requires_grad:
            assert float(before.grad.abs().max()) > 0, name
            torch.testing.assert_close(after, before - 0.1 * before.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss", ["quantile", "mse", "mae", "huber"])
@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
def test_every_loss_and_activation_learns_a_season(loss, activation, seasonal):
    series = Series.of([seasonal(150, seed=1, noise=1.0)])
    asked = {"optimizer": "adam", "learning_rate": 0.03, "max_epochs": 25, "season_lengths": (12,), "context_length": 12}
    learned, seen = run(series, loss=loss, activation=activation, n_windows=4, **asked)
    losses = [one.loss for one in seen if one.phase == "fit" and one.loss is not None]
    assert np.mean(losses[-10:]) < 0.7 * losses[0]
    assert any(one.validation_loss is not None for one in seen)
    assert all(one.gradient_norm > 0 for one in seen if one.loss is not None)
    assert learned.metrics["n_windows"] == 4
    forecast = Forecaster.from_bytes(learned.artifact).predict(series[0][None])
    assert np.isfinite(forecast).all()
    assert (np.diff(forecast, axis=-1) >= 0).all()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw", "rmsprop"])
def test_every_optimizer_lowers_the_loss(optimizer, seasonal):
    series = Series.of([seasonal(120)])
    learned, seen = run(series, optimizer=optimizer, loss="mse", max_epochs=20, num_layers=2, dropout=0.1, input_noise=0.01)
    losses = [one.loss for one in seen if one.phase == "backtest" and one.loss is not None]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert learned.config["optimizer"] == optimizer


def test_it_stops_at_the_target_loss_or_after_its_epochs(noise):
    windows, prepare, config = setup(noise, loss="mse", batch_size="all", max_epochs=30, learning_rate=0.1, optimizer="sgd")
    reports = []
    train_network(windows, prepare, config, 0, reports.append)
    assert [report.step for report in reports] == list(range(1, 31))
    target = reports[9].loss
    stopped = []
    train_network(windows, prepare, replace(config, target_loss=target), 0, stopped.append)
    assert [report.loss for report in stopped] == [report.loss for report in reports[: len(stopped)]]
    assert stopped[-1].loss <= target < stopped[-2].loss


def test_an_epoch_is_every_window_once(noise):
    windows, prepare, config = setup(noise, batch_size=16)
    batches = draw_epochs(windows, prepare, config, np.random.default_rng(0))
    assert config.epoch_steps == 7
    first, second = ([next(batches) for _ in range(7)] for _ in range(2))
    targets = [torch.cat([target for _, target, _ in epoch]).flatten() for epoch in (first, second)]
    assert not torch.equal(*targets)
    _, scaling = prepare(noise[0][None])
    for one in targets:
        np.testing.assert_allclose(np.sort(one), np.sort(scaling.apply(noise[0][None, 2:])[0]), rtol=1e-5)


def test_epochs_over_many_blocks_are_whole_too(seasonal):
    series = Series.of([seasonal(3000), seasonal(2000, seed=1)])
    windows, prepare, config = setup(series, batch_size=1000)
    batches = draw_epochs(windows, prepare, config, np.random.default_rng(0))
    sizes = [len(next(batches)[1]) for _ in range(config.epoch_steps)]
    assert sum(sizes) == len(windows) == 4996
    assert min(sizes[:-1]) == 1000


def test_a_penalty_shrinks_the_weights(seasonal):
    windows, prepare, config = setup(Series.of([seasonal(80)]), loss="mse", max_epochs=20, optimizer="sgd")

    def size(**changed):
        return sum(
            float(weights.detach().abs().sum())
            for weights in train_network(windows, prepare, replace(config, **changed), 0, lambda _: None).parameters()
        )

    free = size()
    assert size(l1=0.01) < free
    assert size(weight_decay=0.1) < free
    assert abs(size(gradient_clip=1e-6) - size(steps=0)) < 1e-2 < abs(free - size(steps=0))


def test_a_batch_of_all_has_an_end():
    series = Series.of([np.arange(LARGEST_BATCH + 10.0)])
    with pytest.raises(InvalidRequest, match="batch_size"):
        setup(series, batch_size="all")


def test_the_final_fit_begins_anew_and_lasts_as_long(noise):
    learned, seen = run(noise, max_epochs=5, loss="mse", batch_size=8)
    first, steps = 5 * 9, 5 * 12  # five epochs of the windows before what is held out, and of all
    assert learned.config["steps"] == steps
    assert seen[-1].steps == first + steps
    assert [one.step for one in seen if one.phase == "fit"][-1] == first + steps
    again, _ = run(noise, max_epochs=5, loss="mse", batch_size=8)
    assert again.artifact == learned.artifact


def test_a_long_series_is_learned_from_in_short_windows_and_a_long_window_in_fewer_steps():
    hours = np.arange(20_000)
    series = Series.of([np.sin(2 * np.pi * hours / 24) + np.sin(2 * np.pi * hours / 168)])

    def look(**asked):
        config = choose(Request(architecture="plain", horizon=24, candidate_season_lengths=(24, 168), **asked), series, "cpu")
        return config.season_lengths, config.context_length, config.steps

    assert look() == ((24, 168), 48, 3000)
    assert look(context_length=336) == ((24, 168), 336, 858)
    assert look(context_length=336, max_epochs=2)[2] == look(context_length=336, max_epochs=1)[2] * 2 > 1200
    assert look(context_length=336, max_steps=5000)[2] == 5000


def test_seconds_buy_as_many_steps_as_they_hold_but_no_more_than_the_epochs(noise):
    """A clock of an eighth of a second a step: 20 s are 80 steps in each of the two fits."""
    ticks = iter(range(10_000))
    request = Request(architecture="plain", horizon=1, context_length=1, hidden_size=2, season_lengths=())

    def count(**asked):
        learned = learn(noise, replace(request, **asked), on_progress=lambda _: None, clock=lambda: next(ticks) / 8)
        return learned.config["steps"]

    assert count(max_seconds=20) == 80
    assert count(max_seconds=4000, max_epochs=2) <= 2 * 4
    assert choose(replace(request, max_seconds=4000), Series.of([np.arange(9_000.0)]), "cpu").steps > 3000


def test_the_future_moves_nothing(seasonal):
    values = seasonal(120)
    changed = values.copy()
    changed[-3:] = 1e6
    (a, _), (b, _) = (run(Series.of([one]), max_epochs=3, loss="mae") for one in (values, changed))
    np.testing.assert_array_equal(a.backtest.quantiles, b.backtest.quantiles)


def test_many_series_are_scaled_window_by_window_and_one_as_a_whole(monthly):
    assert setup(monthly, context_length=12)[2].scaling is None
    assert setup(monthly, context_length=1)[2].scaling is not None
    _, prepare, config = setup(Series.of([monthly[0]]), context_length=12)
    assert config.scaling is not None
    windows, scaling = prepare(monthly[0][None])
    np.testing.assert_allclose(scaling.undo(windows.double().numpy()), monthly[0][None, -12:], rtol=1e-6)


def test_spreads_are_the_residuals_where_there_are_many():
    residuals = np.random.default_rng(0).normal(0, [1.0, 3.0], (4000, 2))
    np.testing.assert_allclose(measure_spreads(residuals), [1.0, 3.0], rtol=0.05)
    assert measure_spreads(np.array([[2.0, np.nan]])) == pytest.approx((2.0, 2.0))


def test_what_goes_with_the_default_network_alone_is_refused_elsewhere(noise):
    for asked in ({"activation": "relu"}, {"loss": "mse"}, {"input_noise": 0.1}):
        with pytest.raises(InvalidRequest, match=next(iter(asked))):
            learn(noise, Request(horizon=1, **asked), on_progress=lambda _: None, clock=lambda: 0.0)
