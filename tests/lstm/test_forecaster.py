import time

import numpy as np
import pytest

from app.errors import ArtifactCorrupt, ContextTooShort, HorizonTooLong, QuantileOutOfRange
from app.lstm import Forecaster, Request, Series, learn

NAN = np.nan


@pytest.fixture(scope="module")
def learned(seasonal):
    series = Series.of([seasonal(90, seed=i) for i in range(3)])
    request = Request(horizon=6, candidate_season_lengths=(12,), max_steps=30)
    return learn(series, request, on_progress=lambda p: None, clock=time.monotonic)


@pytest.fixture(scope="module")
def forecaster(learned):
    return Forecaster.from_bytes(learned.artifact)


def test_save_and_load_are_exact(learned, forecaster, seasonal):
    contexts = np.stack([seasonal(60, seed=i) for i in range(5)])
    again = Forecaster.from_bytes(forecaster.to_bytes())
    assert forecaster.to_bytes() == learned.artifact
    np.testing.assert_array_equal(forecaster.predict(contexts), again.predict(contexts))
    assert again.config == learned.config


@pytest.mark.parametrize("factor", [1e-9, 2.5, 1e12])
def test_scale_equivariance(forecaster, factor, seasonal):
    contexts = np.stack([seasonal(60), seasonal(60) - 120])
    np.testing.assert_allclose(forecaster.predict(factor * contexts), factor * forecaster.predict(contexts), rtol=1e-4)


def test_ordered_and_finite_with_gaps_and_extremes(forecaster):
    rng = np.random.default_rng(0)
    contexts = rng.standard_normal((8, 60))
    contexts[0, :-1] = NAN
    contexts[1, 20:50] = NAN
    contexts[2] = 0
    contexts[3] *= 1e307
    contexts[4] = np.exp(10 * contexts[4])
    contexts[5, -10:] = NAN
    contexts[6] = 1e-320
    forecast = forecaster.predict(contexts)
    assert forecast.shape == (8, 6, 7)
    assert np.isfinite(forecast).all()
    assert (np.diff(forecast, axis=-1) >= 0).all()


def test_missing_is_not_zero(forecaster, seasonal):
    masked, zeroed = seasonal(60)[None].copy(), seasonal(60)[None].copy()
    masked[0, 55], zeroed[0, 55] = NAN, 0.0
    assert not np.allclose(forecaster.predict(masked), forecaster.predict(zeroed))


def test_leading_missing_values_change_nothing(forecaster, seasonal):
    context = seasonal(60)[None]
    padded = np.concatenate([np.full((1, 9), NAN), context], 1)
    np.testing.assert_array_equal(forecaster.predict(context), forecaster.predict(padded))


def test_rows_do_not_depend_on_their_neighbours(forecaster, seasonal):
    contexts = np.stack([seasonal(60, seed=i) for i in range(4)])
    np.testing.assert_allclose(forecaster.predict(contexts)[2:3], forecaster.predict(contexts[2:3]), rtol=1e-5)


def test_interpolates_between_learned_levels_and_not_beyond(forecaster, seasonal):
    contexts = seasonal(60)[None]
    whole = forecaster.predict(contexts)
    asked = forecaster.predict(contexts, quantile_levels=(0.1, 0.3, 0.5, 0.975))
    np.testing.assert_allclose(asked[..., [0, 2, 3]], whole[..., [1, 3, 6]])
    assert (asked[..., 1] > whole[..., 2]).all()
    assert (asked[..., 1] < whole[..., 3]).all()
    with pytest.raises(QuantileOutOfRange):
        forecaster.predict(contexts, quantile_levels=(0.01,))


def test_horizon_may_be_shorter_not_longer(forecaster, seasonal):
    contexts = seasonal(60)[None]
    np.testing.assert_array_equal(forecaster.predict(contexts, horizon=2), forecaster.predict(contexts)[:, :2])
    with pytest.raises(HorizonTooLong):
        forecaster.predict(contexts, horizon=7)


def test_a_row_without_values_is_named(forecaster, seasonal):
    contexts = np.stack([seasonal(20), np.full(20, NAN)])
    with pytest.raises(ContextTooShort) as caught:
        forecaster.predict(contexts)
    assert caught.value.facts["row"] == 1


@pytest.mark.parametrize(
    "damage",
    [lambda b: b"", lambda b: b[:100], lambda b: b[:-4], lambda b: b"x" * 500, lambda b: b.replace(b"horizon", b"horizom")],
)
def test_damaged_bytes_are_refused(learned, damage):
    with pytest.raises(ArtifactCorrupt):
        Forecaster.from_bytes(damage(learned.artifact))


def test_a_newer_format_is_refused(learned):
    data = learned.artifact.replace(b'\\"format\\": 2', b'\\"format\\": 9')
    assert data != learned.artifact
    with pytest.raises(ArtifactCorrupt, match="format 9"):
        Forecaster.from_bytes(data)
