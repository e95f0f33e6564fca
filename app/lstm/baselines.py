"""Seasonal naive: what every forecast of ours stands beside."""

from statistics import NormalDist

import numpy as np

from app.lstm.metrics import average
from app.lstm.scaling import carry
from app.lstm.windows import Floats


@np.errstate(over="ignore", invalid="ignore")
def seasonal_naive(contexts: Floats, horizon: int, season_length: int, levels: tuple[float, ...]) -> Floats:
    """The last season again, normal errors of the seasonal differences growing with each season ahead
    (Hyndman & Athanasopoulos, 2021, §5.5). Contexts [B, L], NaN = missing -> [B, H, Q]; a row of NaN gives 0."""
    B, L = contexts.shape
    m = season_length if season_length <= L else 1
    lead = -L % m
    phases = np.concatenate([np.full((B, lead), np.nan), contexts], 1).reshape(B, -1, m).swapaxes(1, 2)  # [B, m, seasons]
    last = carry(carry(phases)[:, :, -1])  # [B, m]
    median = np.nan_to_num(last)[:, np.arange(horizon) % m]  # [B, H]
    spread = np.sqrt(average(np.diff(phases, axis=2).reshape(B, -1) ** 2, 1))  # [B]
    growth = np.sqrt(np.arange(horizon) // m + 1)  # [H]
    deviates = np.array([NormalDist().inv_cdf(level) for level in levels])  # [Q]
    errors = np.nan_to_num(spread)[:, None, None] * growth[:, None] * deviates  # [B, H, Q]
    return np.asarray(median[:, :, None] + errors)
