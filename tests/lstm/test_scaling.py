import numpy as np
import pytest

from app.lstm.scaling import fill, fit_scaling

NAN = np.nan


@pytest.mark.parametrize("transformation", ["log", "none"])
def test_undo_is_the_inverse(transformation):
    contexts = np.random.default_rng(0).lognormal(3, 0.5, (8, 30))
    scaling = fit_scaling(contexts, 30, 12, transformation)
    np.testing.assert_allclose(scaling.undo(scaling.apply(contexts)), contexts, rtol=1e-9)


def test_a_row_with_a_zero_takes_no_logarithm():
    scaling = fit_scaling(np.array([[1.0, 2.0, 3.0], [0.0, 2.0, 3.0]]), 3, 1, "log")
    np.testing.assert_array_equal(scaling.log, [[True], [False]])


@pytest.mark.parametrize("factor", [1e-9, 3.0, 1e12])
def test_scaled_values_do_not_know_the_unit(factor):
    contexts = np.random.default_rng(0).standard_normal((4, 20))
    np.testing.assert_allclose(
        fit_scaling(contexts * factor, 20, 1, "none").apply(contexts * factor),
        fit_scaling(contexts, 20, 1, "none").apply(contexts),
        rtol=1e-9,
    )


def test_missing_is_left_out_of_the_statistics():
    whole = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    gappy = np.array([[NAN, 1.0, 2.0, 3.0, 4.0, 5.0]])
    np.testing.assert_allclose(fit_scaling(whole, 5, 5, "log").loc, fit_scaling(gappy, 6, 6, "log").loc)


@pytest.mark.parametrize("row", [[0.0, 0.0], [NAN, NAN], [7.0, 7.0], [1e308, -1e308], [5e-324, 5e-324], [1e-300, 1e300]])
def test_extremes_stay_finite(row):
    contexts = np.array([row])
    scaling = fit_scaling(contexts, 2, 1, "log")
    assert np.isfinite(scaling.apply(np.nan_to_num(contexts))).all()
    assert np.isfinite(scaling.undo(np.array([[-1e6, 0.0, 1e6]]))).all()


def test_fill_takes_the_phase_one_season_before_then_after():
    scaled = np.array([[NAN, 2.0, 3.0, 1.0, NAN, 4.0, 1.0, 2.0, NAN]])
    np.testing.assert_array_equal(fill(scaled, 3), [[1.0, 2.0, 3.0, 1.0, 2.0, 4.0, 1.0, 2.0, 4.0]])


def test_fill_without_season_carries_forward():
    np.testing.assert_array_equal(fill(np.array([[NAN, 1.0, NAN, 3.0], [NAN] * 4]), 1), [[1, 1, 1, 3], [0, 0, 0, 0]])
