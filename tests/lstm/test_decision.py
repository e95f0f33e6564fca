import numpy as np
import pytest

from app.lstm.decision import Trial, choose_stretches, decide, find_common, quantile_of_next, stretch_gaps

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


def test_few_scores_widen_all_gaps_alike():
    held_out = trial(width=0.5, windows=8)  # worth 32 scores, 30 say that all is well
    stretches, _ = choose_stretches(held_out.prior, held_out.actual, LEVELS)
    assert max(stretches) - min(stretches) < 0.1
    np.testing.assert_allclose(stretches, 1 + (2 - 1) * 32 / 62, atol=0.2)
    shaped, _ = choose_stretches(held_out.prior, held_out.actual, LEVELS, is_schooled=False)
    assert max(shaped) - min(shaped) > 0.1


def test_widths_from_few_scores_are_nominal_on_average():
    def cover(seed):
        few = trial(windows=5, seed=seed)
        stretches, _ = choose_stretches(few.prior, few.actual, LEVELS)
        low, high = stretch_gaps(DEVIATES[None, None], stretches, 3)[0, 0, [0, 6]]
        fresh = np.random.default_rng(1000 + seed).standard_normal(500)
        return np.mean((low <= fresh) & (fresh <= high))

    assert 0.95 <= np.mean([cover(seed) for seed in range(200)]) < 0.965


def test_a_quantile_of_few_scores_is_passed_as_seldom_as_it_says():
    scores = np.random.default_rng(0).standard_normal((20_000, 20))  # 19 known, the next one
    passed = np.mean([row[-1] > quantile_of_next(row[:-1], 0.9, 19) for row in scores])
    assert 0.09 < passed <= 0.101  # of np.quantile as it is: 0.14
    assert quantile_of_next(np.arange(4.0), 0.9, 4) == 3.0  # no higher than the highest


def test_the_common_factor_by_hand():
    gaps = np.broadcast_to([1.0, 1.0, 1.0, 1.0, 2.0, 1.0], (5, 6))  # the 80 % interval: from -2 to 3
    error = np.array([-4.0, -1.0, 0.0, 3.0, 9.0])  # by how much it must be widened: 2, 0.5, 0, 1, 3
    assert find_common(error, gaps, LEVELS, 1e9) == pytest.approx(2.2)  # the place 0.8 * 4 of 0, 0.5, 1, 2, 3
    # without lower levels 90 % stay below; 1 and 3 are the highest
    assert find_common(error, gaps[:, 3:], LEVELS[3:], 1e9) == pytest.approx(1 + 0.6 * 2)


@pytest.mark.parametrize("chosen", [[0, 3], [3, 5], [1, 3, 6], [3]])
def test_levels_as_they_come(chosen):
    held_out = trial(width=0.5)
    levels, middle = tuple(LEVELS[k] for k in chosen), chosen.index(3)
    stretches, _ = choose_stretches(held_out.prior[..., chosen], held_out.actual, levels)
    quantiles = stretch_gaps(held_out.prior[..., chosen], stretches, middle)
    below = (held_out.actual[..., None] <= quantiles).mean((0, 1))
    np.testing.assert_allclose(below, levels, atol=0.03)


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
    nothing = np.full_like(held_out.actual, np.nan)
    assert decide(Trial(held_out.net, held_out.prior, nothing), LEVELS, 0.5).stretches == (1.0,) * 6
