import numpy as np
import pytest
import torch

from app.lstm.choices import choose
from app.lstm.config import Request
from app.lstm.inputs import Preparation
from app.lstm.network import Network, answer_of_prior
from app.lstm.prior import load_prior
from app.lstm.stack import Stack
from app.lstm.windows import Series


def build(series: Series, **asked):
    config = choose(Request(horizon=6, candidate_season_lengths=(12,), **asked), series, "cpu")
    prepare = Preparation(config, load_prior(), torch.device("cpu"))
    torch.manual_seed(0)
    return prepare, Network(config, prepare.feature_count, prepare.base_count).eval()


def test_quantiles_are_ordered_whatever_the_weights(monthly):
    prepare, network = build(monthly)
    with torch.no_grad():
        for weights in network.parameters():
            weights.copy_(5 * torch.randn_like(weights))
    inputs, _ = prepare(np.random.default_rng(0).lognormal(0, 1, (16, 48)))
    assert (network(inputs).diff(dim=-1) >= 0).all()


def test_starts_as_the_prior(monthly, seasonal):
    prepare, network = build(monthly)
    inputs, _ = prepare(np.stack([seasonal(48), seasonal(48, noise=20.0)]))
    torch.testing.assert_close(network(inputs), answer_of_prior(inputs, 3))


def test_context_need_not_be_whole_patches(monthly, seasonal):
    prepare, network = build(monthly, context_length=31)
    inputs, _ = prepare(seasonal(48)[None])
    assert network(inputs).shape == (1, 6, 7)


def test_masked_is_not_zero(monthly):
    prepare, network = build(monthly)
    contexts = np.random.default_rng(0).standard_normal((1, 48))
    masked, zeroed = contexts.copy(), contexts.copy()
    masked[0, 40], zeroed[0, 40] = np.nan, 0.0
    assert not torch.allclose(network(prepare(masked)[0]), network(prepare(zeroed)[0]))


@pytest.mark.parametrize("asked", [{}, {"num_layers": 2, "context_length": 31}])
def test_nets_side_by_side_answer_as_each_alone(monthly, asked):
    prepare, network = build(monthly, **asked)
    other = build(monthly, **asked)[1]
    for each in (network, other):
        torch.nn.init.normal_(each.out.weight, std=0.05)
    inputs, _ = prepare(np.random.default_rng(0).lognormal(0, 1, (5, 48)))
    with torch.no_grad():
        torch.testing.assert_close(Stack([network, other])(inputs), torch.stack([network(inputs), other(inputs)]))
