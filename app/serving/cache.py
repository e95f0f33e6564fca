"""Loaded forecasters, by version id: immutable, so never stale; the least recently used go when memory is needed."""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from app.telemetry import CACHE_BYTES, CACHE_HITS, CACHE_MISSES, FORECAST_SECONDS, FORECAST_SERIES

if TYPE_CHECKING:
    from app.lstm import Forecaster

LOADED_OVER_STORED = 3
"""A loaded forecaster takes about this many times its artifact's bytes: the artifact, its tensors, their modules."""


class Forecasters:
    """One per process. Loading and predicting run on one thread of their own, so that torch and the routes' threads do not meet."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._loaded: OrderedDict[int, tuple[Forecaster, int]] = OrderedDict()
        self._bytes = 0
        CACHE_BYTES.set(0)  # the process before this one may have left its own
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="predict")

    def predict(
        self,
        version_id: int,
        load: Callable[[], bytes],
        contexts: np.ndarray,
        *,
        horizon: int,
        quantile_levels: tuple[float, ...],
    ) -> np.ndarray:
        """contexts float64 [B, L] -> quantiles float64 [B, H, Q]; `load` reads the artifact if the version is not here.

        Raises what Forecaster.predict raises, and ArtifactCorrupt.
        """

        def run() -> np.ndarray:
            forecaster = self._get(version_id, load)
            return forecaster.predict(contexts, quantile_levels, horizon)

        FORECAST_SERIES.observe(len(contexts))
        with FORECAST_SECONDS.time():
            return self._thread.submit(run).result()

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _get(self, version_id: int, load: Callable[[], bytes]) -> "Forecaster":
        if version_id in self._loaded:
            CACHE_HITS.inc()
            self._loaded.move_to_end(version_id)
            return self._loaded[version_id][0]
        CACHE_MISSES.inc()
        # Here, not above: a process that has not forecast anything yet stays without torch.
        from app.lstm import Forecaster
        from app.lstm.device import use_threads

        use_threads(1)
        artifact = load()
        forecaster, size = Forecaster.from_bytes(artifact), len(artifact) * LOADED_OVER_STORED
        while self._loaded and self._bytes + size > self._max_bytes:
            _, (_, freed) = self._loaded.popitem(last=False)
            self._bytes -= freed
        self._loaded[version_id] = forecaster, size
        self._bytes += size
        CACHE_BYTES.set(self._bytes)
        return forecaster
