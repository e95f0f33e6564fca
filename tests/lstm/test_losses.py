import torch

from app.lstm.losses import pinball


def test_pinball_by_hand():
    quantiles = torch.tensor([[[1.0, 3.0]]])  # [1, 1, 2]
    loss = pinball(quantiles, torch.tensor([[2.0]]), torch.ones(1, 1), torch.tensor([0.1, 0.9]))
    torch.testing.assert_close(loss, torch.tensor(0.2))  # 2 * mean(0.1 * 1, 0.1 * 1)


def test_missing_targets_count_nothing():
    quantiles = torch.tensor([[[1.0], [5.0]]])  # [1, 2, 1]
    target, observed = torch.tensor([[2.0, 100.0]]), torch.tensor([[1.0, 0.0]])
    torch.testing.assert_close(pinball(quantiles, target, observed, torch.tensor([0.5])), torch.tensor(1.0))
    assert pinball(quantiles, target, torch.zeros(1, 2), torch.tensor([0.5])) == 0
