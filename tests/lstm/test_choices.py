import numpy as np
import pytest

from app.lstm.choices import (
    choose,
    choose_context_length,
    choose_history_length,
    choose_patch_length,
    least_seen,
    positive_share,
)
from app.lstm.config import MAX_CONTEXT_LENGTH, Request
from app.lstm.windows import Series


@pytest.mark.parametrize("seasons", [(), (4,), (7,), (12,), (24, 168), (48, 336), (52,), (365,)])
@pytest.mark.parametrize("horizon", [1, 18, 96, 400])
@pytest.mark.parametrize("typical", [3, 30, 300, 5000])
def test_lengths_fit_together(seasons, horizon, typical):
    context = choose_context_length(seasons, horizon, typical)
    history = choose_history_length(seasons, context, typical, horizon)
    patch = choose_patch_length(seasons)
    assert 1 <= context <= history <= MAX_CONTEXT_LENGTH
    assert 1 <= patch <= 48


def test_what_was_asked_is_kept():
    asked = {"hidden_size": 7, "num_layers": 2, "dropout": 0.0, "learning_rate": 0.5, "batch_size": 9, "max_steps": 11}
    series = Series.of([np.arange(1.0, 60.0)])
    config = choose(Request(horizon=3, season_lengths=(5,), context_length=20, weight_decay=0.0, **asked), series, "cpu")
    assert (config.hidden_size, config.num_layers, config.dropout, config.learning_rate) == (7, 2, 0.0, 0.5)
    assert (config.batch_size, config.steps, config.weight_decay) == (9, 11, 0.0)
    assert (config.season_lengths, config.context_length) == ((5,), 20)


def test_the_logarithm_is_for_positive_data():
    positive, mixed = np.arange(1.0, 30.0), np.arange(-5.0, 30.0)
    assert positive_share(Series.of([positive, mixed])) == 0.5
    assert choose(Request(horizon=3), Series.of([positive]), "cpu").transformation == "log"
    assert choose(Request(horizon=3), Series.of([mixed]), "cpu").transformation == "none"


def test_a_missing_value_is_not_negative():
    assert positive_share(Series.of([np.array([1.0, np.nan, 2.0])])) == 1.0


def test_long_series_are_learned_from_whole_windows_and_linear_forecasts():
    steps = np.arange(1500.0)
    long = Series.of([10 + np.sin(2 * np.pi * steps / 24 + phase) for phase in range(60)])
    config = choose(Request(horizon=24, candidate_season_lengths=(24,)), long, "cpu")
    assert config.bases == "linear"
    assert config.history_length == config.context_length == least_seen(config)
    assert choose(Request(horizon=24), long.take(np.arange(40)), "cpu").bases == "all"
    many_short = Series.of([10 + np.sin(steps[:100]) for _ in range(1000)])
    short = choose(Request(horizon=6, candidate_season_lengths=(12,)), many_short, "cpu")
    assert short.bases == "all"
    assert least_seen(short) < short.context_length
