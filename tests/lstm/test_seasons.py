import numpy as np

from app.lstm.seasons import choose_season_lengths, has_season
from app.lstm.windows import Series


def test_finds_the_season_that_is_there(seasonal):
    assert choose_season_lengths(Series.of([seasonal(120)]), (12,)) == (12,)


def test_finds_two_seasons_at_most_and_ascending():
    rng = np.random.default_rng(0)
    steps = np.arange(24 * 7 * 6)
    values = 10 + np.sin(2 * np.pi * steps / 24) + (steps // 24 % 7 >= 5) + 0.1 * rng.standard_normal(len(steps))
    assert choose_season_lengths(Series.of([values]), (168, 24)) == (24, 168)


def test_a_daily_shape_alone_is_not_a_week():
    rng = np.random.default_rng(1)
    steps = np.arange(24 * 7 * 6)
    values = [10 + np.sin(2 * np.pi * steps / 24) + 0.3 * rng.standard_normal(len(steps)) for _ in range(20)]
    assert not has_season(values[0], 168, (24,))
    assert np.mean([has_season(v, 168, (24,)) for v in values]) < 0.3


def test_a_random_walk_has_none():
    walks = np.random.default_rng(0).standard_normal((50, 200)).cumsum(1)
    assert np.mean([has_season(walk, 12) for walk in walks]) < 0.15


def test_gaps_and_constants_are_no_trouble(seasonal):
    gappy = seasonal(120)
    gappy[30:50] = np.nan
    assert has_season(gappy, 12)
    assert not has_season(np.ones(60), 12)
    assert not has_season(np.full(60, np.nan), 12)
