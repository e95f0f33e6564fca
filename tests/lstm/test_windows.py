import numpy as np
import pytest

from app.lstm.windows import Cutoffs, Series, TrainingWindows, backtest_cutoffs, gather_contexts, gather_targets

NAN = np.nan


def series() -> Series:
    return Series.of([np.arange(1.0, 8.0), np.array([10.0, NAN, 30.0])])


def test_series_end_to_end():
    assert len(series()) == 2
    np.testing.assert_array_equal(series()[1], [10, NAN, 30])
    np.testing.assert_array_equal(series().count_values(), [7, 2])
    with pytest.raises(IndexError):
        series()[2]


def test_take_cuts_and_reorders():
    taken = series().take(np.array([1, 0]), np.array([2, 3]))
    np.testing.assert_array_equal(taken.values, [10, NAN, 1, 2, 3])
    np.testing.assert_array_equal(taken.offsets, [0, 2, 5])


def test_windows_do_not_reach_into_neighbours():
    cutoffs = Cutoffs(np.array([0, 1]), np.array([5, 1]))
    np.testing.assert_array_equal(gather_contexts(series(), cutoffs, 3), [[3, 4, 5], [NAN, NAN, 10]])
    np.testing.assert_array_equal(gather_targets(series(), cutoffs, 3), [[6, 7, NAN], [NAN, 30, NAN]])


def test_training_windows_count_and_order():
    windows = TrainingWindows(series(), horizon=2, least=3)
    cutoffs = windows.cutoffs(np.arange(len(windows)))
    # 7 observations, 2 ahead: 3, 4, 5 seen. 3 observations: one seen cannot be less, two are missing a full target.
    np.testing.assert_array_equal(cutoffs.series, [0, 0, 0, 1])
    np.testing.assert_array_equal(cutoffs.seen, [3, 4, 5, 2])


def test_training_windows_all_have_full_targets_where_there_is_room():
    many = Series.of([np.ones(n) for n in range(8, 40)])
    windows = TrainingWindows(many, horizon=5, least=3)
    assert np.isfinite(gather_targets(many, windows.cutoffs(np.arange(len(windows))), 5)).all()


def test_backtest_cutoffs_are_rolling_and_in_order():
    cutoffs = backtest_cutoffs(Series.of([np.ones(20), np.ones(6)]), horizon=4, n_windows=3, step_size=2, least=3)
    np.testing.assert_array_equal(cutoffs.series, [0, 0, 0])
    np.testing.assert_array_equal(cutoffs.seen, [12, 14, 16])
