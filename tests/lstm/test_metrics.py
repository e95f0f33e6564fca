import numpy as np
import pytest

from app.lstm.metrics import interval_score, mase_scale, score, score_per_step, skill, smape

NAN = np.nan
LEVELS = (0.025, 0.5, 0.975)


def example():
    actual = np.array([[10.0, 20.0], [NAN, 40.0]])
    median = np.array([[12.0, 20.0], [99.0, 30.0]])
    quantiles = np.stack([median - 5, median, median + 5], -1)
    return actual, quantiles, np.array([2.0, 4.0])


def test_every_metric_by_hand():
    actual, quantiles, scales = example()
    scores = score(actual, quantiles, LEVELS, scales)
    assert scores["mae"] == pytest.approx((2 + 0 + 10) / 3)
    assert scores["rmse"] == pytest.approx(np.sqrt((4 + 0 + 100) / 3))
    assert scores["smape"] == pytest.approx(((200 * 2 / 22 + 0) / 2 + 200 * 10 / 70) / 2)
    assert scores["mase"] == pytest.approx((1 / 2 + 10 / 4) / 2)
    assert scores["coverage"] == {"0.95": pytest.approx(2 / 3)}
    assert scores["msis"] == pytest.approx((10 / 2 + (10 + 40 * 5) / 4) / 2)
    low = 0.025 * 3 + 0.025 * 5 + 0.025 * 15
    high = 0.025 * 7 + 0.025 * 5 + 0.975 * 5
    assert scores["wql"] == pytest.approx(2 * (low + 0.5 * 12 + high) / 3 / 70)


def test_per_step():
    per_step = score_per_step(*example()[:2], LEVELS, example()[2])
    assert per_step["mae"] == [pytest.approx(2), pytest.approx(5)]
    assert per_step["coverage"]["0.95"] == [1.0, 0.5]


def test_undefined_is_none_not_nan():
    scores = score(np.full((1, 2), NAN), np.zeros((1, 2, 3)), LEVELS, np.array([NAN]))
    assert scores["mae"] is None
    assert scores["mase"] is None
    assert scores["wql"] is None


def test_smape_of_two_zeros_is_zero():
    assert smape(np.zeros(1), np.zeros(1)) == 0


def test_mase_scale_by_hand():
    assert mase_scale(np.array([1.0, 5.0, 2.0, NAN, 6.0]), 2) == pytest.approx((1 + 4) / 2)
    assert np.isnan(mase_scale(np.ones(9), 2))
    assert np.isnan(mase_scale(np.ones(2), 2))


def test_interval_score_by_hand():
    np.testing.assert_allclose(interval_score(np.array([0.0, 5.0, 12.0]), np.full(3, 1.0), np.full(3, 10.0), 0.5), [13, 9, 17])


def test_skill_falls_back_to_mae():
    assert skill({"mase": 0.5, "mae": 9.0}, {"mase": 1.0, "mae": 1.0}) == 0.5
    assert skill({"mase": None, "mae": 1.0}, {"mase": None, "mae": 4.0}) == 0.75
    assert skill({"mase": None, "mae": 1.0}, {"mase": None, "mae": 0.0}) is None
