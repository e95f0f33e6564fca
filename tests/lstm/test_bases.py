import numpy as np
import pytest
import torch

from app.lstm import tables
from app.lstm.bases import FixedBases
from app.lstm.compiled import load_library
from app.lstm.fitted import (
    DampedHolt,
    FittedBases,
    Units,
    fade_season,
    run_regression,
    weigh_constants,
)
from app.lstm.tables import FIRST_SLOPE, FITTED, HOLT, QUICK

SHAPES = [(48, 12, (12,)), (336, 48, (24, 168)), (10, 6, ()), (2, 3, ()), (1, 2, ()), (50, 7, (12,))]
CPU = torch.device("cpu")


def plain_units(count, log=False):
    return Units(torch.zeros(count, 1), torch.ones(count, 1), torch.full((count, 1), log))


def forecast(history, horizon, seasons, log=False):
    """Name -> [H], by fixed and fitted bases of one history [R]."""
    window = torch.tensor(np.asarray(history), dtype=torch.float32)[None]
    fixed = FixedBases(window.shape[1], horizon, seasons, CPU)
    fitted = FittedBases(window.shape[1], horizon, seasons, FITTED, CPU)
    forecasts, errors = fitted(window, torch.ones_like(window), plain_units(1, log))
    assert torch.isfinite(errors).all()
    ahead = torch.cat([fixed(window), forecasts], -1)[0].numpy()
    return dict(zip((*fixed.names, *fitted.names), ahead.T, strict=True))


@pytest.mark.parametrize(("length", "horizon", "seasons"), SHAPES)
def test_every_base_follows_a_shift(length, horizon, seasons):
    history = np.random.default_rng(0).standard_normal(length)
    shifted = forecast(history + 5, horizon, seasons)
    for name, ahead in forecast(history, horizon, seasons).items():
        assert ahead.shape == (horizon,), name
        np.testing.assert_allclose(shifted[name], ahead + 5, atol=2e-3, err_msg=name)


def test_a_season_is_repeated():
    season = np.sin(2 * np.pi * np.arange(60) / 12)
    ahead = forecast(season[:48], 12, (12,))
    for name in ("naive.0", "shape_2.0", "shape_4.0", "shape_all.0", "ses.0", "dot.0", "damped.0"):
        np.testing.assert_allclose(ahead[name], season[48:], atol=2e-2, err_msg=name)


def test_a_line_goes_on():
    ahead = forecast(np.arange(48.0), 12, ())
    np.testing.assert_allclose(ahead["last"], 47)
    np.testing.assert_allclose(ahead["dot.0"], np.arange(48, 60), atol=1e-1)
    np.testing.assert_allclose(ahead["dot_raw.0"], ahead["dot.0"], atol=1e-2)
    assert (np.diff(ahead["drift"]) > 0.4).all()


def test_growth_by_amounts_and_growth_by_percent_are_both_there():
    steps = np.arange(40.0)
    percent = forecast(0.05 * steps, 10, (), log=True)
    np.testing.assert_allclose(percent["dot.0"], 0.05 * np.arange(40, 50), atol=0.02)
    amounts = forecast(np.log(10 + steps), 10, (), log=True)
    np.testing.assert_allclose(np.exp(amounts["dot_raw.0"]), 10 + np.arange(40, 50), rtol=0.01)


def test_simple_exponential_smoothing_by_hand():
    level = 1.0
    for value in (5.0, 2.0):
        level += 0.5 * (value - level)
    np.testing.assert_allclose(forecast([1.0, 5.0, 2.0], 1, ())["ses"], level)


@pytest.fixture(params=["torch", "compiled"])
def set_constants(request, monkeypatch):
    """Gives the smoothing one constant in place of many; compiled code, whose number of them is fixed, the same one many times."""
    if request.param == "torch":
        monkeypatch.setattr("app.lstm.fitted.load_library", lambda: None)
        return lambda name, constant: monkeypatch.setattr(f"app.lstm.fitted.{name}", (constant,))
    if load_library() is None:
        pytest.skip("the compiled forecasts were not built: pip found no C compiler")
    return lambda name, constant: monkeypatch.setattr(f"app.lstm.tables.{name}", (constant,) * len(getattr(tables, name)))


def test_damped_holt_by_hand(set_constants):
    set_constants("HOLT", (0.5, 0.4, 0.9))
    history = np.array([1.0, 5.0, 2.0, 3.0])
    level, trend = 1.0, (3.0 - 1.0) / 3
    for value in history[1:]:
        expected = level + 0.9 * trend
        level, trend = expected + 0.5 * (value - expected), 0.9 * trend + 0.2 * (value - expected)
    by_hand = [level + 0.9 * trend, level + (0.9 + 0.81) * trend]
    np.testing.assert_allclose(forecast(history, 2, ())["damped.0"], by_hand, rtol=1e-5)


def test_dynamic_theta_by_hand(set_constants):
    """Level, regression and errors as in Fiorucci et al. (2016), one constant, the share of the drift by a search."""
    set_constants("ALPHAS", 0.3)
    y, alpha, horizon = np.array([3.0, 4.5, 4.0, 6.0, 7.0, 6.5, 8.0, 9.5]), 0.3, 3

    def drift(n, intercept, slope):
        return (1 - alpha) ** n * (intercept - y[0]) + (1 - (1 - alpha) ** (n + 1)) / alpha * slope

    def run(share):
        level, squares = y[0], 0.0
        for t in range(1, len(y)):
            slope, intercept = np.polyfit(np.arange(1, t + 1), y[:t], 1) if t > 1 else (0.0, y[0])
            error = y[t] - level - share * drift(t, intercept, slope)
            squares += error**2 if t >= 2 else 0.0
            level += alpha * (y[t] - level)
        slope, intercept = np.polyfit(np.arange(1, len(y) + 1), y, 1)
        ahead, state = [], level
        for k in range(horizon):
            part = share * drift(len(y) + k, intercept, slope)
            ahead.append(state + part)
            state += alpha * part
        return squares, ahead

    best = min(np.linspace(0, 1, 2001), key=lambda share: run(share)[0])
    scaled = forecast(y, horizon, ())
    np.testing.assert_allclose(scaled["dot.0"], run(best)[1], rtol=2e-3)
    np.testing.assert_allclose(scaled["theta.0"], run(0.5)[1], rtol=1e-4)
    np.testing.assert_allclose(scaled["ses.0"], run(0.0)[1], rtol=1e-4)


def test_the_running_line_is_that_of_least_squares():
    values = torch.tensor([[2.0, 3.0, 1.0, 7.0, 4.0]])
    intercept, slope = run_regression(values, torch.ones_like(values), torch.arange(1.0, 6.0)[None])
    for n in range(2, 6):
        expected = np.polyfit(np.arange(1, n + 1), values[0, :n].numpy(), 1)
        np.testing.assert_allclose([slope[0, n - 1], intercept[0, n - 1]], expected, rtol=1e-4, atol=1e-4)


def test_constants_are_weighed_by_likelihood():
    same, _ = weigh_constants(torch.tensor([[2.0], [2.0]]), torch.tensor([10.0]))  # [C, N]
    np.testing.assert_allclose(same[:, 0], [0.5, 0.5])
    better, rms = weigh_constants(torch.tensor([[2.0], [4.0]]), torch.tensor([10.0]))
    assert float(better[0] / better[1]) == pytest.approx(2**5, rel=1e-3)  # (4 / 2)^(10 / 2)
    assert float(rms) == pytest.approx(np.sqrt((2 * 2**5 + 4) / (2**5 + 1) / 10), rel=1e-3)


@pytest.mark.parametrize("length", [1, 3, 16, 20, 128])
def test_holt_in_blocks_is_holt_step_by_step(length):
    """Every constant alone, in float64, with values that begin late and are judged in parts."""
    rng = np.random.default_rng(length)
    first = int(rng.integers(length))
    values = np.where(np.arange(length) > first, rng.standard_normal(length).cumsum(), 0.0)
    judged = (rng.random(length) < 0.8) * 1.0
    slope_at = min(first + FIRST_SLOPE, length - 1)
    slope = values[slope_at] / max(slope_at - first, 1)
    squares, aheads = [], []
    for alpha, beta, damping in HOLT:
        level, trend, errors = 0.0, slope, np.zeros(length)
        for t in range(first + 1, length):
            errors[t] = values[t] - level - damping * trend
            level, trend = level + damping * trend + alpha * errors[t], damping * trend + alpha * beta * errors[t]
        squares.append([(errors**2 * judged).sum()])
        aheads.append(level + trend * np.cumsum(damping ** np.arange(1, 5)))
    weights, rms = weigh_constants(torch.tensor(squares), torch.tensor([judged.sum()]))
    rows = [torch.tensor(row[None], dtype=torch.float32) for row in (values, judged)]
    found, found_rms = DampedHolt(length, 4, CPU)(rows[0], torch.tensor([[first]]), rows[1])
    np.testing.assert_allclose(found[0], weights[:, 0].numpy() @ np.array(aheads), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found_rms, rms, rtol=1e-4, atol=1e-5)


def test_smoothing_constants_follow_the_series():
    rng = np.random.default_rng(0)
    noise, walk = rng.standard_normal(100), rng.standard_normal(100).cumsum()
    assert abs(forecast(noise, 1, ())["ses.0"][0] - noise.mean()) < 0.4
    assert abs(forecast(walk, 1, ())["ses.0"][0] - walk[-1]) < 1.0


def test_a_season_that_chance_explains_is_drawn_to_nothing():
    rng = np.random.default_rng(0)
    noise = torch.tensor(rng.standard_normal((50, 60)), dtype=torch.float32)
    season = noise + 3 * torch.sin(2 * torch.pi * torch.arange(60) / 12)
    mask = torch.ones_like(noise)
    assert float(fade_season(noise, mask, 12).abs().mean()) < 0.35
    found = fade_season(season, mask, 12)
    np.testing.assert_allclose(found.mean(0), 3 * np.sin(2 * np.pi * np.arange(60, 72) / 12), atol=0.45)


def test_a_trend_is_no_season():
    line = torch.arange(48.0)[None]
    np.testing.assert_allclose(fade_season(line, torch.ones_like(line), 12), 0, atol=1e-3)


def test_what_is_masked_in_front_does_not_count():
    """A short series padded in front is forecast as the short series itself."""
    rng = np.random.default_rng(0)
    short = torch.tensor(rng.standard_normal((3, 30)).cumsum(1), dtype=torch.float32)
    padded = torch.cat([torch.full((3, 18), 77.0), short], 1)
    mask = torch.cat([torch.zeros(3, 18), torch.ones(3, 30)], 1)
    alone, errors = FittedBases(30, 5, (), FITTED, CPU)(short, torch.ones_like(short), plain_units(3))
    behind, same_errors = FittedBases(48, 5, (), FITTED, CPU)(padded, mask, plain_units(3))
    plain = [place for place, kind in enumerate(FITTED) if not kind.endswith("_raw")]
    np.testing.assert_allclose(behind[..., plain], alone[..., plain], atol=2e-3)
    np.testing.assert_allclose(same_errors[:, plain], errors[:, plain], atol=2e-3)


def test_the_quick_ones_are_the_same_as_among_all():
    window = torch.randn(4, 60, generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(window)
    everything, quick = FittedBases(60, 6, (12,), FITTED, CPU), FittedBases(60, 6, (12,), QUICK, CPU)
    a, b = everything(window, mask, plain_units(4))[0], quick(window, mask, plain_units(4))[0]
    for place, name in enumerate(quick.names):
        # A product over more rows rounds its sums in another order.
        np.testing.assert_allclose(b[..., place], a[..., everything.names.index(name)], rtol=1e-5, atol=1e-6)


def test_smoothing_without_the_season_by_hand():
    season = np.array([3.0, -1.0, -2.0, 0.0])
    level = np.array([1.0, 2.0, 4.0, 3.0, 5.0, 4.0, 6.0, 8.0])
    history = level + np.tile(season, 2)
    shape = history.reshape(2, 4).mean(0)
    shape = shape - shape.mean()
    plain = history - np.tile(shape, 2)
    smoothed = {}
    for alpha in (0.2, 0.3, 0.5):
        smoothed[alpha] = plain[0]
        for value in plain[1:]:
            smoothed[alpha] += alpha * (value - smoothed[alpha])
    line = np.polyfit(np.arange(8), plain, 1)[0]
    bases = FixedBases(8, 5, (4,), CPU, deseasoned=True)
    ahead = dict(zip(bases.names, bases(torch.tensor(history[None], dtype=torch.float32))[0].numpy().T, strict=True))
    repeated = np.resize(shape, 5)
    np.testing.assert_allclose(ahead["slow.0"], smoothed[0.2] + repeated, atol=1e-4)
    np.testing.assert_allclose(ahead["fast.0"], smoothed[0.5] + repeated, atol=1e-4)
    np.testing.assert_allclose(ahead["line.0"], smoothed[0.3] + 0.5 * line * np.arange(1, 6) + repeated, atol=1e-4)
