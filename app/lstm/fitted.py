"""Classical forecasts fitted to each window: season taken out, then smoothing whose constants are weighed by likelihood.

Exponential smoothing with a drift (the optimised theta method) and damped Holt over a whole grid of constants: smoothing is
linear in the data once its constants are fixed, so one matrix product gives every error of every window, and nothing runs
through time. On the window as it is scaled, and for one that took logarithms also without them: growth by percent and growth
by amounts are different beliefs, and the gate chooses.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product

import torch
from torch import Tensor

from app.lstm.bases import repeat_ahead

ALPHAS = (0.03, 0.08, 0.15, 0.25, 0.4, 0.55, 0.75, 1.0)
HOLT = tuple(product((0.1, 0.3, 0.6, 0.9), (0.0, 0.05, 0.25), (0.8, 0.9, 0.98)))
"""Of level, trend and damping."""
QUICK = ("ses", "theta", "dot")
FITTED = (*QUICK, "damped", "theta_raw", "dot_raw", "damped_raw")
"""The quick ones cost a tenth of all: enough where there is so much to learn from that a net adapts by itself."""
FADING = 0.7
"""How much less each season back counts in the seasonal shape."""
SMOOTHED = 128
"""Steps that the smoothing runs through: older ones have faded from any level, and the season is taken from all."""
FIRST_SLOPE = 10
UNJUDGED = 2
"""First observations that no error is counted of."""
SLICE = 256
"""Windows worked on at once: their errors stay near the processor."""
WIDEST_LOGARITHM = 20.0
FLOOR = 0.1
"""Of the least value of a window: what a forecast without logarithms may fall to where logarithms are taken."""


@dataclass(frozen=True)
class Units:
    """What a window's values mean: u = z · scale + loc, the logarithm of the value where `log`; all [B, 1]."""

    loc: Tensor
    scale: Tensor
    log: Tensor

    def __getitem__(self, rows: slice) -> "Units":
        return Units(self.loc[rows], self.scale[rows], self.log[rows])

    def to_raw(self, values: Tensor) -> Tensor:
        """z [B, R] -> the value itself in units of its level, where it was a logarithm; else as it is."""
        logs = (values * self.scale + self.loc).clamp(-WIDEST_LOGARITHM, WIDEST_LOGARITHM)
        return torch.where(self.log, logs.exp(), values)

    def from_raw(self, raw: Tensor, floor: Tensor) -> Tensor:
        """The inverse; `floor` [B, 1] > 0 is the least that a logarithm is taken of."""
        logs = (torch.maximum(raw, floor).log() - self.loc) / self.scale
        return torch.where(self.log, logs, raw)

    def error_from_raw(self, error: Tensor) -> Tensor:
        """Small differences [B] of raw values near the window's end, in units of z."""
        factor = (-self.loc.clamp(-WIDEST_LOGARITHM, WIDEST_LOGARITHM)).exp() / self.scale
        return error * torch.where(self.log, factor, torch.ones_like(factor)).squeeze(1)


class FittedBases:
    """Simple smoothing, theta with half of the trend, theta with a fitted share of it, damped Holt: for the window without
    each of its seasons, or the plain one where it has none."""

    def __init__(
        self, length: int, horizon: int, season_lengths: tuple[int, ...], kinds: tuple[str, ...], device: torch.device
    ) -> None:
        self._horizon = horizon
        length_smoothed = min(SMOOTHED, length)
        self._simple = tabulate(tuple((alpha, 0.0, 1.0) for alpha in ALPHAS)).cut(length_smoothed, device)
        self._holt = tabulate(HOLT).cut(length_smoothed, device)
        ranked = [(rank, m) for rank, m in enumerate(season_lengths) if length // m >= 2]
        self._seasons = ranked or [(0, 1)]
        self.names = tuple(f"{kind}.{rank}" for rank, _ in self._seasons for kind in kinds)
        self._is_quick = kinds == QUICK

    def __call__(self, window: Tensor, mask: Tensor, units: Units) -> tuple[Tensor, Tensor]:
        """window [B, R] without gaps, mask [B, R] of 0 and 1 -> forecasts [B, H, K], rms of their one-step errors [B, K]."""
        parts = [
            self._forecast(window[at : at + SLICE], mask[at : at + SLICE], units[at : at + SLICE])
            for at in range(0, max(len(window), 1), SLICE)
        ]
        forecasts, errors = zip(*parts, strict=True)
        return torch.cat(forecasts), torch.cat(errors)

    def _forecast(self, window: Tensor, mask: Tensor, units: Units) -> tuple[Tensor, Tensor]:
        R = window.shape[1]
        T = min(SMOOTHED, R)
        forecasts, errors = [], []
        for _, m in self._seasons:
            shape = fade_season(window, mask, m)  # [B, m]
            plain = (window - shape.repeat(1, -(-R // m))[:, -R:])[:, -T:]  # [B, T]
            repeated = repeat_ahead(shape, self._horizon)  # [B, H]
            ahead, rms = self._smooth(plain, mask[:, -T:])  # [kinds, B, H], [kinds, B]
            forecasts += [one + repeated for one in ahead]
            errors += list(rms)
            if not self._is_quick:
                raw = units.to_raw(plain)  # [B, T]
                mean, spread = raw.mean(1, keepdim=True), raw.std(1, keepdim=True, correction=0) + 1e-6  # [B, 1] each
                floor = FLOOR * raw.min(1, keepdim=True).values.clamp(min=1e-9)  # [B, 1]
                ahead, rms = self._smooth((raw - mean) / spread, mask[:, -T:])
                forecasts += [units.from_raw(one * spread + mean, floor) + repeated for one in ahead[1:]]
                errors += [units.error_from_raw(one * spread.squeeze(1)) for one in rms[1:]]
        return torch.stack(forecasts, -1), torch.stack(errors, -1)  # [B, H, K], [B, K]

    def _smooth(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [N, T] -> of each kind the forecasts [kinds, N, H] and the rms of one-step errors [kinds, N]."""
        begun = mask.cummax(1).values  # [N, T], 1 from the first observation on
        first = (begun == 0).sum(1, keepdim=True).clamp(max=values.shape[1] - 1)  # [N, 1]
        start = values.gather(1, first)  # [N, 1]
        values = (values - start) * begun  # [N, T], zero up to the first observation
        judged = mask * (begun.cumsum(1) > UNJUDGED).float()  # [N, T]
        ahead, rms = self._smooth_with_drift(values, begun, judged)
        if not self._is_quick:
            damped, damped_rms = self._smooth_trend(values, first, judged)
            ahead, rms = [*ahead, damped], [*rms, damped_rms]
        return torch.stack(ahead) + start, torch.stack(rms)

    def _smooth_with_drift(self, values: Tensor, begun: Tensor, judged: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Forecasts [N, H] and rms [N] of the dynamic theta model (Fiorucci et al., 2016) with none of its drift, with half
        of it, and with the share that errs least, which has a closed form."""
        alpha, keep = self._simple.alpha, 1 - self._simple.alpha  # [A, 1]
        N, T = values.shape
        count = begun.cumsum(1)  # [N, T]
        intercept, slope = run_regression(values, begun, count)  # [N, T] each, as of each step
        fades = keep ** torch.arange(T + self._horizon + 1, device=values.device)  # [A, T + H + 1]
        errors = (values @ self._simple.errors.flatten(1)).view(N, -1, T).transpose(0, 1)  # [A, N, T]
        drift = find_drift(fades[:, count[:, :-1].long()], intercept[:, :-1], slope[:, :-1], alpha)  # [A, N, T - 1]
        drift = torch.nn.functional.pad(drift, (1, 0))  # [A, N, T]
        see = (errors**2 * judged).sum(-1)  # [A, N]
        sed = (errors * drift * judged).sum(-1)
        sdd = (drift**2 * judged).sum(-1)
        share = (sed / sdd.clamp(min=1e-9)).clamp(0, 1)  # [A, N]

        level = (values @ self._simple.level).T.unsqueeze(-1)  # [A, N, 1]
        later = count[:, -1:].long() + torch.arange(self._horizon, device=values.device)  # [N, H]
        ahead = find_drift(fades[:, later], intercept[:, -1:], slope[:, -1:], alpha)  # [A, N, H]
        ahead = ahead + alpha.unsqueeze(-1) * (ahead.cumsum(-1) - ahead)  # the level goes along
        results = [
            weigh_constants(see, judged.sum(1), level),
            weigh_constants(see - sed + 0.25 * sdd, judged.sum(1), level + 0.5 * ahead),
            weigh_constants(see - 2 * share * sed + share**2 * sdd, judged.sum(1), level + share.unsqueeze(-1) * ahead),
        ]
        return [forecast.expand(N, self._horizon) for forecast, _ in results], [rms for _, rms in results]

    def _smooth_trend(self, values: Tensor, first: Tensor, judged: Tensor) -> tuple[Tensor, Tensor]:
        """Damped Holt (Gardner & McKenzie, 1985), begun with the slope of the first observations: forecast [N, H], rms [N]."""
        N, T = values.shape
        later = (first + FIRST_SLOPE).clamp(max=T - 1)  # [N, 1]
        slope = values.gather(1, later) / (later - first).clamp(min=1)  # [N, 1]
        lags = (torch.arange(T, device=values.device) - first).clamp(min=0)  # [N, T]
        errors = (values @ self._holt.errors.flatten(1)).view(N, -1, T)  # [N, C, T]
        errors += (slope * self._holt.slope_errors[:, lags]).transpose(0, 1)
        squares = torch.einsum("nct,nt->cn", errors.square_(), judged)  # [C, N]
        last = lags[:, -1]  # [N]
        level = (values @ self._holt.level).T + slope.T * self._holt.slope_level[:, last]  # [C, N]
        trend = (values @ self._holt.trend).T + slope.T * self._holt.slope_trend[:, last]  # [C, N]
        steps = torch.arange(1, self._horizon + 1, device=values.device)  # [H]
        damped = (self._holt.damping**steps).cumsum(1)  # [C, H]
        return weigh_constants(squares, judged.sum(1), level.unsqueeze(-1) + trend.unsqueeze(-1) * damped.unsqueeze(1))


@dataclass(frozen=True)
class Smoothing:
    """What a grid of C constants makes of a window of T steps that is zero up to its first observation, linear maps all."""

    alpha: Tensor  # [C, 1]
    damping: Tensor  # [C, 1]
    errors: Tensor  # [T, C, T], from values to one-step errors
    level: Tensor  # [T, C], to the level at the end
    trend: Tensor  # [T, C]
    slope_errors: Tensor  # [C, T], from a slope of one at the first observation to the errors so many steps later
    slope_level: Tensor  # [C, T]
    slope_trend: Tensor  # [C, T]

    def cut(self, length: int, device: torch.device) -> "Smoothing":
        """For a shorter window: as if zeros stood before it."""
        ends = (self.errors[-length:, :, -length:], self.level[-length:], self.trend[-length:])
        starts = (part[:, :length] for part in (self.slope_errors, self.slope_level, self.slope_trend))
        return Smoothing(*(part.contiguous().to(device) for part in (self.alpha, self.damping, *ends, *starts)))


@cache
def tabulate(constants: tuple[tuple[float, float, float], ...]) -> Smoothing:
    """Holt's method with these (alpha, beta, damping), run on every unit vector and on a slope of one at once; the simple
    one where beta is 0."""
    alpha, beta, damping = torch.tensor(constants, dtype=torch.float64).T.unsqueeze(-1)  # [C, 1] each
    T = SMOOTHED
    units = torch.eye(T, T + 1, dtype=torch.float64)  # [T, T + 1], the last column is data of zeros
    level = units[0].repeat(len(alpha), 1)  # [C, T + 1]
    trend = torch.zeros_like(level)
    trend[:, -1] = 1.0
    errors, levels, trends = [torch.zeros_like(level)], [level], [trend]
    for t in range(1, T):
        expected = level + damping * trend
        errors.append(units[t] - expected)
        level = expected + alpha * errors[-1]
        trend = damping * trend + alpha * beta * errors[-1]
        levels.append(level)
        trends.append(trend)
    every = torch.stack(errors, -1)  # [C, T + 1, T]
    slopes = (torch.stack([part[:, -1] for part in parts], 1) for parts in (errors, levels, trends))  # [C, T] each
    parts = (alpha, damping, every[:, :-1].transpose(0, 1), level[:, :-1].T, trend[:, :-1].T, *slopes)
    return Smoothing(*(part.float() for part in parts))


def find_drift(fades: Tensor, intercept: Tensor, slope: Tensor, alpha: Tensor) -> Tensor:
    """What a line through the past adds to a smoothed level: fades [A, N, T] = (1 - alpha)^n, line [N, T] -> [A, N, T]."""
    alpha = alpha.unsqueeze(-1)  # [A, 1, 1]
    steady = slope / alpha  # [A, N, T]
    return fades * (intercept - (1 - alpha) * steady) + steady


def run_regression(values: Tensor, begun: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Intercept and slope [N, T] of the least-squares line over the steps 1 .. n seen so far (`count`), as of each step."""
    n = count.clamp(min=1)
    total = (values * begun).cumsum(1)
    moment = (values * begun * count).cumsum(1)
    slope = torch.where(n > 1, 12 * (moment - total * (n + 1) / 2) / (n * (n**2 - 1)).clamp(min=1), torch.zeros_like(total))
    return total / n - (n + 1) / 2 * slope, slope


def weigh_constants(squares: Tensor, count: Tensor, ahead: Tensor) -> tuple[Tensor, Tensor]:
    """Forecasts [C, N, H] averaged by the normal likelihood of their constants, from sums of squared errors [C, N] over
    `count` [N] steps -> [N, H], and the weighted rms [N]."""
    squares = squares.clamp(min=0)
    weights = (-0.5 * count * (squares + 1e-6 * (count + 1)).log()).softmax(0)  # [C, N]
    return torch.einsum("cn,cnh->nh", weights, ahead), ((weights * squares).sum(0) / count.clamp(min=1)).sqrt()


def fade_season(window: Tensor, mask: Tensor, m: int) -> Tensor:
    """The seasonal shape [B, m] about zero by ratio to the moving average, late seasons counting more; its first phase is
    that of the next step. Drawn towards zero by as much of it as chance explains (James & Stein, 1961)."""
    B, R = window.shape
    if m < 2:
        return window.new_zeros(B, 1)
    half = m // 2
    begun = mask.cummax(1).values  # [B, R]
    mean, whole = moving_mean(window * begun, m), moving_mean(begun, m)  # [B, R - 2 half]
    seen = (whole > 0.999) * mask[:, half : R - half]  # [B, R - 2 half]
    rest = (window[:, half : R - half] - mean) * seen
    edges = (half + -R % m, half)
    deviation = torch.nn.functional.pad(rest, edges).view(B, -1, m)  # [B, seasons, m]
    seen = torch.nn.functional.pad(seen, edges).view(B, -1, m)  # [B, seasons, m]
    ages = torch.arange(deviation.shape[1] - 1, -1, -1, device=window.device)
    weights = seen * (FADING**ages).view(1, -1, 1)  # [B, seasons, m]
    worth = weights.sum(1)  # [B, m]
    known = (worth > 0).float()  # [B, m]
    shape = (deviation * weights).sum(1) / worth.clamp(min=1e-9)
    shape = (shape - (shape * known).sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp(min=1)) * known
    freedom = seen.sum((1, 2)) - known.sum(1)  # [B]
    noise = ((deviation - shape.unsqueeze(1)) ** 2 * seen).sum((1, 2)) / freedom.clamp(min=1)  # [B]
    doubt = noise.unsqueeze(1) * (weights**2).sum(1) / (worth**2).clamp(min=1e-9) * known  # [B, m]
    trust = (1 - doubt.mean(1) / (shape**2).mean(1).clamp(min=1e-9)).clamp(0, 1)  # [B]
    return shape * torch.where(freedom >= 1, trust, 0.5 * torch.ones_like(trust)).unsqueeze(1)


def moving_mean(values: Tensor, m: int) -> Tensor:
    """Centred over a season, the two ends of an even one counting half: [B, R] -> [B, R - 2 (m // 2)]."""
    sums = torch.nn.functional.pad(values.double().cumsum(1), (1, 0))  # [B, R + 1]
    width = m + 1 - m % 2
    whole = sums[:, width:] - sums[:, :-width]  # [B, R - width + 1]
    if m % 2 == 0:
        whole = whole - 0.5 * (values[:, : whole.shape[1]] + values[:, width - 1 :])
    return (whole / m).float()
