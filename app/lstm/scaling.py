"""Each window in units of its own: positive windows by their logarithm, then centred and divided by their spread."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.lstm.windows import Floats

SMALLEST = 1e-300
"""What a logarithm is taken of at least."""
LEAST_SPREAD = 0.01
"""Of the level: keeps a flat window from being blown up into noise."""
ROOM, ROOM_OF_LOGARITHMS = 3.0, 1.0
"""How many ranges of the window beyond it a forecast may go; further is a runaway exponential, not a forecast."""


@dataclass(frozen=True)
class Scaling:
    """What undoes the scaling; every array is [B, 1]. z = (u - loc) / scale with u = log(x / level) or x / level."""

    level: Floats
    log: npt.NDArray[np.bool_]
    loc: Floats
    scale: Floats
    low: Floats
    high: Floats

    @np.errstate(over="ignore")
    def apply(self, values: Floats) -> Floats:
        """[B, T] -> [B, T]; NaN stays NaN. What a logarithm cannot take is put at the lower bound."""
        units = values / self.level  # [B, T]
        floor = np.exp(np.maximum(self.low, -700.0))  # [B, 1]
        logs = np.log(np.where(self.log, np.maximum(units, floor), 1.0))  # [B, T]
        return (np.clip(np.where(self.log, logs, units), self.low, self.high) - self.loc) / self.scale

    @np.errstate(over="ignore")
    def undo(self, scaled: Floats) -> Floats:
        """[B, T] -> [B, T]: increasing and finite."""
        units = np.clip(scaled * self.scale + self.loc, self.low, self.high)  # [B, T]
        logs = np.exp(np.where(self.log, np.clip(units, -700.0, 700.0), 0.0))  # [B, T]
        return np.nan_to_num(np.where(self.log, logs, units) * self.level)


@np.errstate(over="ignore")
def fit_scaling(history: Floats, length: int, season_length: int, transformation: str) -> Scaling:
    """From histories [B, R], NaN = missing: the level and loc of the last season, the spread of the last `length`.

    A row without observations gets a level of 1. A constant row gets the least spread.
    """
    contexts = history[:, -length:]  # [B, L]
    seen = np.isfinite(contexts)  # [B, L]
    values = np.where(seen, contexts, 0.0)  # [B, L]
    recent = seen.copy()  # [B, L]
    recent[:, : -max(season_length, 4)] = False
    recent = np.where(recent.any(1, keepdims=True), recent, seen)
    largest = np.abs(values).max(1, keepdims=True)  # [B, 1]
    largest = np.where(largest > 0, largest, 1.0)
    level = largest * mean(np.abs(values) / largest, recent)  # [B, 1]
    level = np.where(level > largest * 1e-12, level, largest)
    log = np.asarray(~(history <= 0).any(1, keepdims=True)) & (transformation == "log")  # [B, 1]
    units = values / level  # [B, L]
    units = np.where(log, np.log(np.where(seen & log, np.maximum(units, SMALLEST), 1.0)), units)
    loc = mean(units, recent)  # [B, 1]
    spread = np.sqrt(mean((units - mean(units, seen)) ** 2, seen))  # [B, 1]
    low = np.where(seen, units, np.inf).min(1, keepdims=True)  # [B, 1]
    high = np.where(seen, units, -np.inf).max(1, keepdims=True)  # [B, 1]
    low, high = np.where(np.isfinite(low), low, 0.0), np.where(np.isfinite(high), high, 0.0)
    room = np.where(log, ROOM_OF_LOGARITHMS, ROOM) * (high - low) + 1.0  # [B, 1]
    return Scaling(level, log, loc, spread + LEAST_SPREAD, low - room, high + room)


def mean(values: Floats, weights: npt.NDArray[np.bool_]) -> Floats:
    """Row means [B, T] -> [B, 1] over where `weights` is true; 0 where it never is."""
    return np.asarray((values * weights).sum(1, keepdims=True) / np.maximum(weights.sum(1, keepdims=True), 1))


def fill(scaled: Floats, season_length: int) -> Floats:
    """[B, L] without NaN: the bases need a value everywhere (the network also sees the mask).

    A missing value takes that of the same phase one season before, else the next one after, else its neighbour's;
    an empty row is 0.
    """
    holed = ~np.isfinite(scaled).all(1)  # [B]
    if not holed.any():
        return scaled
    filled = scaled.copy()
    filled[holed] = np.nan_to_num(carry(carry_seasons(scaled[holed], season_length)))
    return filled


def carry_seasons(scaled: Floats, m: int) -> Floats:
    """[B, L]: a missing value takes that of its phase in another season of m steps, where there is one."""
    B, L = scaled.shape
    if not 1 < m <= L:
        return scaled
    lead = -L % m
    padded = np.concatenate([np.full((B, lead), np.nan), scaled], 1)  # [B, lead + L]
    phases = padded.reshape(B, -1, m).swapaxes(1, 2)  # [B, m, seasons]
    return carry(phases).swapaxes(1, 2).reshape(B, -1)[:, lead:]  # [B, L]


def carry(values: Floats) -> Floats:
    """NaN along the last axis becomes the last value before it, else the first after it, else stays."""
    places = np.arange(values.shape[-1])
    seen = np.isfinite(values)
    before = np.maximum.accumulate(np.where(seen, places, -1), -1)  # like values
    after = np.minimum.accumulate(np.where(seen, places, len(places))[..., ::-1], -1)[..., ::-1]
    source = np.where(before >= 0, before, np.minimum(after, len(places) - 1))
    return np.take_along_axis(values, source, -1)
