import subprocess
import sys

import pytest
import torch
from torch import nn

from app.lstm.optimizer import Optimizer, clip_gradient


def test_it_moves_parameters_exactly_as_torchs_own():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    theirs = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    theirs.load_state_dict(ours.state_dict())
    mine = Optimizer(ours.parameters(), "adamw", weight_decay=0.05)
    reference = torch.optim.AdamW(theirs.parameters(), weight_decay=0.05, fused=True)
    for step in range(20):
        inputs = torch.randn(8, 5)
        rate = 0.01 / (step + 1)
        reference.param_groups[0]["lr"] = rate
        mine.clear()
        reference.zero_grad()
        # every fourth step leaves the first layer without a gradient
        for network in (ours, theirs):
            (network(inputs) if step % 4 else network[1](inputs[:, :4])).square().sum().backward()
        mine.step(rate)
        reference.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


MAKERS = {
    "sgd": lambda weights: torch.optim.SGD(weights, weight_decay=0.05),
    "momentum": lambda weights: torch.optim.SGD(weights, momentum=0.9, weight_decay=0.05),
    "rmsprop": lambda weights: torch.optim.RMSprop(weights, alpha=0.9, weight_decay=0.05),
    "adam": lambda weights: torch.optim.Adam(weights, weight_decay=0.05),
}


@pytest.mark.parametrize("name", MAKERS)
def test_each_of_the_others_is_torchs_own_with_l2(name):
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(weights) for weights in torch.randn(5).repeat(2, 1).unbind())
    mine, reference = Optimizer([ours], name, weight_decay=0.05), MAKERS[name]([theirs])
    for step in range(10):
        reference.param_groups[0]["lr"] = 0.01 / (step + 1)
        for one in (ours, theirs):
            one.grad = (one.detach() - step).sin()
        mine.step(0.01 / (step + 1))
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_learning_does_not_load_torchs_compiler():
    code = (
        "import sys, numpy as np\n"
        "from app.lstm import Request, Series, learn\n"
        "series = Series(np.sin(np.arange(40.0)), np.array([0, 40]))\n"
        "learn(series, Request(horizon=2, max_steps=3), on_progress=lambda _: None, clock=lambda: 0.0)\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("limit", [0.1, 1e9, float("inf")])
def test_the_gradient_is_clipped_as_torch_does(limit):
    torch.manual_seed(0)
    ours, theirs = ([torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))] for _ in range(2))
    for one, other in zip(ours, theirs, strict=True):
        one.grad = torch.randn_like(one)
        other.grad = one.grad.clone()
    assert clip_gradient(ours, limit) == pytest.approx(float(torch.nn.utils.clip_grad_norm_(theirs, limit)))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=0)
