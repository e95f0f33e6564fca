import numpy as np
import pytest

from app.lstm.bases import base_maps


@pytest.mark.parametrize(
    ("length", "horizon", "seasons"), [(48, 12, (12,)), (336, 48, (24, 168)), (10, 6, ()), (2, 3, ()), (50, 7, (12,))]
)
def test_every_base_follows_shift_and_scale(length, horizon, seasons):
    for name, weights in base_maps(length, horizon, seasons).items():
        assert weights.shape == (length, horizon), name
        np.testing.assert_allclose(weights.sum(0), 1, atol=1e-9, err_msg=name)


def test_a_line_is_continued_and_a_season_repeated():
    maps = base_maps(48, 12, (12,))
    season = np.sin(2 * np.pi * np.arange(60) / 12)
    for name in ("naive_12", "shape_12_2", "shape_12_4", "deseasonalised_12_0.5"):
        np.testing.assert_allclose(season[:48] @ maps[name], season[48:], atol=1e-9, err_msg=name)
    np.testing.assert_allclose(np.arange(48.0) @ maps["last"], 47)
    assert (np.diff(np.arange(48.0) @ maps["drift"]) > 0.4).all()


def test_simple_exponential_smoothing_by_hand():
    level = 1.0
    for value in (5.0, 2.0):
        level += 0.5 * (value - level)
    np.testing.assert_allclose(np.array([1.0, 5.0, 2.0]) @ base_maps(3, 1, ())["ses_0.5"], level)
