import numpy as np
import pytest

from app.lstm.decision import Trial, choose_stretches, decide, stretch_gaps

LEVELS = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
DEVIATES = np.array([-1.960, -1.2816, -0.6745, 0.0, 0.6745, 1.2816, 1.960])


def trial(width=1.0, windows=400, error=0.0, seed=0):
    rng = np.random.default_rng(seed)
    actual = rng.standard_normal((windows, 6))
    exact = np.broadcast_to(width * DEVIATES, (windows, 6, 7))
    return Trial(exact + error, exact, actual)


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
def test_widths_become_nominal(width):
    held_out = trial(width)
    stretches, _ = choose_stretches(held_out.prior, held_out.actual, LEVELS)
    fresh = trial(width, seed=1)
    quantiles = stretch_gaps(fresh.prior, stretches, 3)
    below = (fresh.actual[..., None] <= quantiles).mean((0, 1))
    np.testing.assert_allclose(below[[0, 1, 5, 6]], [0.025, 0.1, 0.9, 0.975], atol=0.02)


def test_stretched_quantiles_are_ordered():
    rng = np.random.default_rng(0)
    quantiles = np.sort(rng.standard_normal((50, 4, 7)), axis=-1)
    stretches, _ = choose_stretches(quantiles, 10 * rng.standard_normal((50, 4)), LEVELS)
    assert (np.diff(stretch_gaps(quantiles, stretches, 3), axis=-1) >= 0).all()


def test_the_better_one_gets_the_weight():
    assert decide(trial(error=3.0), LEVELS, 0.5).weight == 0.0
    swapped = trial(error=3.0)
    assert decide(Trial(swapped.prior, swapped.net, swapped.actual), LEVELS, 0.5).weight == 1.0


def test_chance_changes_nothing():
    assert decide(trial(windows=3, error=3.0), LEVELS, 0.25).weight == 0.25
    assert decide(None, LEVELS, 0.25).weight == 0.25
    assert decide(None, LEVELS, 0.25).stretches == (1.0,) * 6
    assert not decide(trial(windows=3), LEVELS, 0.25).calibrated


def test_missing_observations_do_not_count():
    held_out = trial()
    holed = held_out.actual.copy()
    holed[:, 3:] = np.nan
    a = decide(Trial(held_out.net, held_out.prior, holed), LEVELS, 0.5)
    b = decide(Trial(held_out.net[:, :3], held_out.prior[:, :3], held_out.actual[:, :3]), LEVELS, 0.5)
    assert a == b
