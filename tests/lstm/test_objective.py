"""The loss and its gradient by compiled code are those of torch."""

import copy
import ctypes
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.lstm import compiled, objective
from app.lstm.choices import choose
from app.lstm.config import Request
from app.lstm.inputs import Inputs
from app.lstm.losses import make_loss
from app.lstm.network import Network

CPU = torch.device("cpu")
needs_library = pytest.mark.skipif(
    compiled.load_library() is None, reason="the compiled code was not built: pip found no C compiler"
)


def make_network(monthly, horizon, levels):
    config = choose(Request(horizon=horizon, season_lengths=(12,), quantile_levels=levels), monthly, "cpu")
    config = replace(config, context_length=24, hidden_size=5, dropout=0.0)
    torch.manual_seed(0)
    return config, Network(config, feature_count=3, base_count=11)


def draw_batch(network, rows, *, weight=1.0):
    H, K, Q = network.shape
    inputs = Inputs(
        window=torch.randn(rows, 24),
        mask=torch.ones(rows, 24),
        features=torch.randn(rows, 3),
        bases=torch.randn(rows, H, K),
        logits=torch.randn(rows, H, K),
        shift=torch.randn(rows, H),
        gaps=torch.rand(rows, H, Q - 1) + 0.01,
        unit=torch.ones(rows, 1),
    )
    return inputs, torch.randn(rows, H), (torch.rand(rows, H) < 0.7).float() * weight


def load_kind(kind):
    path = next(Path(compiled.__file__).parent.glob("_native*"))
    return compiled.choose_kind(ctypes.CDLL(str(path)), kind)


def lower(network, measure, batch, library=None, levels=None):
    """The loss, and its gradient by every weight."""
    network.zero_grad()
    if library is None:
        loss = objective.run_by_torch(network, measure, "float32", *batch)
    else:
        loss = objective.run_compiled(library, network, torch.tensor(levels), *batch)
    (3 * loss).backward()
    return float(loss.detach()), [one.grad.clone() for one in network.parameters()]


@needs_library
@pytest.mark.parametrize("kind", ["avx2", "any"])
@pytest.mark.parametrize("levels", [(0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975), (0.5,), (0.1, 0.5), (0.5, 0.9, 0.99)])
@pytest.mark.parametrize(("rows", "horizon"), [(1, 1), (5, 7), (33, 12)])
def test_loss_and_gradient_are_those_of_torch(monthly, kind, levels, rows, horizon):
    _, network = make_network(monthly, horizon, levels)
    torch.nn.init.normal_(network.out.weight, std=0.5)
    measure = make_loss("quantile", levels, CPU)
    batch = draw_batch(network, rows, weight=0.3)
    expected, by_torch = lower(network, measure, batch)
    found, by_compiled = lower(network, measure, batch, load_kind(kind), levels)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-7)
    for one, other in zip(by_compiled, by_torch, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@needs_library
def test_a_forecast_that_hits_has_torchs_gradient_and_what_was_not_observed_none(monthly):
    levels = (0.1, 0.5, 0.9)
    _, network = make_network(monthly, 4, levels)
    measure = make_loss("quantile", levels, CPU)
    inputs, target, observed = draw_batch(network, 3)
    with torch.no_grad():
        target = network(inputs)[..., 1].clone()  # the median, to the bit or nearly so
    expected, _ = lower(network, measure, (inputs, target, torch.zeros_like(observed)))
    found, by_compiled = lower(network, measure, (inputs, target, torch.zeros_like(observed)), load_kind("any"), levels)
    assert expected == found == 0.0
    assert not any(one.any() for one in by_compiled)
    zeros = Inputs(*(torch.zeros_like(getattr(inputs, name)) for name in Inputs.__dataclass_fields__))
    batch = zeros, torch.zeros_like(target), torch.ones_like(observed)  # every quantile hits exactly
    for one, other in zip(
        lower(network, measure, batch, load_kind("any"), levels)[1], lower(network, measure, batch)[1], strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@needs_library
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_hidden(monthly, wrong):
    levels = (0.1, 0.5, 0.9)
    _, network = make_network(monthly, 4, levels)
    with torch.no_grad():
        network.out.bias[0] = wrong
    batch = draw_batch(network, 3)
    found, _ = lower(network, None, batch, load_kind("avx2"), levels)
    assert found != found


def test_who_takes_the_compiled_way(monthly, monkeypatch):
    config, network = make_network(monthly, 4, (0.1, 0.5, 0.9))
    measure = make_loss("quantile", (0.1, 0.5, 0.9), CPU)
    ways = [
        objective.make_objective(network, measure, config, CPU).func,
        objective.make_objective(network, measure, replace(config, precision="bfloat16"), CPU).func,
        objective.make_objective(network, measure, config, torch.device("meta")).func,
        objective.make_objective(copy.deepcopy(network).double(), measure, config, CPU).func,
    ]
    built = compiled.load_library() is not None
    assert ways == [objective.run_compiled if built else objective.run_by_torch] + 3 * [objective.run_by_torch]
    monkeypatch.setattr(objective, "load_library", lambda: None)
    assert objective.make_objective(network, measure, config, CPU).func is objective.run_by_torch
