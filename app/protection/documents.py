"""How large and how deep a JSON body may be: as Python objects it takes many times its bytes, and a parser goes as deep as it."""

import re

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import BodyTooLarge, JsonTooDeep
from app.middleware import read_headers, replay
from app.settings import Settings

IS_JSON = re.compile(r"\s*application/([\w.+-]+\+)?(x-nd)?json\s*(;.*)?", re.IGNORECASE)
STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
THREAD_FROM_BYTES = 65_536
MEASURED_BYTES = 2**20
"""Of observations only so much is looked at: their own reader goes no deeper than 1024, and tells no more than twenty places."""
MAX_KEYS = 20_000
"""Of all objects in another body together: a list of a thousand contexts has a few thousand. Each that is not known becomes a place in
the answer, and takes a kilobyte until it does."""


class Documents:
    """Refuses JSON that is too large or too deep, before anything parses it. Stands behind what reads the body as one message."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.max_bytes = settings.max_json_bytes
        self.max_depth = settings.max_json_depth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not IS_JSON.fullmatch(read_headers(scope).get("content-type", "")):
            await self.app(scope, receive, send)
            return
        message = await receive()
        body: bytes = message.get("body", b"")
        if len(body) > self.max_bytes:
            raise BodyTooLarge(
                f"a JSON body may have at most {self.max_bytes} bytes, found {len(body)}; send it in parts, or observations as CSV, Parquet or "
                "Arrow, or raise ENGRAM_MAX_JSON_BYTES",
                max_bytes=self.max_bytes,
            )
        are_observations = scope["path"].endswith("/observations")
        head = body[:MEASURED_BYTES] if are_observations else body
        depth, keys = await self._measure(head)
        if keys > MAX_KEYS and not are_observations:
            raise BodyTooLarge(
                f"a JSON body may have at most {MAX_KEYS} keys here, found {keys}", max_keys=MAX_KEYS, found=keys
            )
        if depth > self.max_depth:
            raise JsonTooDeep(
                f"a JSON body may be nested {self.max_depth} levels deep (ENGRAM_MAX_JSON_DEPTH), found {depth}",
                max_depth=self.max_depth,
                found=depth,
            )
        await self.app(scope, replay(message, receive), send)

    async def _measure(self, head: bytes) -> tuple[int, int]:
        if len(head) >= THREAD_FROM_BYTES:
            return await run_in_threadpool(measure, head, self.max_depth)
        return measure(head, self.max_depth)


def measure(body: bytes, max_depth: int) -> tuple[int, int]:
    """(how many brackets are open at most, how many keys there are), those within strings aside; of what is no JSON, about. Of what
    has so few brackets and colons that it cannot be too much, only how many."""
    brackets, colons = body.count(b"[") + body.count(b"{"), body.count(b":")
    if brackets <= max_depth and colons <= MAX_KEYS:
        return brackets, colons
    plain = STRINGS.sub(b"", body)
    codes = np.frombuffer(plain, np.uint8)
    opens = np.isin(codes, np.frombuffer(b"[{", np.uint8)).astype(np.int32)
    closes = np.isin(codes, np.frombuffer(b"]}", np.uint8)).astype(np.int32)
    return int((opens - closes).cumsum().max(initial=0)), plain.count(b":")
