"""The network: an LSTM over patches of the window, which corrects what the prior makes of the classical forecasts."""

import torch
from torch import Tensor, nn

from app.lstm.cell import find_last_state
from app.lstm.config import Config
from app.lstm.inputs import Inputs, blend
from app.lstm.tables import WIDEST


class Network(nn.Module):
    """Patches -> LSTM -> head -> corrections of the gate over the bases, of the median and of the gaps between quantiles.

    One step of the LSTM is one patch (a season where there is one): a hundred times fewer steps than observations.
    The last layer begins at zero: before anything is learned, the answer is the prior's.
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
        self.out = nn.Linear(2 * hidden, H * (K + Q + 1))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, inputs: Inputs) -> Tensor:
        """-> quantiles [B, H, Q] in the window's units, ordered along Q by construction."""
        return self.answer(self.read(inputs), inputs)

    def read(self, inputs: Inputs) -> Tensor:
        """All that is learned: -> the last layer, [B, H * (K + Q + 1)]."""
        B, L = inputs.window.shape
        lead = -L % self.patch
        window = nn.functional.pad(inputs.window, (lead, 0)).view(B, -1, self.patch)  # [B, P, patch]
        mask = nn.functional.pad(inputs.mask, (lead, 0)).view(B, -1, self.patch)  # [B, P, patch]
        state = find_last_state(self.lstm, torch.cat([window, mask], -1), "tanh")  # [B, hidden]
        head = self.head(torch.cat([state, inputs.window, inputs.features], -1))  # [B, 2 * hidden]
        out: Tensor = self.out(head)
        return out

    def answer(self, out: Tensor, inputs: Inputs) -> Tensor:
        """What the last layer says of the forecasts: -> quantiles [B, H, Q]. A training's steps do it by compiled code
        (app/lstm/objective.py)."""
        (H, K, Q), B = self.shape, len(out)
        logits, rest, trust = torch.split(out, [H * K, H * Q, H], -1)
        rest = rest.view(B, H, Q)  # [B, H, Q]
        trust = 1 + trust  # [B, H], in the prior
        gate = (inputs.logits * trust.unsqueeze(-1) + logits.view(B, H, K)).softmax(-1)  # [B, H, K]
        median = (gate * inputs.bases).sum(-1) + inputs.shift * trust + rest[..., 0]  # [B, H]
        gaps = inputs.gaps * (WIDEST * torch.tanh(rest[..., 1:] / WIDEST)).exp()  # [B, H, Q - 1]
        return spread_quantiles(median, gaps, self.middle)


def answer_of_prior(inputs: Inputs, middle: int) -> Tensor:
    """The prior's own quantiles [B, H, Q], ordered along Q."""
    median = blend(inputs.logits, inputs.bases) + inputs.shift  # [B, H]
    return spread_quantiles(median, inputs.gaps, middle)


def spread_quantiles(median: Tensor, gaps: Tensor, middle: int) -> Tensor:
    """median [B, H] and the positive gaps on both sides of it [B, H, Q - 1] -> quantiles [B, H, Q]."""
    below = gaps[..., :middle].flip(-1).cumsum(-1).flip(-1)  # [B, H, Q below]
    above = gaps[..., middle:].cumsum(-1)  # [B, H, Q above]
    centre = median.unsqueeze(-1)  # [B, H, 1]
    return torch.cat([centre - below, centre, centre + above], -1)
