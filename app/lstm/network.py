"""The network: an LSTM over patches of the window, which weighs classical forecasts and says how sure it is."""

import torch
from torch import Tensor, nn

from app.lstm.config import Config
from app.lstm.inputs import Inputs

FIRST_GAP = 0.3
"""Between neighbouring quantiles before anything is learned, in units of the window's spread."""


class Network(nn.Module):
    """Patches -> LSTM -> head -> a softmax gate over the bases for each step ahead, plus residual and spread.

    One step of the LSTM is one patch (a season where there is one): a hundred times fewer steps than observations.
    """

    def __init__(self, config: Config, feature_count: int, base_count: int) -> None:
        super().__init__()
        self.patch = config.patch_length
        self.shape = (config.horizon, base_count, len(config.quantile_levels))
        self.middle = config.quantile_levels.index(0.5)
        H, K, Q = self.shape
        hidden = config.hidden_size
        self.lstm = nn.LSTM(
            2 * self.patch,
            hidden,
            config.num_layers,
            batch_first=True,
            dropout=config.dropout if config.num_layers > 1 else 0.0,
        )
        self.head = nn.Sequential(
            nn.Linear(hidden + config.context_length + feature_count, 2 * hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(2 * hidden, 2 * hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
        )
        self.out = nn.Linear(2 * hidden, H * (K + Q))
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            self.out.bias.zero_()
            first = torch.full((H, Q), float(torch.tensor(FIRST_GAP).expm1().log()))  # [H, Q], softplus of it is the gap
            first[:, self.middle] = 0.0
            self.out.bias[H * K :] = first.reshape(-1)

    def start_from(self, errors: Tensor) -> None:
        """Begin as the average of the bases that weighs each by its inverse squared error [H, K]; they are positive."""
        with torch.no_grad():
            self.out.bias[: errors.numel()] = (-2 * errors.log()).reshape(-1)

    def forward(self, inputs: Inputs) -> Tensor:
        """-> quantiles [B, H, Q] in the window's units, ordered along Q by construction."""
        H, K, Q = self.shape
        B, L = inputs.window.shape
        lead = -L % self.patch
        window = nn.functional.pad(inputs.window, (lead, 0)).view(B, -1, self.patch)  # [B, P, patch]
        mask = nn.functional.pad(inputs.mask, (lead, 0)).view(B, -1, self.patch)  # [B, P, patch]
        states, _ = self.lstm(torch.cat([window, mask], -1))  # [B, P, hidden]
        head = self.head(torch.cat([states[:, -1], inputs.window, inputs.features], -1))  # [B, 2 * hidden]
        logits, spread = self.out(head).split([H * K, H * Q], -1)
        gate = logits.view(B, H, K).softmax(-1)  # [B, H, K]
        spread = spread.view(B, H, Q)  # [B, H, Q]
        median = (gate * inputs.bases).sum(-1) + spread[..., self.middle]  # [B, H]
        below, above = spread[..., : self.middle], spread[..., self.middle + 1 :]
        gaps_below = nn.functional.softplus(below).flip(-1).cumsum(-1).flip(-1)  # [B, H, Q below]
        gaps_above = nn.functional.softplus(above).cumsum(-1)  # [B, H, Q above]
        middle = median.unsqueeze(-1)  # [B, H, 1]
        return torch.cat([middle - gaps_below, middle, middle + gaps_above], -1)  # [B, H, Q]
