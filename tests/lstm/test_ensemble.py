from dataclasses import replace

import numpy as np
import torch

from app.lstm.choices import choose
from app.lstm.config import Request
from app.lstm.ensemble import Ensemble
from app.lstm.inputs import Preparation
from app.lstm.network import Network
from app.lstm.prior import load_prior


def build(series, **decided):
    config = replace(choose(Request(horizon=6, season_lengths=(12,)), series, "cpu"), nets=2, **decided)
    prepare = Preparation(config, load_prior(), torch.device("cpu"))
    torch.manual_seed(0)
    networks = [Network(config, prepare.feature_count, prepare.base_count) for _ in range(2)]
    for network in networks:
        torch.nn.init.normal_(network.out.weight, std=0.05)
    return Ensemble(config, load_prior(), networks, torch.device("cpu"))


def test_the_weight_mixes_net_and_prior(monthly):
    contexts = monthly[0][None]
    prior, half, net = (build(monthly, net_weight=weight).predict(contexts) for weight in (0.0, 0.5, 1.0))
    assert not np.allclose(prior, net)
    between = (half >= np.minimum(prior, net) - 1e-9) & (half <= np.maximum(prior, net) + 1e-9)
    assert between.all()


def test_stretches_leave_the_median_and_the_order(monthly):
    contexts = monthly[0][None]
    plain = build(monthly).predict(contexts)
    wide = build(monthly, stretches=(2.0, 1.0, 1.5, 1.5, 1.0, 2.0)).predict(contexts)
    np.testing.assert_allclose(wide[..., 3], plain[..., 3])
    assert (np.diff(wide, axis=-1) >= 0).all()
    assert (wide[..., -1] > plain[..., -1]).all()


def test_tensors_there_and_back(monthly):
    ensemble = build(monthly)
    again = Ensemble.from_tensors(ensemble.config, ensemble.to_tensors(), torch.device("cpu"))
    np.testing.assert_array_equal(ensemble.predict(monthly[1][None]), again.predict(monthly[1][None]))


def test_what_came_before_the_reach_changes_nothing(monthly, seasonal):
    ensemble = build(monthly)
    context = np.concatenate([np.full(50, 1e9), seasonal(ensemble.reach)])[None]
    np.testing.assert_array_equal(ensemble.predict(context), ensemble.predict(context[:, 50:]))


def test_nets_of_linear_forecasts_are_judged_beside_the_same_prior(monthly):
    """Until it is decided that the nets stand alone, and then nothing is asked of it."""
    contexts = np.stack([monthly[0][-80:], monthly[1][-80:]])
    length = choose(Request(horizon=6, season_lengths=(12,)), monthly, "cpu").context_length
    linear = {"bases": "linear", "history_length": length}
    whole = build(monthly, bases="all", history_length=128, net_weight=0.0)
    judged = build(monthly, **linear, net_weight=0.0)
    np.testing.assert_allclose(judged.predict(contexts), whole.predict(contexts), rtol=1e-5)
    alone = build(monthly, **linear, net_weight=1.0, stretches=(1.0,) * 6)
    assert (judged.reach, alone.reach) == (whole.reach, length)
    np.testing.assert_allclose(alone.predict(contexts), build(monthly, **linear, net_weight=1.0).predict(contexts), rtol=1e-12)
