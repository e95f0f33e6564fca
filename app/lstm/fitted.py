"""Classical forecasts fitted to each window: smoothing constants weighed by how well they would have forecast it.

Exponential smoothing is linear in the data once its constants are fixed, so a grid of constants is one matrix product
that gives every one-step error and every forecast of every window at once; nothing runs through time.
"""

import numpy as np
import torch
from torch import Tensor

from app.lstm.bases import remove_season, repeat_ahead
from app.lstm.windows import Floats

ALPHAS = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)
HOLT = tuple((alpha, beta) for alpha in (0.1, 0.4, 0.8) for beta in (0.03, 0.2))
DAMPING = 0.9
SHARES_OF_TREND = (0.0, 0.5, 1.0)
"""Of the least-squares slope; one half is the theta method (Assimakopoulos & Nikolopoulos, 2000)."""
FITTED = (*(f"fitted_{share}" for share in SHARES_OF_TREND), "fitted_holt")
SMOOTHED, JUDGED = 192, 128
"""Smoothing starts this many observations before the cutoff; the one-step errors of the last ones decide."""
SLICE = 512


class FittedBases:
    """For the plain window and for the window without each season: SES with three shares of trend, and damped Holt."""

    def __init__(self, length: int, horizon: int, season_lengths: tuple[int, ...], device: torch.device) -> None:
        smoothed = min(SMOOTHED, length)
        judged = min(JUDGED, smoothed)
        constants = [(alpha, 0.0) for alpha in ALPHAS] + list(HOLT)
        weights, ahead = zip(*(run_holt(smoothed, horizon, *pair) for pair in constants), strict=True)
        self._errors = tensor(np.stack([w[:, -judged:] for w in weights], 1), device)  # [T, A, J]
        self._ahead = tensor(np.stack(ahead, 1), device)  # [T, A, H]
        steps = np.arange(-length + 1, horizon + 1, dtype=np.float64)  # [R + H], 0 at the cutoff
        self._steps, self._steps_ahead = tensor(steps[:length], device), tensor(steps[length:], device)  # [R], [H]
        line = self._steps[-smoothed:]  # [T]
        self._line_errors = torch.einsum("t,taj->aj", line, self._errors)  # [A, J]
        self._line_ahead = torch.einsum("t,tah->ah", line, self._ahead)  # [A, H]
        ranked = [(rank, m, length // m) for rank, m in enumerate(season_lengths) if length // m >= 2]
        self._seasons = ranked or [(0, 1, 1)]
        self.names = tuple(f"{kind}.{rank}" for rank, _, _ in self._seasons for kind in FITTED)

    def __call__(self, window: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """window [B, R] without gaps, mask [B, R] of 0 and 1 -> forecasts [B, H, K], rms of their one-step errors [B, K]."""
        parts = [self._forecast(window[at : at + SLICE], mask[at : at + SLICE]) for at in range(0, max(len(window), 1), SLICE)]
        forecasts, errors = zip(*parts, strict=True)
        return torch.cat(forecasts), torch.cat(errors)

    def _forecast(self, window: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        judged = self._errors.shape[-1]
        known = (mask * (mask.cumsum(1) > 1))[:, -judged:]  # [B, J], the first value has nothing to be forecast from
        forecasts, errors = [], []
        for _, m, seasons in self._seasons:
            plain, shape = remove_season(window, m, seasons)  # [B, R], [B, m]
            ahead = repeat_ahead(shape, len(self._steps_ahead))  # [B, H]
            for forecast, error in self._smooth(plain, self._slope(plain, mask), known):
                forecasts.append(forecast + ahead)
                errors.append(error)
        return torch.stack(forecasts, -1), torch.stack(errors, -1)  # [B, H, K], [B, K]

    def _slope(self, plain: Tensor, mask: Tensor) -> Tensor:
        """Least squares over what was observed, [B, 1]."""
        count = mask.sum(1, keepdim=True).clamp(min=1)  # [B, 1]
        steps = (self._steps - (mask * self._steps).sum(1, keepdim=True) / count) * mask  # [B, R]
        return (steps * plain).sum(1, keepdim=True) / (steps**2).sum(1, keepdim=True).clamp(min=1)  # [B, 1]

    def _smooth(self, plain: Tensor, slope: Tensor, known: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(forecast [B, H], rms [B]): one for each share of trend, one for Holt."""
        T, A, J = self._errors.shape
        recent = plain[:, -T:]  # [B, T]
        errors = (recent @ self._errors.view(T, -1)).view(-1, A, J)  # [B, A, J]
        ahead = (recent @ self._ahead.view(T, -1)).view(len(plain), A, -1)  # [B, A, H]
        n = len(ALPHAS)
        results = []
        for share in SHARES_OF_TREND:
            trend = (share * slope).unsqueeze(-1)  # [B, 1, 1]
            weights, error = weigh(errors[:, :n] - trend * self._line_errors[:n], known)  # [B, n], [B]
            paths = ahead[:, :n] - trend * self._line_ahead[:n] + trend * self._steps_ahead  # [B, n, H]
            results.append(((weights.unsqueeze(-1) * paths).sum(1), error))
        weights, error = weigh(errors[:, n:], known)  # [B, A - n], [B]
        results.append(((weights.unsqueeze(-1) * ahead[:, n:]).sum(1), error))
        return results


def weigh(errors: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [B, A] of constants by the normal likelihood of their one-step errors [B, A, J], and the weighted rms [B]."""
    squares = (errors**2 * known.unsqueeze(1)).sum(-1)  # [B, A]
    count = known.sum(-1, keepdim=True)  # [B, 1]
    weights = (-0.5 * count * (squares + 1e-6 * (count + 1)).log()).softmax(-1)  # [B, A]
    return weights, ((weights * squares).sum(-1) / count.squeeze(-1).clamp(min=1)).sqrt()


def run_holt(length: int, horizon: int, alpha: float, beta: float) -> tuple[Floats, Floats]:
    """Damped Holt (Gardner & McKenzie, 1985), or SES where beta is 0, run on every unit vector at once:
    the maps from a window to its one-step errors [R, R] and to its forecasts [R, H]."""
    unit = np.eye(length)
    level, trend = unit[:, 0].copy(), np.zeros(length)  # [R], [R]
    errors = np.zeros((length, length))  # [R, R]
    for t in range(1, length):
        expected = level + DAMPING * trend
        errors[:, t] = unit[:, t] - expected
        level = expected + alpha * errors[:, t]
        trend = DAMPING * trend + alpha * beta * errors[:, t]
    damped = np.cumsum(DAMPING ** np.arange(1, horizon + 1))  # [H]
    return errors, level[:, None] + np.outer(trend, damped)


def tensor(array: Floats, device: torch.device) -> Tensor:
    return torch.tensor(array, dtype=torch.float32, device=device)
