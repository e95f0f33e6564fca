"""What a request wants and what it gets, between the loop, which holds the connections, and the one thread that predicts."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from app import __version__
from app.errors import Place
from app.serving.schemas import ForecastInput
from app.serving.service import Forecasts

Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer, and by what it was made: while that stands, it is what would be made again.

    `stamp` is the database's (app/database.py) before that was looked at. `content` is bytes, or what another `write` made.
    """

    content: Any
    next_cursor: str | None
    made_by: Key
    etag: str
    stamp: int | None


@dataclass(slots=True)
class Wanted:
    """A request on its way. `key` is what its answer may be kept by, None for one that is not worth it."""

    workspace_id: int
    model: str
    body: ForecastInput
    cutoff_place: Place
    write: Callable[[Forecasts, str | None], Any]
    after: str | None = None
    limit: int = 100
    to_cursor: Callable[[list[str]], str | None] = lambda _: None
    key: Key | None = None
    stamp: int | None = None
    kept: Answer | None = None
    future: "asyncio.Future[Answer]" = field(init=False)

    @property
    def series(self) -> int:
        """How many are asked for; 0 for a page of a dataset, of which it is not known yet."""
        return len(self.body.context or self.body.series or ())

    def finish(self, content: Any, next_cursor: str | None, made_by: Key) -> Answer:
        return Answer(content, next_cursor, made_by, make_etag(self.key, made_by), self.stamp)


def make_etag(key: Key | None, made_by: Key) -> str:
    """Weak: two processes may round the last digit differently, and mean the same. Empty for an answer that nothing kept names."""
    if key is None:
        return ""
    return f'W/"{blake2b(repr((__version__, key, made_by)).encode(), digest_size=12).hexdigest()}"'
