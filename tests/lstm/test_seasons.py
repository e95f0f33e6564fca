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


def test_of_a_short_series_the_calendar_is_believed_and_of_a_long_one_the_autocorrelation():
    walk = np.random.default_rng(3).standard_normal(200).cumsum()
    assert choose_season_lengths(Series.of([walk]), (12,)) == ()
    assert choose_season_lengths(Series.of([walk[:40]]), (12,)) == (12,)
    assert choose_season_lengths(Series.of([walk[:25]]), (12,)) == ()  # not two of them, and two observations more


def test_a_long_series_of_which_only_the_end_is_tested_is_not_a_short_one():
    walk = np.random.default_rng(5).standard_normal(9_000).cumsum()
    assert choose_season_lengths(Series.of([walk]), (1_440,)) == ()
    assert choose_season_lengths(Series.of([walk[:4_000]]), (1_440,)) == (1_440,)


def test_only_the_shortest_is_believed():
    walk = np.random.default_rng(4).standard_normal(500).cumsum()
    assert choose_season_lengths(Series.of([walk[:120]]), (24, 48)) == (24,)


def test_what_is_too_short_to_show_a_season_is_looked_at_whole(seasonal):
    whole, short = Series.of([seasonal(40)]), Series.of([seasonal(40)[:20]])
    assert choose_season_lengths(short, (12,)) == ()
    assert choose_season_lengths(short, (12,), whole) == (12,)
    long = Series.of([np.random.default_rng(3).standard_normal(200).cumsum()])  # it could show one, and is asked alone
    assert choose_season_lengths(long, (12,), whole) == ()


def test_gaps_and_constants_are_no_trouble(seasonal):
    gappy = seasonal(120)
    gappy[30:50] = np.nan
    assert has_season(gappy, 12)
    assert not has_season(np.ones(60), 12)
    assert not has_season(np.full(60, np.nan), 12)
