"""Loaded forecasters: read once, the least recently used go first."""

from collections.abc import Callable

import numpy as np
import pytest

from app.lstm import Request, Series, learn
from app.serving.cache import LOADED_OVER_STORED, Forecasters


@pytest.fixture(scope="module")
def artifact() -> bytes:
    series = Series(np.sin(np.arange(60.0)) + 5, np.array([0, 60]))
    request = Request(horizon=3, max_steps=5)
    return learn(series, request, on_progress=lambda _: None, clock=lambda: 0.0).artifact


def test_the_least_recently_used_goes_when_memory_is_needed(artifact: bytes) -> None:
    loads: list[int] = []

    def loader(version_id: int) -> Callable[[], bytes]:
        def load() -> bytes:
            loads.append(version_id)
            return artifact

        return load

    forecasters = Forecasters(len(artifact) * LOADED_OVER_STORED * 2)
    context = np.full((1, 20), 5.0)

    def predict(version_id: int) -> None:
        forecasters.predict(version_id, loader(version_id), context, horizon=2, quantile_levels=(0.5,))

    for version_id in (1, 2, 1, 3, 1, 2):
        predict(version_id)
    forecasters.close()
    assert loads == [1, 2, 3, 2]


def test_one_that_is_larger_than_the_memory_still_serves(artifact: bytes) -> None:
    forecasters = Forecasters(0)
    quantiles = forecasters.predict(1, lambda: artifact, np.full((2, 9), 5.0), horizon=3, quantile_levels=(0.1, 0.5))
    forecasters.close()
    assert quantiles.shape == (2, 3, 2)
