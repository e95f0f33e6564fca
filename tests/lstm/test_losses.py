import torch

from app.lstm.losses import make_loss, pinball


def test_pinball_by_hand():
    quantiles = torch.tensor([[[1.0, 3.0]]])  # [1, 1, 2]
    loss = pinball(quantiles, torch.tensor([[2.0]]), torch.ones(1, 1), torch.tensor([0.1, 0.9]))
    torch.testing.assert_close(loss, torch.tensor(0.2))  # 2 * mean(0.1 * 1, 0.1 * 1)


def test_missing_targets_count_nothing():
    quantiles = torch.tensor([[[1.0], [5.0]]])  # [1, 2, 1]
    target, observed = torch.tensor([[2.0, 100.0]]), torch.tensor([[1.0, 0.0]])
    torch.testing.assert_close(pinball(quantiles, target, observed, torch.tensor([0.5])), torch.tensor(1.0))
    assert pinball(quantiles, target, torch.zeros(1, 2), torch.tensor([0.5])) == 0


def test_each_point_loss_is_its_formula():
    errors = torch.tensor([0.3, -2.0, 4.0])
    expected = {
        "mse": (0.09 + 4 + 16) / 3,
        "mae": (0.3 + 2 + 4) / 3,
        "huber": (0.5 * 0.09 + (2 - 0.5) + (4 - 0.5)) / 3,
    }
    for name, value in expected.items():
        loss = make_loss(name, (0.5,), torch.device("cpu"))
        output = -torch.cat([errors, torch.tensor([100.0])]).view(4, 1, 1)
        observed = torch.tensor([[1.0], [1.0], [1.0], [0.0]])  # the last one is missing
        torch.testing.assert_close(loss(output, torch.zeros(4, 1), observed), torch.tensor(value))


def test_the_quantile_loss_is_pinball_at_its_levels():
    output, target, levels = torch.randn(5, 2, 2), torch.randn(5, 2), (0.1, 0.9)
    loss = make_loss("quantile", levels, torch.device("cpu"))
    torch.testing.assert_close(
        loss(output, target, torch.ones(5, 2)), pinball(output, target, torch.ones(5, 2), torch.tensor(levels))
    )
