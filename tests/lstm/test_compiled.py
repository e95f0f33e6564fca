"""Compiled code and torch answer alike: nets of every shape, windows of every kind, for either kind of processor."""

import ctypes
import gc
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ArtifactCorrupt
from app.lstm import compiled
from app.lstm.architectures import build_network, prepare_windows
from app.lstm.choices import choose
from app.lstm.config import Config, Request
from app.lstm.ensemble import Ensemble
from app.lstm.forecaster import Forecaster
from app.lstm.inputs import lay_fitted
from app.lstm.prior import load_prior
from app.lstm.windows import Series

CPU = torch.device("cpu")
LIBRARY = compiled.load_library()
needs_library = pytest.mark.skipif(LIBRARY is None, reason="the compiled forecasts were not built: pip found no C compiler")
pytestmark = needs_library


@pytest.fixture(scope="module", autouse=True)
def _all_else_by_torch():
    """What is compared with: not even the windows are prepared by compiled code, nor their forecasts fitted."""
    with pytest.MonkeyPatch.context() as patch:
        for room in ("inputs", "fitted"):
            patch.setattr(f"app.lstm.{room}.load_library", lambda: None)
        lay_fitted.cache_clear()
        yield
    lay_fitted.cache_clear()


def build(seasons: tuple[int, ...] = (12,), **chosen) -> Ensemble:
    steps = np.arange(300)
    series = Series.of(
        [50 + 10 * np.sin(2 * np.pi * steps / 12 + i) + np.random.default_rng(i).normal(size=300) for i in range(3)]
    )
    request = Request(horizon=chosen.pop("horizon", 7), season_lengths=seasons)
    config = replace(choose(request, series, "cpu"), nets=2, net_weight=0.7, stretches=(1.4, 1.0, 0.8, 1.2, 1.0, 0.5))
    config = replace(config, **chosen)
    torch.manual_seed(0)
    networks = [build_network(prepare_windows(config, CPU)) for _ in range(config.nets)]
    for network in networks:
        torch.nn.init.normal_(network.out.weight, std=0.05)
    return Ensemble(config, load_prior(), networks, CPU)


def compile_kind(ensemble: Ensemble, kind: str) -> compiled.CompiledEnsemble:
    path = next(Path(compiled.__file__).parent.glob("_native*"))
    library = compiled.choose_kind(ctypes.CDLL(str(path)), kind)
    return compiled.CompiledEnsemble(library, ensemble.config, {n: t.numpy() for n, t in ensemble.to_tensors().items()})


def make_windows(length: int) -> np.ndarray:
    """Of every kind that real data has, [B, length]."""
    rng = np.random.default_rng(1)
    steps = np.arange(length)
    season = 50 + 10 * np.sin(2 * np.pi * steps / 12) + rng.normal(size=length)
    windows = np.stack([season, season - 45, np.round(np.maximum(rng.normal(size=length), 0)), season * 1e9, season * 1e-9])
    windows = np.concatenate(
        [windows, np.full((1, length), 5.0), np.zeros((1, length)), rng.normal(size=(3, length)).cumsum(1)]
    )
    holes = np.where(rng.random(windows.shape) < 0.3, np.nan, windows)
    late = np.where(steps < length - 8, np.nan, windows)
    late[:, -1] = windows[:, -1]
    single = np.full((2, length), np.nan)
    single[:, -1] = 3.0, -4.0
    quiet = windows.copy()
    quiet[:, -20:] = np.nan
    return np.concatenate([windows, holes, late, single, quiet])


def measure_difference(ensemble: Ensemble, kind: str, windows: np.ndarray) -> float:
    """Of each window's answers, over how far these reach."""
    expected = ensemble.predict(windows)
    found = compile_kind(ensemble, kind).predict(windows)
    assert np.isfinite(found).all()
    assert (np.diff(found, axis=-1) >= 0).all()
    size = np.maximum(np.abs(expected).max((1, 2)), np.nanmax(np.abs(windows), axis=1)) + 1e-30
    return float((np.abs(found - expected).max((1, 2)) / size).max())


@pytest.mark.parametrize("kind", ["any", "avx2"])
@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"seasons": ()},
        {"seasons": (7, 28), "horizon": 40},
        {"seasons": (5,), "horizon": 1},
        {"num_layers": 3, "hidden_size": 13, "nets": 3},
        {"net_weight": 0.0, "stretches": ()},
        {"net_weight": 1.0},
        {"transformation": "none"},
        {"patch_length": 5},
        {"bases": "linear", "history_length": 96},
        {"bases": "linear", "history_length": 96, "net_weight": 1.0},
        {"bases": "linear", "history_length": 96, "seasons": (12, 24), "net_weight": 0.25},
        {"history_length": 1000, "seasons": (24,)},
    ],
    ids=str,
)
def test_compiled_code_answers_as_torch_does(kind, chosen):
    if kind == "avx2" and compiled.load_library() is not None and not has_avx2():
        pytest.skip("this processor has no AVX2")
    ensemble = build(**chosen)
    assert ensemble._prepare._compiled is None
    for length in (ensemble.reach + 30, max(ensemble.reach // 3, 2)):
        assert measure_difference(ensemble, kind, make_windows(length)) < 1e-5


def has_avx2() -> bool:
    path = next(Path(compiled.__file__).parent.glob("_native*"))
    return bool(ctypes.CDLL(str(path)).has_avx2())


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(np.nan)), min_size=2, max_size=200),
    scale=st.sampled_from([1.0, 1e-9, 1e12]),
)
def test_any_window_is_answered_alike(values, scale):
    """Where a fitted forecast fits a window perfectly, what is left is rounding, by which torch and C weigh differently: of a few
    values, or of round ones, the outer quantiles may differ by several percent, and only their order can be asked for. And what
    rounding leaves in a logarithm grows with how far the window's logarithms reach: from 1e-300 to 1 they are 690 apart."""
    window = np.array([values]) * scale
    window[0, -1] = 1.0 * scale
    ensemble = build_once()
    measure_difference(ensemble, "any", window)
    noise = np.random.default_rng(len(values)).normal(size=40) * np.nanstd(window)
    full = np.concatenate([window, noise[None] + scale], 1)
    decades = np.ptp(np.log10(full[full > 0]))
    assert measure_difference(ensemble, "any", full) < 1e-4 * max(decades / 10, 1)


@cache
def build_once() -> Ensemble:
    return build()


def test_many_windows_are_answered_as_each_by_itself():
    ensemble = compile_kind(build(), "any")
    windows = make_windows(150).repeat(3, 0)
    together = ensemble.predict(windows)
    for at in range(0, len(windows), 17):
        np.testing.assert_allclose(together[at], ensemble.predict(windows[at : at + 1])[0], rtol=1e-5)
    assert ensemble.predict(windows[:0]).shape == (0, 7, 7)


def test_what_it_points_at_lives_as_long_as_itself():
    ensemble = compile_kind(build(), "any")
    windows = make_windows(150)
    before = ensemble.predict(windows)
    gc.collect()
    [np.full(10_000, np.nan) for _ in range(200)]
    np.testing.assert_array_equal(ensemble.predict(windows), before)


def test_an_artifact_of_other_shapes_is_refused():
    ensemble = build()
    tensors = {name: tensor.numpy() for name, tensor in ensemble.to_tensors().items()}
    for name in tensors:
        with pytest.raises(ValueError, match=name):
            compiled.compile_ensemble(ensemble.config, {**tensors, name: tensors[name][1:]})
    forecaster = Forecaster.of(ensemble)
    other = replace(Config.from_dict(forecaster.config), hidden_size=64)
    with pytest.raises(ArtifactCorrupt):
        Forecaster.from_bytes(Forecaster(other, tensors, forecaster._predictor).to_bytes())


def test_a_process_that_forecasts_has_no_torch(tmp_path):
    path = tmp_path / "artifact"
    path.write_bytes(Forecaster.of(build()).to_bytes())
    code = (
        "import sys, numpy as np; from app.lstm import Forecaster; "
        f"answer = Forecaster.from_bytes(open({str(path)!r}, 'rb').read()).predict(np.arange(1.0, 60)[None]); "
        "assert np.isfinite(answer).all(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "chosen", [{}, {"seasons": (7, 28), "horizon": 40}, {"bases": "linear", "history_length": 96}], ids=str
)
def test_a_net_learns_from_the_same_windows(chosen, monkeypatch):
    """As compiled code prepares them and as torch does."""
    config = build(**chosen).config
    by_torch = prepare_windows(config, CPU)
    monkeypatch.setattr("app.lstm.inputs.load_library", compiled.load_library)
    by_code = prepare_windows(config, CPU)
    windows = make_windows(by_code.reach + 5)
    (found, scaling), (expected, other) = by_code(windows), by_torch(windows)
    for name in expected.__dataclass_fields__:
        size = float(getattr(expected, name).abs().max()) + 1e-9
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-5 * size, err_msg=name)
    for name in other.__dataclass_fields__:
        np.testing.assert_allclose(getattr(scaling, name), getattr(other, name), rtol=1e-9, err_msg=name)
