"""Classical forecasts fitted to each window: season taken out, then smoothing whose constants are weighed by likelihood.

Exponential smoothing with a drift (the optimised theta method) and damped Holt over a whole grid of constants: smoothing is
linear in the data once its constants are fixed, so one matrix product gives every error of every window, and nothing runs
through time. On the window as it is scaled, and for one that took logarithms also without them: growth by percent and growth
by amounts are different beliefs, and the gate chooses.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from app.lstm.bases import repeat_ahead
from app.lstm.compiled import CompiledBases, load_library
from app.lstm.tables import (
    ALPHAS,
    FADING,
    FIRST_SLOPE,
    FLOOR,
    HOLT,
    QUICK,
    SMOOTHED,
    UNJUDGED,
    WIDEST_LOGARITHM,
    list_fitted,
)

BLOCK = 16
"""Steps that damped Holt takes at once."""
SLICE = 32
"""Windows worked on at once: their errors stay near the processor."""


@dataclass(frozen=True)
class Units:
    """What a window's values mean: u = z · scale + loc, the logarithm of the value where `log`; all [B, 1]."""

    loc: Tensor
    scale: Tensor
    log: Tensor

    def __getitem__(self, rows: slice) -> "Units":
        return Units(self.loc[rows], self.scale[rows], self.log[rows])

    def repeat(self, times: int) -> "Units":
        """The same windows again and again along B."""
        return self if times == 1 else Units(*(part.repeat(times, 1) for part in (self.loc, self.scale, self.log)))

    def to_raw(self, values: Tensor) -> Tensor:
        """z [B, R] -> the value itself in units of its level, where it was a logarithm; else as it is."""
        logs = (values * self.scale + self.loc).clamp(-WIDEST_LOGARITHM, WIDEST_LOGARITHM)
        return torch.where(self.log, logs.exp(), values)

    def from_raw(self, raw: Tensor, floor: Tensor) -> Tensor:
        """The inverse; `floor` [B, 1] > 0 is the least that a logarithm is taken of."""
        logs = (torch.maximum(raw, floor).log() - self.loc) / self.scale
        return torch.where(self.log, logs, raw)

    def error_from_raw(self, error: Tensor) -> Tensor:
        """Small differences [..., B] of raw values near the window's end, in units of z."""
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
        self._simple = tabulate(ALPHAS).cut(length_smoothed, device)
        fades = self._simple.fade(length_smoothed + horizon)  # [A, T + H]
        self._fades = slide(fades[:, :length_smoothed], length_smoothed)  # [A, T, T]
        self._fades_ahead = fades.unfold(1, horizon, 1)  # [A, T + 1, H]
        self._holt = DampedHolt(length_smoothed, horizon, device)
        self._seasons = list_fitted(length, season_lengths)
        self.names = tuple(f"{kind}.{rank}" for rank, _ in self._seasons for kind in kinds)
        self._is_quick = kinds == QUICK
        self._compiled = None
        if device.type == "cpu" and (library := load_library()) is not None:
            self._compiled = CompiledBases(library, length, horizon, season_lengths, kinds)

    def __call__(self, window: Tensor, mask: Tensor, units: Units) -> tuple[Tensor, Tensor]:
        """window [B, R] without gaps, mask [B, R] of 0 and 1 -> forecasts [B, H, K], rms of their one-step errors [B, K]."""
        if self._compiled is not None:
            parts = (window, mask, units.loc, units.scale, units.log.float())
            forecasts, errors = self._compiled(*(part.contiguous().numpy() for part in parts))
            return torch.from_numpy(forecasts), torch.from_numpy(errors)
        sliced = [
            self._forecast(window[at : at + SLICE], mask[at : at + SLICE], units[at : at + SLICE])
            for at in range(0, max(len(window), 1), SLICE)
        ]
        several, their_errors = zip(*sliced, strict=True)
        return torch.cat(several), torch.cat(their_errors)

    def _forecast(self, window: Tensor, mask: Tensor, units: Units) -> tuple[Tensor, Tensor]:
        """All that is to be smoothed goes through it as one batch: of each season the plain values and the raw ones."""
        B, R = window.shape
        T = min(SMOOTHED, R)
        shapes = [fade_season(window, mask, m) for _, m in self._seasons]  # [B, m] each
        plain = torch.cat([(window - shape.repeat(1, -(-R // shape.shape[1]))[:, -R:])[:, -T:] for shape in shapes])  # [SB, T]
        rows, several = plain, units.repeat(len(shapes))
        if not self._is_quick:
            raw = several.to_raw(plain)  # [SB, T]
            mean, spread = raw.mean(1, keepdim=True), raw.std(1, keepdim=True, correction=0) + 1e-6  # [SB, 1] each
            floor = FLOOR * raw.min(1, keepdim=True).values.clamp(min=1e-9)  # [SB, 1]
            rows = torch.cat([plain, (raw - mean) / spread])  # [2SB, T]
        ahead, rms = self._smooth(rows, mask[:, -T:].repeat(len(rows) // B, 1))  # [kinds, 2SB, H], [kinds, 2SB]
        forecasts, errors = [ahead[:, : len(plain)]], [rms[:, : len(plain)]]
        if not self._is_quick:
            forecasts.append(several.from_raw(ahead[1:, len(plain) :] * spread + mean, floor))
            errors.append(several.error_from_raw(rms[1:, len(plain) :] * spread.squeeze(1)))
        repeated = torch.cat([repeat_ahead(shape, self._horizon) for shape in shapes])  # [SB, H]
        found = torch.cat(forecasts) + repeated  # [kinds, SB, H]
        found = found.view(len(found), -1, B, self._horizon).permute(2, 3, 1, 0)  # [B, H, S, kinds]
        known = torch.cat(errors).view(found.shape[-1], -1, B).permute(2, 1, 0)  # [B, S, kinds]
        return found.reshape(B, self._horizon, -1), known.reshape(B, -1)  # [B, H, K], [B, K]

    def _smooth(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [N, T] -> of each kind the forecasts [kinds, N, H] and the rms of one-step errors [kinds, N]."""
        begun = mask.cummax(1).values  # [N, T], 1 from the first observation on
        first = (begun == 0).sum(1, keepdim=True).clamp(max=values.shape[1] - 1)  # [N, 1]
        start = values.gather(1, first)  # [N, 1]
        values = (values - start) * begun  # [N, T], zero up to the first observation
        count = begun.cumsum(1)  # [N, T]
        judged = mask * (count > UNJUDGED).float()  # [N, T]
        ahead, rms = self._smooth_with_drift(values, begun, first, judged)
        if not self._is_quick:
            damped, damped_rms = self._holt(values, first, judged)
            ahead, rms = torch.cat([ahead, damped.unsqueeze(0)]), torch.cat([rms, damped_rms.unsqueeze(0)])
        return ahead + start, rms

    def _smooth_with_drift(self, values: Tensor, begun: Tensor, first: Tensor, judged: Tensor) -> tuple[Tensor, Tensor]:
        """Forecasts [3, N, H] and rms [3, N] of the dynamic theta model (Fiorucci et al., 2016) with none of its drift, with
        half of it, and with the share that errs least, which has a closed form."""
        alpha = self._simple.alpha  # [A, 1]
        N, T = values.shape
        count = begun.cumsum(1)  # [N, T]
        intercept, slope = run_regression(values, begun, count)  # [N, T] each, as of each step
        errors = (values @ self._simple.errors.flatten(1)).view(N, -1, T).transpose(0, 1)  # [A, N, T]
        fades = self._fades.index_select(1, first[:, 0])  # [A, N, T], as of the step before each
        drift = find_drift(fades[..., 1:], intercept[:, :-1], slope[:, :-1], alpha)  # [A, N, T - 1]
        drift = torch.nn.functional.pad(drift, (1, 0))  # [A, N, T]
        drift_judged = drift * judged  # [A, N, T]
        see = (errors * errors * judged).sum(-1)  # [A, N]
        sed = (errors * drift_judged).sum(-1)
        sdd = (drift * drift_judged).sum(-1)
        share = (sed / sdd.clamp(min=1e-9)).clamp(0, 1)  # [A, N]

        level = (values @ self._simple.level).T  # [A, N]
        fades = self._fades_ahead.index_select(1, T - first[:, 0])  # [A, N, H]
        ahead = find_drift(fades, intercept[:, -1:], slope[:, -1:], alpha)  # [A, N, H]
        ahead = ahead + alpha.unsqueeze(-1) * (ahead.cumsum(-1) - ahead)  # the level goes along
        squares = torch.stack([see, see - sed + 0.25 * sdd, see - 2 * share * sed + share**2 * sdd])  # [3, A, N]
        weights, rms = weigh_constants(squares, judged.sum(1))  # [3, A, N], [3, N]
        shares = torch.stack([torch.zeros_like(share), torch.full_like(share, 0.5), share])  # [3, A, N]
        drifting = torch.einsum("kan,anh->knh", weights * shares, ahead)  # [3, N, H]
        return (weights * level).sum(1).unsqueeze(-1) + drifting, rms


class DampedHolt:
    """Damped Holt (Gardner & McKenzie, 1985) over a grid of constants, begun with the slope of the first observations.

    Steps are taken in blocks: the errors within one are a product with its own values and with the level and trend at its start,
    which are products with all values before. That is a quarter of the arithmetic of one product from all values to all errors.
    The first slope is taken out of the values as the path that it alone would draw, along which there are no errors.
    """

    def __init__(self, length: int, horizon: int, device: torch.device) -> None:
        blocks = -(-length // BLOCK)
        self._lead = blocks * BLOCK - length
        dampings = tuple(dict.fromkeys(damping for _, _, damping in HOLT))
        T, D = blocks * BLOCK, len(dampings)
        errors, levels, trends = (
            part.view(3, -1, D, part.shape[-1]).transpose(1, 2) for part in tabulate_holt(HOLT)
        )  # [3, D, C, 128]
        C = errors.shape[2]
        within = torch.zeros(D, C, BLOCK, BLOCK)  # errors of a block [b] from its values [b]
        for at in range(BLOCK):
            within[..., at:, at] = errors[0, ..., : BLOCK - at]
        states = torch.zeros(2, D, C, blocks, T)  # level and trend at the end of each block from all values
        for block in range(blocks):
            end = (block + 1) * BLOCK
            for number, part in enumerate((levels, trends)):
                states[number, :, :, block, :end] = part[0, ..., :end].flip(-1)
        self._within = within.flatten(1, 2).contiguous().to(device)  # [D, C * b, b]
        self._states = states.transpose(0, 1).flatten(1, 3).contiguous().to(device)  # [D, 2 * C * blocks, T]
        self._starts = errors[1:, ..., :BLOCK, None, None].contiguous().to(device)  # [2, D, C, b, 1, 1]
        self._shape = (D, C, BLOCK, blocks)
        damping = torch.tensor(dampings, dtype=torch.float64).unsqueeze(1)  # [D, 1]
        self._fade = (damping ** torch.arange(T + 1)).float().to(device)  # [D, T + 1]
        path = torch.nn.functional.pad((damping ** torch.arange(1, length)).cumsum(1), (1, 0))  # [D, length]
        self._paths = slide(path, length).float().to(device)  # [D, length, length]
        self._ahead = (damping ** torch.arange(1, horizon + 1)).cumsum(1).float().to(device)  # [D, H]

    def __call__(self, values: Tensor, first: Tensor, judged: Tensor) -> tuple[Tensor, Tensor]:
        """values [N, T], zero up to the `first` [N, 1] observation, judged [N, T] -> forecast [N, H], rms [N]."""
        N, T = values.shape
        D, C, b, blocks = self._shape
        later = (first + FIRST_SLOPE).clamp(max=T - 1)  # [N, 1]
        slope = values.gather(1, later) / (later - first).clamp(min=1)  # [N, 1]
        paths = self._paths.index_select(1, first[:, 0])  # [D, N, T]
        bent = torch.nn.functional.pad(values - slope * paths, (self._lead, 0)).transpose(1, 2).contiguous()  # [D, T, N]
        states = (self._states @ bent).view(D, 2, C, 1, blocks, N)
        parts = bent.view(D, blocks, b, N).transpose(1, 2).reshape(D, b, -1)  # [D, b, blocks * N]
        errors = (self._within @ parts).view(D, C, b, blocks, N)
        for number in (0, 1):
            errors[..., 1:, :].addcmul_(states[:, number, ..., :-1, :], self._starts[number])
        weight = torch.nn.functional.pad(judged, (self._lead, 0)).T.reshape(blocks, b, N).transpose(0, 1)  # [b, blocks, N]
        squares = errors.square_().mul_(weight).view(D * C, b * blocks, N).sum(1)  # [D * C, N]
        weights, rms = weigh_constants(squares, judged.sum(1))  # [D * C, N], [N]
        level, trend = (weights.view(D, 1, C, N) * states[:, :, :, 0, -1]).sum(2).unbind(1)  # [D, N] each
        share = weights.view(D, C, N).sum(1) * slope.T  # [D, N], of each damping in the path
        level = level + share * paths[..., -1]  # [D, N]
        trend = trend + share * self._fade.index_select(1, T - 1 - first[:, 0])  # [D, N]
        return level.sum(0).unsqueeze(1) + trend.T @ self._ahead, rms


@dataclass(frozen=True)
class Smoothing:
    """What simple exponential smoothing with A constants makes of a window of T steps that is zero up to its first observation."""

    alpha: Tensor  # [A, 1]
    errors: Tensor  # [T, A, T], from values to one-step errors
    level: Tensor  # [T, A], to the level at the end

    def cut(self, length: int, device: torch.device) -> "Smoothing":
        """For a shorter window: as if zeros stood before it."""
        parts = (self.alpha, self.errors[-length:, :, -length:], self.level[-length:])
        return Smoothing(*(part.contiguous().to(device) for part in parts))

    def fade(self, length: int) -> Tensor:
        """What is left of a level after so many steps, [A, length]."""
        return (1 - self.alpha) ** torch.arange(length, device=self.alpha.device)


@cache
def tabulate(alphas: tuple[float, ...]) -> Smoothing:
    """Simple smoothing with these constants, run on every unit vector at once."""
    alpha = torch.tensor(alphas, dtype=torch.float64).unsqueeze(-1)  # [A, 1]
    units = torch.eye(SMOOTHED, dtype=torch.float64)  # [T, T]
    level = units[0].repeat(len(alpha), 1)  # [A, T]
    errors = [torch.zeros_like(level)]
    for unit in units[1:]:
        errors.append(unit - level)
        level = level + alpha * errors[-1]
    every = torch.stack(errors, -1).transpose(0, 1)  # [T, A, T]
    return Smoothing(*(part.float().contiguous() for part in (alpha, every, level.T)))


@cache
def tabulate_holt(constants: tuple[tuple[float, float, float], ...]) -> tuple[Tensor, Tensor, Tensor]:
    """One-step errors, levels and trends [3, C, T] of damped Holt with these constants, each begun at zero with: a value of
    one at its first step; a level of one before it; a trend of one before it."""
    alpha, beta, damping = torch.tensor(constants, dtype=torch.float64).T  # [C] each
    level, trend = torch.zeros(3, len(constants), dtype=torch.float64), torch.zeros(3, len(constants), dtype=torch.float64)
    level[1], trend[2] = 1.0, 1.0
    steps = []
    for t in range(SMOOTHED):
        value = torch.tensor([1.0 if t == 0 else 0.0, 0.0, 0.0], dtype=torch.float64).unsqueeze(1)  # [3, 1]
        error = value - level - damping * trend  # [3, C]
        level = level + damping * trend + alpha * error
        trend = damping * trend + alpha * beta * error
        steps.append((error, level, trend))
    errors, levels, trends = (torch.stack(part, -1).float() for part in zip(*steps, strict=True))
    return errors, levels, trends


def slide(table: Tensor, length: int) -> Tensor:
    """What a table [..., T] by steps since the first observation says of each step, by the place of that one: [..., T, length].
    Whole rows are taken from it, which is many times faster than element by element."""
    led = torch.cat([table[..., :1].expand(*table.shape[:-1], length - 1), table], -1)
    return led.unfold(-1, length, 1).flip(-2).contiguous()


def find_drift(fades: Tensor, intercept: Tensor, slope: Tensor, alpha: Tensor) -> Tensor:
    """What a line through the past adds to a smoothed level: fades [A, N, T] = (1 - alpha)^n, line [N, T] -> [A, N, T]."""
    alpha = alpha.unsqueeze(-1)  # [A, 1, 1]
    transient = torch.addcmul(intercept, slope, 1 - 1 / alpha)  # [A, N, T], less what is steady and has faded
    return torch.addcmul(slope / alpha, fades, transient)


def run_regression(values: Tensor, begun: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Intercept and slope [N, T] of the least-squares line over the steps 1 .. n seen so far (`count`), as of each step."""
    n = count.clamp(min=1)
    total = (values * begun).cumsum(1)
    moment = (values * begun * count).cumsum(1)
    slope = torch.where(n > 1, 12 * (moment - total * (n + 1) / 2) / (n * (n**2 - 1)).clamp(min=1), torch.zeros_like(total))
    return total / n - (n + 1) / 2 * slope, slope


def weigh_constants(squares: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [..., C, N] of the constants by their normal likelihood, from sums of squared errors [..., C, N] over `count` [N]
    steps, and the weighted rms [..., N]."""
    squares = squares.clamp(min=0)
    weights = (-0.5 * count * (squares + 1e-6 * (count + 1)).log()).softmax(-2)  # [..., C, N]
    return weights, ((weights * squares).sum(-2) / count.clamp(min=1)).sqrt()


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
