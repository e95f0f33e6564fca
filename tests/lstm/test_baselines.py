import numpy as np

from app.lstm.baselines import seasonal_naive

NAN = np.nan


def test_repeats_the_last_season_also_through_gaps():
    contexts = np.array([[1.0, 2.0, 3.0, 1.5, NAN, 3.5]])
    forecast = seasonal_naive(contexts, 5, 3, (0.5,))[..., 0]
    np.testing.assert_allclose(forecast, [[1.5, 2.0, 3.5, 1.5, 2.0]])


def test_widens_with_each_season():
    contexts = np.random.default_rng(0).standard_normal((1, 40))
    width = np.ptp(seasonal_naive(contexts, 8, 4, (0.1, 0.5, 0.9)), axis=-1)[0]
    np.testing.assert_allclose(width[4:] / width[:4], np.sqrt(2))


def test_shorter_than_a_season_is_plain_naive():
    np.testing.assert_allclose(seasonal_naive(np.array([[1.0, 4.0]]), 2, 12, (0.5,))[..., 0], [[4.0, 4.0]])
