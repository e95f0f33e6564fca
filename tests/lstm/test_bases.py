import numpy as np
import pytest
import torch

from app.lstm.bases import FixedBases
from app.lstm.fitted import ALPHAS, DAMPING, FittedBases, run_holt

SHAPES = [(48, 12, (12,)), (336, 48, (24, 168)), (10, 6, ()), (2, 3, ()), (1, 2, ()), (50, 7, (12,))]


def forecast(history, horizon, seasons):
    """Name -> [H], by fixed and fitted bases of one history [R]."""
    window = torch.tensor(np.asarray(history), dtype=torch.float32)[None]
    fixed = FixedBases(window.shape[1], horizon, seasons, torch.device("cpu"))
    fitted = FittedBases(window.shape[1], horizon, seasons, torch.device("cpu"))
    forecasts, errors = fitted(window, torch.ones_like(window))
    assert torch.isfinite(errors).all()
    ahead = torch.cat([fixed(window), forecasts], -1)[0].numpy()
    return dict(zip((*fixed.names, *fitted.names), ahead.T, strict=True))


@pytest.mark.parametrize(("length", "horizon", "seasons"), SHAPES)
def test_every_base_follows_a_shift(length, horizon, seasons):
    history = np.random.default_rng(0).standard_normal(length)
    shifted = forecast(history + 5, horizon, seasons)
    for name, ahead in forecast(history, horizon, seasons).items():
        assert ahead.shape == (horizon,), name
        np.testing.assert_allclose(shifted[name], ahead + 5, atol=1e-3, err_msg=name)


def test_a_season_is_repeated():
    season = np.sin(2 * np.pi * np.arange(60) / 12)
    ahead = forecast(season[:48], 12, (12,))
    for name in ("naive.0", "shape_2.0", "shape_4.0", "shape_all.0", "fitted_0.0.0"):
        np.testing.assert_allclose(ahead[name], season[48:], atol=2e-2, err_msg=name)


def test_a_line_goes_on():
    ahead = forecast(np.arange(48.0), 12, ())
    np.testing.assert_allclose(ahead["last"], 47)
    np.testing.assert_allclose(ahead["fitted_1.0.0"], np.arange(48, 60), atol=1e-2)
    assert (np.diff(ahead["drift"]) > 0.4).all()


def test_simple_exponential_smoothing_by_hand():
    level = 1.0
    for value in (5.0, 2.0):
        level += 0.5 * (value - level)
    np.testing.assert_allclose(forecast([1.0, 5.0, 2.0], 1, ())["ses"], level)


def test_damped_holt_by_hand():
    errors, ahead = run_holt(3, 2, 0.5, 0.4)
    history = np.array([1.0, 5.0, 2.0])
    level, trend = 1.0, 0.0
    for t, value in enumerate(history[1:], start=1):
        error = value - level - DAMPING * trend
        assert history @ errors[:, t] == pytest.approx(error)
        level, trend = level + DAMPING * trend + 0.5 * error, DAMPING * trend + 0.2 * error
    np.testing.assert_allclose(history @ ahead, [level + DAMPING * trend, level + (DAMPING + DAMPING**2) * trend])


def test_smoothing_constants_follow_the_series():
    rng = np.random.default_rng(0)
    noise, walk = rng.standard_normal(100), rng.standard_normal(100).cumsum()
    assert abs(forecast(noise, 1, ())["fitted_0.0.0"][0] - noise.mean()) < 0.4
    assert abs(forecast(walk, 1, ())["fitted_0.0.0"][0] - walk[-1]) < 1.0
    assert len(ALPHAS) > 4


def test_what_is_masked_does_not_choose():
    fitted = FittedBases(40, 2, (), torch.device("cpu"))
    window = torch.randn(1, 40, generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(window)
    mask[:, :20] = 0
    wild = window.clone()
    wild[:, :3] += 50
    same = fitted(window, mask)[1] / fitted(wild, mask)[1]
    assert (same > 0.3).all()
