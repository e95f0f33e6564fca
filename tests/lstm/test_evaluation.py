import numpy as np

from app.lstm.evaluation import plan_backtest
from app.lstm.windows import Series, TrainingWindows, gather_targets


def test_training_ends_where_the_first_window_is_scored():
    series = Series.of([np.arange(30.0), np.arange(100.0, 150.0)])
    plan = plan_backtest(series, horizon=4, n_windows=3, step_size=2)
    assert plan is not None
    np.testing.assert_array_equal(plan.training.lengths, [30 - 8, 50 - 8])
    for which in range(2):
        scored = gather_targets(series, plan.cutoffs, 4)[plan.cutoffs.series == which]
        windows = TrainingWindows(plan.training, 4, 3)
        learned = gather_targets(plan.training, windows.cutoffs(np.arange(len(windows))), 4)
        assert not np.isin(scored, learned).any()


def test_too_short_for_a_backtest():
    assert plan_backtest(Series.of([np.ones(6)]), horizon=4, n_windows=1, step_size=None) is None
    assert plan_backtest(Series.of([np.ones(7)]), horizon=4, n_windows=1, step_size=None) is not None


def test_windows_with_nothing_to_score_or_see_are_left_out():
    unseen, unknown = np.ones(2000), np.ones(50)
    unseen[1:1996] = np.nan
    unknown[45:49] = np.nan
    unknown[49] = 1
    plan = plan_backtest(Series.of([unseen, unknown]), horizon=4, n_windows=1, step_size=None)
    assert plan is not None
    np.testing.assert_array_equal(plan.cutoffs.series, [1])
