"""What is kept: read once, the least recently used go first."""

from collections.abc import Callable

import numpy as np
import pytest

from app.lstm import Request, Series, learn
from app.serving.cache import LOADED_OVER_STORED, Forecasters, Kept


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
    for version_id in (1, 2, 1, 3, 1, 2):
        forecasters.get(version_id, loader(version_id))
    assert loads == [1, 2, 3, 2]


def test_one_that_is_larger_than_the_memory_still_serves(artifact: bytes) -> None:
    forecaster = Forecasters(0).get(1, lambda: artifact)
    assert forecaster.predict(np.full((2, 9), 5.0), (0.1, 0.5), 3).shape == (2, 3, 2)


def test_the_bytes_of_what_is_kept_are_bounded() -> None:
    kept: Kept[str, int] = Kept(10)
    for number, key in enumerate("abcb"):
        kept.put(key, number, 4)
    assert [kept.find(key) for key in "abc"] == [None, 3, 2]
    assert kept.bytes == 8
    kept.put("b", 9, 11)
    assert (kept.find("b"), kept.bytes) == (None, 4)
