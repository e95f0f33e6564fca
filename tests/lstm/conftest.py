"""Series small enough to learn from in a second. One thread, so that the same seed gives the same bytes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from app.lstm import Request, Series
from app.lstm.windows import Floats


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_seasonal(length: int, season: int = 12, level: float = 100.0, noise: float = 2.0, seed: int = 0) -> Floats:
    """A trend, a season and noise, [length]."""
    rng = np.random.default_rng(seed)
    steps = np.arange(length)
    return level + 0.3 * steps + 0.2 * level * np.sin(2 * np.pi * steps / season) + noise * rng.standard_normal(length)


@pytest.fixture(scope="session")
def seasonal() -> Callable[..., Floats]:
    """The maker itself."""
    return make_seasonal


@pytest.fixture
def monthly() -> Series:
    return Series.of([make_seasonal(90 + 5 * i, seed=i, level=50.0 * (i + 1)) for i in range(4)])


@pytest.fixture
def short_request() -> Request:
    """A training of a few steps."""
    return Request(horizon=6, candidate_season_lengths=(12,), max_steps=20)
