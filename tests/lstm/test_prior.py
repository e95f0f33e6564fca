import numpy as np
import torch

from app.lstm.choices import choose
from app.lstm.config import Request
from app.lstm.inputs import Preparation
from app.lstm.network import answer_of_prior
from app.lstm.prior import LEVELS, load_prior, regroup_gaps
from app.lstm.synthetic import make_series
from app.lstm.windows import Series


def test_gaps_regroup_to_themselves_and_to_fewer():
    gaps = torch.rand(2, 3, len(LEVELS) - 1)
    torch.testing.assert_close(regroup_gaps(gaps, LEVELS), gaps)
    fewer = regroup_gaps(gaps, (0.01, 0.5, 0.99))
    torch.testing.assert_close(fewer[..., 0], gaps[..., :5].sum(-1))
    torch.testing.assert_close(fewer[..., 1], gaps[..., 5:].sum(-1))


def test_gaps_between_and_beyond_the_levels_stay_positive():
    gaps = torch.rand(2, 3, len(LEVELS) - 1)
    assert (regroup_gaps(gaps, (0.001, 0.2, 0.5, 0.51, 0.999)) > 0).all()


def test_knows_a_season_without_having_seen_the_data(seasonal):
    series = Series.of([seasonal(96, noise=1.0)])
    prepare = Preparation(choose(Request(horizon=12, season_lengths=(12,)), series, "cpu"), load_prior(), torch.device("cpu"))
    inputs, scaling = prepare(series[0][None, :84])
    median = scaling.undo(answer_of_prior(inputs, 3)[..., 3].double().numpy())
    truth = series[0][84:]
    naive = series[0][72:84]
    assert np.abs(median[0] - truth).mean() < np.abs(naive - truth).mean()


def test_the_shipped_prior_cannot_be_changed_by_a_training():
    assert not any(weights.requires_grad for weights in load_prior().parameters())


def test_synthetic_series_are_reproducible_and_mostly_there():
    a = make_series(np.random.default_rng(3), 50, 80, (12,))
    b = make_series(np.random.default_rng(3), 50, 80, (12,))
    np.testing.assert_array_equal(a, b)
    assert (np.isfinite(a).mean(1) >= 0.5).all()
    assert not np.isinf(a).any()
    assert make_series(np.random.default_rng(3), 5, 400, (24, 168)).shape == (5, 400)
