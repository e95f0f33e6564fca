"""How many event streams this process holds for each workspace: each looks at the database twice a second for as long as it lasts."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import TooManyStreams

RETRY_SECONDS = 10


class Streams:
    """One per process; used on the event loop only."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: Counter[int] = Counter()

    @contextmanager
    def hold(self, workspace_id: int) -> Iterator[None]:
        """One stream more for as long as the context lasts. Raises TooManyStreams."""
        if self._held[workspace_id] >= self._limit:
            raise TooManyStreams(
                f"the workspace follows {self._limit} event streams here already (ENGRAM_MAX_STREAMS); close one, or ask for the training itself",
                limit=self._limit,
                retry_after=RETRY_SECONDS,
            )
        self._held[workspace_id] += 1
        try:
            yield
        finally:
            self._held[workspace_id] -= 1
            if not self._held[workspace_id]:
                del self._held[workspace_id]
