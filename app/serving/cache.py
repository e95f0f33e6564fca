"""What an API process keeps so as not to make it again; the least recently used goes when memory is needed."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Generic, TypeVar

from app.telemetry import CACHE_BYTES, CACHE_HITS, CACHE_MISSES

if TYPE_CHECKING:
    from app.lstm import Forecaster

LOADED_OVER_STORED = 3
"""A loaded forecaster takes about this many times its artifact's bytes: its tensors, their copies side by side, their modules."""
USED_SECONDS = 600.0
"""How long after its last forecast a model's next version is still loaded before anybody asks for it."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """Values by key, of at most so many bytes together. For one thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.bytes = 0

    def find(self, key: K) -> V | None:
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, size: int) -> None:
        """In the place of what the key had. A value that is larger than all of the memory is not kept."""
        self.drop(key)
        if size > self._max_bytes:
            return
        while self._kept and self.bytes + size > self._max_bytes:
            self.drop(next(iter(self._kept)))
        self._kept[key] = value, size
        self.bytes += size

    def drop(self, key: K) -> None:
        if key in self._kept:
            self.bytes -= self._kept.pop(key)[1]


class Forecasters:
    """Loaded forecasters by version id: immutable, so never stale. For the one thread that predicts: torch and the routes' threads
    do not meet."""

    def __init__(self, max_bytes: int) -> None:
        self._loaded: Kept[int, Forecaster] = Kept(max_bytes)
        self._used: OrderedDict[int, tuple[float, int]] = OrderedDict()
        CACHE_BYTES.set(0)  # the process before this one may have left its own

    def get(self, version_id: int, load: Callable[[], bytes]) -> "Forecaster":
        """`load` reads the artifact if the version is not here. Raises ArtifactCorrupt."""
        found = self._loaded.find(version_id)
        if found is not None:
            CACHE_HITS.inc()
            return found
        CACHE_MISSES.inc()
        # Here, not above: a process that has not forecast anything yet stays small.
        from app.lstm import Forecaster

        artifact = load()
        forecaster = Forecaster.from_bytes(artifact)
        self._loaded.put(version_id, forecaster, len(artifact) * LOADED_OVER_STORED)
        CACHE_BYTES.set(self._loaded.bytes)
        return forecaster

    def holds(self, version_id: int) -> bool:
        return self._loaded.find(version_id) is not None

    def note_use(self, model_id: int, version_id: int) -> None:
        """That the model was just forecast with, and by which version."""
        self._used[model_id] = time.monotonic(), version_id
        self._used.move_to_end(model_id)

    def list_used(self) -> dict[int, int]:
        """The models that were forecast with lately, whose next version is worth loading, and the version of each that was used or
        loaded last: of more models than fit in here none is loaded again only because it was dropped."""
        oldest = time.monotonic() - USED_SECONDS
        while self._used and next(iter(self._used.values()))[0] < oldest:
            self._used.popitem(last=False)
        return {model_id: version_id for model_id, (_, version_id) in self._used.items()}

    def note_version(self, model_id: int, version_id: int) -> None:
        """That this version of a model was loaded before anybody asked for it."""
        if model_id in self._used:
            self._used[model_id] = self._used[model_id][0], version_id
